"""Measurements of speed, beside a named peer and in one run."""
