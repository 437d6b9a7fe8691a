"""stable-baselines3's agents under this toolkit's commands."""
