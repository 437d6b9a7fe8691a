"""Flow networks: losses, objectives, trajectories, exact solutions, what was sampled."""
