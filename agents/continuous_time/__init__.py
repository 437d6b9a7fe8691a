"""Agents that keep working as the time step goes to zero, and their baseline."""
