"""Networks whose layers are used in odd ways, and minibatches for them."""

from __future__ import annotations

import torch
from torch import nn

from semigradient.optim.temporal_difference import TemporalDifference

M = 5


def action_value(call, sample):
    return call(sample["s"]).gather(0, sample["a"])


def next_value(call, sample):
    return call(sample["s2"]).max()


class Tied(nn.Module):
    """A weight used twice, once behind its layer's back; a layer used twice; one not used."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(18, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.idle, self.norm = nn.Linear(6, 2), nn.LayerNorm(6)

    def forward(self, x):
        h = self.norm(torch.tanh(self.first(x.flatten(1)[:, :18])))
        h = self.twice(torch.tanh(self.twice(h)))
        return self.last(h + nn.functional.linear(h, self.last.weight.T @ self.last.weight))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, padding="valid"), nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, (1, 3), padding="same", dilation=(1, 2), bias=False), nn.Tanh(),
        nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1, groups=2), nn.Flatten(),
        nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip


def sequence():
    """Several positions per sample: the layer's sum runs over them."""
    layers = nn.Linear(8, 4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
    return nn.Sequential(nn.Flatten(1, 2), *layers)


NETWORKS = {"convolutions": convolutions, "tied": Tied, "sequence": sequence}


def minibatch(network, kind, **options):
    torch.manual_seed(0)
    net = NETWORKS[network]().double() if isinstance(network, str) else network
    s, s2, s3 = torch.randn(3, M, 2, 8, 8).double()
    a, a2 = torch.randint(3, (2, M))
    discount = 0.9 * torch.tensor([1.0, 1, 0, 1, 1]).double()
    samples = {"s": s, "a": a}
    if kind == "function":
        options |= {"bootstrap": next_value, "discount": discount}
        samples["s2"] = s2
    elif kind == "samples":
        options |= {"bootstrap": {"s": s2, "a": a2}, "discount": discount}
    elif kind == "several":
        later = {"s": torch.stack([s2, s3], 1), "a": torch.stack([a2, a], 1)}
        options |= {"bootstrap": later, "discount": torch.stack([discount, discount / 3], 1)}
    return TemporalDifference(net, samples, action_value, **options)
