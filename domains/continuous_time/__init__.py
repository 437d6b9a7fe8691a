"""Learning in physical time, and portraits of what was learned."""
