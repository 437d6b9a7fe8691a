"""Share of momentum's staleness that each form of the correction removes.

    python -m semigradient.benchmarks.momentum_staleness --seeds 10  # on Mountain Car
    python -m semigradient.benchmarks.momentum_staleness --images    # images, windowed oracle

All forms observe the same run of plain momentum, so that they see the same minibatches and the
same displacements: mu - eta of each is compared with the recomputed mu* at the parameters of that
run. Reported is the mean distance |mu - eta - mu*| in units of plain
momentum's |mu - mu*|: 0 removes all staleness, 1 none, more than 1 adds to it; mean and 95 %
bootstrap interval over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.nets.q_network import QNetwork
from semigradient.optim.batched import semi_gradient
from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.forms import Block, Diagonal, Form, Full, Kronecker, Layer, LowRank
from semigradient.optim.oracle_momentum import OracleMomentum
from semigradient.optim.temporal_difference import Samples, TemporalDifference
from semigradient.training.summary import bootstrap_interval

FORMS: dict[str, Form] = {
    "diagonal": Diagonal(),
    "block 16": Block(16),
    "layer": Layer(),
    "kronecker": Kronecker(),
    "low-rank": LowRank(),
    "full": Full(),
}
LARGE = ("diagonal", "kronecker", "low-rank")


@dataclass(frozen=True)
class Task:
    """A network, its minibatches and the learning rate of the run."""

    network: nn.Module
    batches: Iterator[TemporalDifference]
    lr: float


def value(call: Callable[..., Tensor], sample: Samples) -> Tensor:
    """V(s)."""
    return call(sample["s"]).squeeze(-1)


def mountain_car(generator: torch.Generator, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform states, the next states under "push where you go", and whether those are nonterminal.

    Both states are scaled to [-1, 1]. E. Bengio, PhD thesis, sec. 4.3.1 and 4.3.3 (rewards -0.1).
    """
    position = torch.rand(m, generator=generator) * 1.8 - 1.2
    velocity = torch.rand(m, generator=generator) * 0.14 - 0.07
    push = torch.where(velocity < 0, -1.0, 1.0)
    faster = (velocity + 0.001 * push - 0.0025 * torch.cos(3 * position)).clamp(-0.07, 0.07)
    moved = (position + faster).clamp(-1.2, 0.6)
    faster = torch.where((moved <= -1.2) & (faster < 0), 0.0, faster)
    states = [
        torch.stack([(x + 0.3) / 0.9, v / 0.07], 1)
        for x, v in ((position, velocity), (moved, faster))
    ]
    return states[0], states[1], ~((moved >= 0.5) & (faster >= 0))


class RadialFeatures(nn.Module):
    """Fixed Gaussian bumps on a grid of [-1, 1]^2, as wide as the grid's spacing."""

    centres: Tensor

    def __init__(self, grid: int) -> None:
        super().__init__()
        axis = torch.linspace(-1, 1, grid)
        self.register_buffer("centres", torch.cartesian_prod(axis, axis))
        self.width = 2 / grid

    def forward(self, states: Tensor) -> Tensor:
        """(B, 2) → (B, grid²)."""
        return torch.exp(-(((states[:, None] - self.centres) / self.width) ** 2).sum(-1))


def evaluation(kind: str, seed: int, m: int = 16, gamma: float = 0.95) -> Task:
    """Policy evaluation on Mountain Car with fixed features or a network of two hidden layers."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    if kind == "features":
        network = nn.Sequential(RadialFeatures(8), nn.Linear(64, 1))
    else:
        act = nn.Tanh if kind == "tanh" else nn.LeakyReLU
        hidden = [nn.Linear(2, 16), act(), nn.Linear(16, 16), act()]
        network = nn.Sequential(*hidden, nn.Linear(16, 1))

    def batches() -> Iterator[TemporalDifference]:
        while True:
            s, s2, on = mountain_car(generator, m)
            reward = torch.full((m,), -0.1).double()
            discount = gamma * on.double()
            yield TemporalDifference(
                network, {"s": s.double()}, value, {"s": s2.double()}, discount, target=reward
            )

    return Task(network.double(), batches(), 0.1)


def q_value(call: Callable[..., Tensor], sample: Samples) -> Tensor:
    """Q(s, a)."""
    return call(sample["s"]).gather(0, sample["a"])


def images(seed: int, m: int = 8, stored: int = 256) -> Task:
    """Q-learning from stored transitions of moving random blobs with DQN's network."""
    torch.manual_seed(seed)
    observation = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    network = QNetwork(observation, 6, (512,), "relu", False)
    coarse = torch.rand(stored + 1, 4, 12, 12)
    frames = (nn.functional.interpolate(coarse, size=(84, 84)) * 255).to(torch.uint8)
    action, reward = torch.randint(6, (stored,)), torch.randn(stored).sign()

    def batches() -> Iterator[TemporalDifference]:
        while True:
            i = torch.randint(stored, (m,))
            later = frames[i + 1]
            with torch.no_grad():
                greedy = network(later).argmax(1)
            discount = torch.full((m,), 0.99)
            samples, following = {"s": frames[i], "a": action[i]}, {"s": later, "a": greedy}
            yield TemporalDifference(
                network, samples, q_value, following, discount, target=reward[i]
            )

    return Task(network, batches(), 0.01)


def distances(
    task: Task, forms: list[str], steps: int, beta: float, windowed: bool
) -> dict[str, float]:
    """Run plain momentum; return each form's |mu - eta - mu*| relative to plain momentum's, summed
    over the second half of the steps.
    """
    params: list[Tensor] = list(task.network.parameters())
    # Observers see every minibatch and every step, with a learning rate of 0. The windows (of the
    # low-rank form, and of the oracle if it has one) omit 1 % of the weights.
    window = round(np.log(0.01) / np.log(beta))
    observers = {
        name: CorrectedMomentum(
            params, 0.0, beta, LowRank(window) if name == "low-rank" else FORMS[name]
        )
        for name in forms
    }
    oracle = OracleMomentum(params, 0.0, beta, window=window if windowed else None)
    sums = dict.fromkeys(["momentum", *forms], 0.0)
    average = [torch.zeros_like(p) for p in params]
    for t in range(steps):
        batch = next(task.batches)
        oracle.observe(batch)
        oracle.step()
        star = [oracle.state[p]["mu"] for p in params]
        newest = list(semi_gradient(batch).values())
        for p, g in zip(params, newest, strict=True):
            p.grad = g
        torch._foreach_lerp_(average, newest, 1 - beta)
        for name, observer in observers.items():
            observer.observe(batch)
            observer.step()
            hat = [observer.state[p]["mu"] - observer.state[p]["eta"] for p in params]
            sums[name] += distance(hat, star) if t >= steps // 2 else 0.0
        sums["momentum"] += distance(average, star) if t >= steps // 2 else 0.0
        with torch.no_grad():
            torch._foreach_add_(params, average, alpha=-task.lr)
    return {name: sums[name] / sums["momentum"] for name in forms}


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the Euclidean distance between two lists of tensors."""
    return float(torch.stack(torch._foreach_norm(torch._foreach_sub(one, other))).norm())


def report(
    title: str, make: Callable[[int], Task], forms: list[str], o: argparse.Namespace
) -> None:
    """Print one row of the table: each form's remaining share of the staleness."""
    results = [distances(make(seed), forms, o.steps, o.beta, o.images) for seed in range(o.seeds)]
    cells = []
    for name in FORMS:
        if name not in forms:
            cells.append("–")
            continue
        scores = np.array([result[name] for result in results])
        low, high = bootstrap_interval(np.mean, scores, np.random.default_rng(0))
        cells.append(f"{scores.mean():.3f} [{low:.3f}, {high:.3f}]")
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", action="store_true", help="DQN's network instead of small ones")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of each run (0: 200, images 40)")
    parser.add_argument("--beta", type=float, default=0.0, help="0: 0.9, images 0.8")
    parser.add_argument("--batch", type=int, default=0, help="samples (0: 16, images 4)")
    options = parser.parse_args(arguments)
    options.steps = options.steps or (40 if options.images else 200)
    options.beta = options.beta or (0.8 if options.images else 0.9)
    batch = options.batch or (4 if options.images else 16)
    print(f"| | {' | '.join(FORMS)} |\n|---|{'---|' * len(FORMS)}")
    if options.images:
        report("DQN's network", partial(images, m=batch), list(LARGE), options)
        return
    for title in ("features", "tanh", "leaky ReLU"):
        report(title, partial(evaluation, title, m=batch), list(FORMS), options)


if __name__ == "__main__":
    main()
