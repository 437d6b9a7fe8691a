"""Learning rules on differentiable games, and head-to-head comparisons of learners."""
