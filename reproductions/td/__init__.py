"""Interference, staleness and corrected momentum (E. Bengio 2022, chapters 3 and 4)."""
