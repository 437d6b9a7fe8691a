"""Figures and tables about recurrent networks."""
