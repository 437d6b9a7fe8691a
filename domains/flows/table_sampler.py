"""`trajectories.forward` in numpy around the network, for tables on the CPU.

One step of a small batch is a few dozen operations on a few kilobytes. There a call of torch costs
more than what it computes. Matrix products stay with torch: numpy's would start threads of their
own. The draws are the same, so both give the same constructions but for rounding.

What the network's layers say of each state is kept: who learns from the batch before the network
changes needs no forward pass of its own (`nets.recalled`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.domains.flows.trajectories import Trajectories
from semigradient.envs.constructions.construction import Table
from semigradient.nets.flow_network import FlowNetwork
from semigradient.nets.recalled import can_recall, in_place, pairs

_NEAR = 1000  # states that are asked about before the first step, at most


class Known(NamedTuple):
    """What a network says about all states of a batch, and perhaps some more."""

    states: Tensor  # (u,) each once, with some near the root that were not met
    values: list[Tensor]  # (u, width) of each of its trunk's `nets.recalled.pairs`
    has_parents: bool  # whether all parents of the batch's states are there, too


class Built(NamedTuple):
    """New trajectories, and what the network says at their states if that was kept."""

    paths: Trajectories
    known: Known | None


class TableSampler:
    """Builds objects of a table with the policy of a network."""

    def __init__(self, table: Table, network: FlowNetwork) -> None:
        states = torch.arange(table.size)
        legal = table.legal(states)
        self.features = table.features(states).numpy()
        # The parameters are shared: what an optimizer does to them counts at once.
        self.layers = [
            (layer.weight.detach().t(), layer.bias.detach(), then and in_place(then))
            for layer, then in pairs(network.trunk)
        ]
        self.can_recall = can_recall(network.trunk)
        everything = (states[:, None], torch.arange(table.actions)[None])
        child = table.child(*(each.expand(legal.shape).flatten() for each in everything))
        self.near = _near(child.view(legal.shape).numpy(), table.root)
        # What is complete, or cannot be reached, stops and stays.
        child.view(legal.shape)[:, -1] = states
        legal[:, -1] |= ~legal.any(1)
        self.child, self.finished = child.numpy(), table.finished(states).numpy()
        self.legal = legal.t().contiguous().numpy()
        self.penalty = np.where(self.legal, np.float32(0), np.float32(-1e30))
        into = table.parents(states)
        self.parents = torch.where(into.real, into.state, table.root).numpy()
        self.root, self.stop, self.horizon = table.root, table.actions - 1, table.horizon

    @torch.no_grad()
    def forward(
        self, draws: Tensor, sharpness: float, random: float, and_parents: bool = False
    ) -> Built:
        """Objects (B,) of draws (horizon, B) in [0, 1); see `agents.gflownet.batches.behaviour`.

        `and_parents` asks the network about all parents, too, of the states of the batch.
        """
        count = draws.shape[1]
        met = _Met(self, count, sharpness, random, and_parents)
        # Near the root nearly all states will be met: they are asked about at once.
        met.rows(max((each for each in self.near if len(each) <= count), key=len))
        paths = self._walk(draws, met)
        if and_parents:
            met.ask_parents()
        return Built(paths, met.known() if self.can_recall else None)

    @torch.no_grad()
    def forward_knowing(
        self, logits: Tensor, draws: Tensor, sharpness: float, random: float
    ) -> Built:
        """The same where the logits (S, A) of all states are known."""
        everything = np.arange(len(self.features))
        sums = self.sums(logits.numpy().T, everything, sharpness, random)
        return Built(self._walk(draws, _All(sums)), None)

    def sums(
        self,
        logits: NDArray[np.float32],
        states: NDArray[np.int64],
        sharpness: float,
        random: float,
    ) -> NDArray[np.float64]:
        """Running sums (A-1, m) of probabilities, from logits (A, m) of states (m,).

        Few rows of many numbers are what numpy is fast with.
        """
        if sharpness != 1:
            logits = logits * np.float32(sharpness)
        logits = np.add(logits, self.penalty.take(states, 1), order="C")
        logits -= logits.max(0)
        weights = np.exp(logits, out=logits)
        if random > 0:
            legal = self.legal.take(states, 1)
            weights /= weights.sum(0)
            weights = (1 - random) * weights + random * legal / legal.sum(0)
        # In double precision a draw below 1 does not reach the sum of all legal actions.
        sums = weights.cumsum(0, dtype=np.float64)
        return sums[:-1] / sums[-1]

    def _walk(self, draws: Tensor, met: _Met | _All) -> Trajectories:
        drawn, count = draws.numpy(), draws.shape[1]
        now = np.full(count, self.root)
        states = np.empty((self.horizon + 1, count), np.int64)
        actions = np.empty((self.horizon, count), np.int64)
        ended = np.zeros((self.horizon + 1, count), bool)
        states[0], step = now, 0
        while not ended[step].all():
            # What has ended draws 1, and stops.
            draw = np.maximum(drawn[step], ended[step])
            taken = (met.sums.take(met.rows(now), 1) <= draw).sum(0)
            now = self.child.take(now * (self.stop + 1) + taken)
            states[step + 1], actions[step] = now, taken
            step += 1
            ended[step] = (taken == self.stop) | self.finished.take(now)
        met.rows(now)  # some may have been met last
        found = (states[: step + 1], actions[:step], (~ended[:step]).sum(0))
        return Trajectories(*(torch.from_numpy(each) for each in found))


class _All:
    """All states, about which everything is known: `_Met` without asking.

    Attributes:
        sums: (A-1, S).
    """

    def __init__(self, sums: NDArray[np.float64]) -> None:
        self.sums = sums

    def rows(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where states stand."""
        return states


class _Met:
    """The states that a batch has asked about so far, each once.

    Attributes:
        sums: (A-1, room) float64, running sums of the probabilities of all actions but stop.
    """

    def __init__(
        self, rules: TableSampler, count: int, sharpness: float, random: float, and_parents: bool
    ) -> None:
        self.rules, self.sharpness, self.random = rules, sharpness, random
        each = 1 + rules.parents.shape[1] if and_parents else 1
        room = min(len(rules.features), count * (rules.horizon + 1) * each)
        self.states, self.count, self.has_parents = np.empty(room, np.int64), 0, False
        self.row_of = np.full(len(rules.features), -1)
        self.values = [torch.empty(room, len(bias)) for _, bias, _ in rules.layers]
        self.outputs = self.values[-1].numpy().T
        self.sums = np.empty((rules.stop, room))

    def rows(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where states (m,) stand."""
        begin = self.ask(states)
        if self.count > begin:
            logits = self.outputs[: self.rules.stop + 1, begin : self.count]
            met = self.states[begin : self.count]
            sums = self.rules.sums(logits, met, self.sharpness, self.random)
            self.sums[:, begin : self.count] = sums
        return self.row_of.take(states)

    def ask(self, states: NDArray[np.int64]) -> int:
        """Ask about states (m,), without sums; how many were known before."""
        new = states[self.row_of.take(states) < 0]
        if len(new) == 0:
            return self.count
        # Of equal ones the last is written last, and stays.
        order = np.arange(len(new))
        self.row_of[new] = order
        once = new[self.row_of.take(new) == order]
        begin, end = self.count, self.count + len(once)
        self.row_of[once] = np.arange(begin, end)
        self.states[begin:end], self.count = once, end
        self._fill(once, begin, end)
        return begin

    def ask_parents(self) -> None:
        """Ask about all parents of what was met."""
        self.ask(self.rules.parents.take(self.states[: self.count], 0).ravel())
        self.has_parents = True

    def known(self) -> Known:
        """All of it."""
        states = torch.from_numpy(self.states[: self.count])
        return Known(states, [each[: self.count] for each in self.values], self.has_parents)

    def _fill(self, states: NDArray[np.int64], begin: int, end: int) -> None:
        """Fill `values` from `begin` to `end` with what the layers say of states (m,)."""
        x = torch.from_numpy(self.rules.features.take(states, 0))
        for (weight, bias, then), value in zip(self.rules.layers, self.values, strict=True):
            x = torch.addmm(bias, x, weight, out=value[begin:end])
            if then is not None:
                then(x)


def _near(child: NDArray[np.int64], root: int) -> list[NDArray[np.int64]]:
    """The states within 0, 1, … edges of the root, as long as those are few."""
    found = [np.array([root])]
    while True:
        ahead = child[found[-1]]
        reached = np.union1d(found[-1], ahead[ahead >= 0])
        if len(reached) > _NEAR or len(reached) == len(found[-1]):
            return found
        found.append(reached)
