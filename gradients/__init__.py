"""Gradient estimators that are not optimizers, and exact paths to hold them against.

`dice` differentiates expectations to any order, `surrogate` to the first only, `self_play` shares
rewards, and `repeated` has the repeated 2×2 games on which sampled and exact values meet.
"""
