"""Likelihoods and samplers of scores, and their pictures and files."""
