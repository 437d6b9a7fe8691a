"""Milliseconds of one learning step of DQN on images with each optimizer, relative to Adam.

    python -m semigradient.benchmarks.optimizers --rounds 15 --batch 32

One step is that of a training run: bootstrap, forward, backward, and the optimizer (observing the
minibatch and stepping; TD-aware optimizers compute the gradient in the same pass). All optimizers
take turns, one step each, in one process on the same network (Mnih et al. 2015, 1.7 million
parameters) and data, so that other load on the machine affects all of them. Reported are medians
over rounds, the ratio to Adam's entire step of the same round (median and quartiles), the time of
the optimizer alone, and the size of its state in multiples of the parameters.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient import optim
from semigradient.nets.q_network import QNetwork
from semigradient.optim.temporal_difference import (
    DifferentiatesTemporalDifference,
    Samples,
    TemporalDifference,
    wants_temporal_difference,
)
from semigradient.training import process

ACTIONS = 6
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("adam", {}),
    "momentum": ("momentum", {}),
    "diagonal": ("corrected-momentum", {"correction": "diagonal"}),
    "diagonal, adam": ("corrected-adam", {}),
    "kronecker": ("corrected-momentum", {"correction": "kronecker"}),
    "low-rank": ("corrected-momentum", {"correction": "low-rank", "window": 5}),
}


def q_value(call: Callable[..., Tensor], sample: Samples) -> Tensor:
    """The value of the action taken."""
    return call(sample["obs"]).gather(0, sample["action"])


class TimedLearner:
    """A network and everything that one step needs."""

    def __init__(self, name: str, options: dict[str, Any], batch: int, device: str) -> None:
        torch.manual_seed(0)
        observation = spaces.Box(0, 255, (4, 84, 84), np.uint8)
        self.network = QNetwork(observation, ACTIONS, (512,), "relu", False).to(device)
        make: Any = optim.config_class(name)
        config = make(lr=1e-5, **options)
        self.optimizer = optim.make(config, self.network.parameters())
        size = (2, batch, 4, 84, 84)
        self.obs, self.next_obs = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
        self.action = torch.randint(ACTIONS, (batch,), device=device)
        self.discount = torch.full((batch,), 0.99, device=device)

    def gradient(self) -> Tensor:
        """Bootstrap and, where the optimizer does not do it, forward and backward; returns the
        greedy next actions.
        """
        with torch.no_grad():
            next_value, greedy = self.network(self.next_obs).max(1)
        self.optimizer.zero_grad()
        if not isinstance(self.optimizer, DifferentiatesTemporalDifference):
            value = self.network(self.obs).gather(1, self.action[:, None])[:, 0]
            (0.5 * (value - self.discount * next_value) ** 2).mean().backward()
        return greedy

    def step(self, greedy: Tensor) -> None:
        """The optimizer's part."""
        if isinstance(self.optimizer, DifferentiatesTemporalDifference):
            self.optimizer.backward(self.temporal_difference(greedy))
        elif wants_temporal_difference(self.optimizer):
            self.optimizer.observe(self.temporal_difference(greedy))
        self.optimizer.step()

    def temporal_difference(self, greedy: Tensor) -> TemporalDifference:
        """The minibatch."""
        return TemporalDifference(
            self.network,
            {"obs": self.obs, "action": self.action},
            q_value,
            {"obs": self.next_obs, "action": greedy},
            self.discount,
            target=torch.zeros_like(self.discount),
        )

    def kept(self) -> int:
        """Size of the optimizer's state."""
        states = self.optimizer.state.values()
        return sum(v.numel() for state in states for v in state.values() if torch.is_tensor(v))


@dataclass
class Times:
    """Seconds of each round."""

    total: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)


def clock(device: str) -> float:
    """The time after synchronising the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(learners: dict[str, TimedLearner], rounds: int, device: str) -> dict[str, Times]:
    """Run all learners in turns; the first two rounds are a warm-up."""
    times = {name: Times() for name in learners}
    for index in range(rounds + 2):
        for name, learner in learners.items():
            begin = clock(device)
            greedy = learner.gradient()
            middle = clock(device)
            learner.step(greedy)
            end = clock(device)
            if index >= 2:
                times[name].total.append(end - begin)
                times[name].own.append(end - middle)
    return times


def rows(times: dict[str, Times], learners: dict[str, TimedLearner]) -> list[dict[str, Any]]:
    """One row per optimizer, in milliseconds and ratios to Adam."""
    result = []
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds.total, times["adam"].total, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        parameters = sum(p.numel() for p in learners[name].network.parameters())
        result.append(
            {
                "optimizer": name,
                "step_ms": 1e3 * statistics.median(seconds.total),
                "optimizer_ms": 1e3 * statistics.median(seconds.own),
                "ratio": middle,
                "quartiles": (low, high),
                "kept_per_parameter": learners[name].kept() / parameters,
            }
        )
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds")
    parser.add_argument("--batch", type=int, default=32, help="transitions per minibatch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args(arguments)
    process.prepare(options.threads)
    cases = dict.fromkeys(["adam", *options.cases])
    learners = {c: TimedLearner(*CASES[c], options.batch, options.device) for c in cases}
    table = rows(measure(learners, options.rounds, options.device), learners)
    if options.json:
        print(json.dumps(table))
        return
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, "
        f"{options.device}, {options.threads} threads, batch {options.batch}, "
        f"{options.rounds} rounds"
    )
    print(f"{'optimizer':16}{'step ms':>9}{'own ms':>9}{'× Adam':>8}   quartiles   kept / n")
    for row in table:
        low, high = row["quartiles"]
        print(
            f"{row['optimizer']:16}{row['step_ms']:9.1f}{row['optimizer_ms']:9.1f}"
            f"{row['ratio']:8.2f}   {low:.2f}–{high:.2f}   {row['kept_per_parameter']:.2f}"
        )


if __name__ == "__main__":
    main()
