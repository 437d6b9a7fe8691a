"""Gradient estimators that are not optimizers, and exact values as their reference.

`dice` differentiates expectations to any order, `surrogate` to the first only, `self_play` shares
rewards, and `recurrent` has the gradients of recurrent networks while they run.
"""
