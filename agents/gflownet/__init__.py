"""Generative flow networks, and the samplers and searchers that are set beside them."""
