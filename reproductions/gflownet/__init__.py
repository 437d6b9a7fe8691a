"""Flow networks on hyper-grids and in theory (E. Bengio 2022, chapter 5)."""
