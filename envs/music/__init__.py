"""Chorales: data, files, rules of harmony, and writing them as an environment."""
