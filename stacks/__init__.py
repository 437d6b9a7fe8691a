"""Seeds as a batch: K runs of one configuration, learning as one stacked learner.

Small networks are bound by the number of operations, not by their size, so that ten seeds as one
batched product per layer cost little more than one. Every run keeps what makes it a run: its
weights, environments, generators, memory, statistics and folder. docs/stacks.md.
"""
