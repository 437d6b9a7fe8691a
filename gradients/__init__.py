"""Gradient estimators that are not optimizers, and exact values as their reference.

`dice` differentiates expectations to any order, `surrogate` to the first only, `self_play` shares
rewards, and `repeated` has the repeated 2×2 games with sampled and exact values.
"""
