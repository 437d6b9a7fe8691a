"""Learning rules on differentiable games, and what pairs of learners do to each other."""
