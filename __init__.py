"""Reinforcement learning where learning itself is the subject.

Importing this package registers every environment (`semigradient/…`) with Gymnasium, and loads
nothing heavy.
"""

from semigradient import envs as envs
from semigradient import families

families.register()
