"""Deep Advantage Updating (C. Tallec 2019, chapter 8)."""
