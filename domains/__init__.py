"""The mathematics of each family, between its environments and its agents."""
