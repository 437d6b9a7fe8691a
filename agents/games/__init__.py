"""Learners that play against learners: shaping, look-ahead, meta-values, best responses."""
