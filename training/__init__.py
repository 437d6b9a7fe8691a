"""What every agent shares: the run folder, the loop, replay, rollouts, returns, statistics."""
