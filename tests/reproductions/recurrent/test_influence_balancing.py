"""Influence balancing in numpy against the estimators of `gradients.recurrent`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reproductions.recurrent.test_reports import made, shrink
from semigradient.envs.memory.influence_balance import dynamics
from semigradient.gradients.recurrent import make
from semigradient.reproductions.recurrent import influence_balancing as balancing


class Balance(nn.Module):
    width = 23

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(balancing.START, dtype=torch.float64))
        self.a, self.b = dynamics(23, 10)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.a @ state + self.theta * self.b
        return state[:1], state


def test_every_learner_is_its_estimator() -> None:
    rng, steps = np.random.default_rng(0), 60
    chances, signs = rng.random((steps, 1)), 2.0 * rng.integers(0, 2, (steps, 1, 23)) - 1
    ours = balancing.Learners((7,), 1)
    nets = [Balance() for _ in range(4)]
    options = [{"length": 7}, {}, {"alpha": 6.0, "mean": 16.0}, {}]
    names = ["tbptt", "rtrl", "artbp", "uoro"]
    theirs = [make(n, net, 1, **o) for n, net, o in zip(names, nets, options, strict=True)]
    uniform, noise = iter(chances[1:, 0].tolist()), iter(torch.tensor(signs))
    theirs[2].draw = lambda: next(uniform)
    theirs[3].trace.draw = lambda shape: next(noise)[None]
    totals = [0.0] * 4
    for step in range(steps):
        losses = ours.advance(chances[step], signs[step])
        for row, (estimator, net) in enumerate(zip(theirs, nets, strict=True)):
            before = estimator.unrolled if row in (0, 2) else None
            # A piece's parameters move at its end, before the step that begins the next one.
            age = 0 if before is None else before.count
            ends = (row == 0 and age == 7) or (
                row == 2 and age and chances[step, 0] < balancing.LAW.cut(age)
            )
            if ends:
                with torch.no_grad():
                    net.theta -= 3e-4 / (1 + step) ** 0.5 * totals[row]
                totals[row] = 0.0
            error = estimator.step(torch.zeros(1, 1)) - 1
            assert 0.5 * error.item() ** 2 == pytest.approx(losses[row], rel=1e-9)
            gradient = estimator.gradient(error).item()
            totals[row] += gradient
            if row in (1, 3):
                rate = balancing.RATE[names[row]] / (1 + (step + 1) ** 0.5)
                with torch.no_grad():
                    net.theta -= rate * gradient
    assert ours.theta == pytest.approx([net.theta.item() for net in nets], rel=1e-9)
    assert len(set(ours.theta.tolist())) == 4


def test_the_report_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shrink(monkeypatch, balancing, "STEPS", 3000)
    rows = made(balancing, tmp_path).rows
    assert [row.agrees for row in rows[:3]] == [True] * 3
    assert len(rows) == 9
