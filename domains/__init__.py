"""The mathematics of one family each, between its environments and its agents."""
