"""Searching for molecules and sampling them (E. Bengio 2022, chapter 5)."""
