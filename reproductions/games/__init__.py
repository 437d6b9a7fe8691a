"""Learning with learners (T. Cooijmans 2024, chapters 5 and 6; DiCE)."""
