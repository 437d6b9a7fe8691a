"""Flow networks: losses, objectives, trajectories, exact solutions, counts of samples."""
