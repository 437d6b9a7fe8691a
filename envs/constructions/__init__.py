"""Objects built step by step: the protocol, the environment, hyper-grids, active learning."""
