"""Per-sample gradients by one autograd call each."""

from __future__ import annotations

import torch
from torch import nn


def value(call, sample):
    return call(sample["s"]).squeeze(-1)


def mlp(inputs=5, outputs=1, hidden=7):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def loop_rows(module, scalars):
    """One autograd call per sample: parameter name -> (m, *shape)."""
    names, params = zip(*module.named_parameters(), strict=True)
    rows = [torch.autograd.grad(scalar, params, retain_graph=True) for scalar in scalars]
    return {n: torch.stack(r) for n, r in zip(names, zip(*rows, strict=True), strict=True)}
