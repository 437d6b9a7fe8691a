"""Coconet and writing chorales (T. Cooijmans 2024, chapter 3)."""
