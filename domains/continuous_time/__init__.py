"""Learning in physical time, and phase portraits of agents."""
