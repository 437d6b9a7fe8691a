"""`trajectories.forward` in numpy around the network, for tables on the CPU.

One step of a small batch is a few dozen operations on a few kilobytes. There a call of torch costs
more than what it computes. Matrix products stay with torch: numpy's would start threads of their
own. The draws are the same, so both give the same constructions but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from envs.construction import Table
from nets.flow_network import FlowNetwork
from training.trajectories import Trajectories

_MANY = 64  # constructions from which on it pays to find out where they have met


class TableSampler:
    """Builds objects of a table with the policy of a network."""

    def __init__(self, table: Table, network: FlowNetwork) -> None:
        states = torch.arange(table.size)
        legal = table.legal(states)
        self.features = table.features(states).numpy()
        self.layers = [_plain(module) for module in network.trunk]
        self.legal = legal.numpy()
        self.penalty = np.where(self.legal, np.float32(0), np.float32(-1e30))
        everything = (states[:, None], torch.arange(table.actions)[None])
        child = table.child(*(each.expand(legal.shape).flatten() for each in everything))
        self.child = child.numpy()
        self.finished = table.finished(states).numpy()
        self.root, self.stop, self.horizon = table.root, table.actions - 1, table.horizon

    def forward(self, draws: Tensor, sharpness: float, random: float) -> Trajectories:
        """Objects (B,) of draws (horizon, B) in [0, 1); see `agents.gflownet_batches.behaviour`."""
        drawn = draws.numpy()
        count = drawn.shape[1]
        alive = np.arange(count)
        now = np.full(count, self.root)
        states = np.empty((self.horizon + 1, count), np.int64)
        actions = np.full((self.horizon, count), self.stop)
        length = np.zeros(count, np.int64)
        states[0], step = now, 0
        while len(alive):
            sums = self._sums(now, sharpness, random)
            # In double precision, where no draw below 1 reaches the last sum.
            taken = (sums <= drawn[step, alive, None] * sums[:, -1:]).sum(1)
            now = self.child[now * (self.stop + 1) + taken]
            states[step + 1] = states[step]
            states[step + 1, alive], actions[step, alive] = now, taken
            step += 1
            going = (taken != self.stop) & ~self.finished[now]
            if not going.all():
                length[alive[~going]] = step
                alive, now = alive[going], now[going]
        found = (states[: step + 1], actions[:step], length)
        return Trajectories(*(torch.from_numpy(each) for each in found))

    def _sums(
        self, states: NDArray[np.int64], sharpness: float, random: float
    ) -> NDArray[np.float64]:
        """Running sums (m, A) float64 of the probabilities of actions, not normalised."""
        if len(states) >= _MANY:
            states, inverse = np.unique(states, return_inverse=True)
            return self._sums_once(states, sharpness, random)[inverse]
        return self._sums_once(states, sharpness, random)

    def _sums_once(
        self, states: NDArray[np.int64], sharpness: float, random: float
    ) -> NDArray[np.float64]:
        x = torch.from_numpy(self.features.take(states, 0))
        for layer in self.layers:
            x = layer(x)
        logits = x.numpy()[:, : self.stop + 1]
        if sharpness != 1:
            logits = logits * np.float32(sharpness)
        logits = logits + self.penalty.take(states, 0)
        logits -= logits.max(1, keepdims=True)
        weights = np.exp(logits, out=logits)
        if random > 0:
            legal = self.legal[states]
            weights = weights / weights.sum(1, keepdims=True)
            weights = (1 - random) * weights + random * legal / legal.sum(1, keepdims=True)
        return weights.cumsum(1, dtype=np.float64)


def _plain(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A layer as a function of tensors, without gradients and without a module's overhead.

    It shares the module's parameters: what an optimizer does to them counts at once.
    """
    if isinstance(module, nn.Linear):
        weight, bias = module.weight.detach().t(), module.bias.detach()
        return lambda x: torch.addmm(bias, x, weight)
    if isinstance(module, nn.LeakyReLU):
        return partial(F.leaky_relu_, negative_slope=module.negative_slope)
    return module
