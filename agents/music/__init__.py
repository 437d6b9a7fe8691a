"""Models and samplers of four-part music as agents."""
