"""The estimators behind the generalisation-gap protocol, and one tiny pass through it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from semigradient import envs
from semigradient.envs.images.glimpse import Glimpse, GlimpseOptions
from semigradient.errors import UserError
from semigradient.reproductions import report
from semigradient.reproductions.td import generalisation_gap as gap
from semigradient.training.cli import parse

TINY_DQN = "--steps 60 --learning-starts 20 --buffer-size 100 --batch-size 8"


def test_interference_of_a_linear_model_is_that_of_its_features() -> None:
    inputs, network = torch.randn(9, 5), nn.Linear(5, 1)
    features = torch.cat([inputs, torch.ones(9, 1)], 1)
    gram = features @ features.T
    by_hand = (gram.sum() - gram.trace()) / (9 * 8)
    measured = gap.interference(network, inputs)
    assert measured == pytest.approx(by_hand.item(), rel=1e-5)


def test_interference_of_a_deep_network_is_the_mean_over_pairs() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    inputs = torch.randn(7, 4)
    for mean in (False, True):
        rows = []
        for one in inputs:
            network.zero_grad()
            value = network(one).mean() if mean else network(one).max()
            gradients = torch.autograd.grad(value, list(network.parameters()))
            rows.append(torch.cat([g.flatten() for g in gradients]))
        pairs = [rows[i] @ rows[j] for i in range(7) for j in range(7) if i != j]
        expected = torch.stack(pairs).mean().item()
        measured = gap.interference(network, inputs, mean)
        assert measured == pytest.approx(expected, rel=1e-4)


def test_scores_of_policies_that_are_known() -> None:
    images = torch.full((30, 1, 16, 16), 9, dtype=torch.uint8)
    labels = torch.arange(30) % 10
    core = Glimpse(images, labels, GlimpseOptions(window=4))

    def same(obs: np.ndarray, mask: Any) -> np.ndarray:
        return np.full((len(obs), 2), [7, 0])

    scores, met = gap.play(same, core)
    assert scores["first_guess"] == scores["solved"] == pytest.approx(0.1)
    assert scores["performance"] == pytest.approx((3 * 1 - 27 * 2) / 30)
    assert scores["length"] == pytest.approx((3 + 27 * 20) / 30)
    assert len(met) == 3 + 27 * 20

    flat, turn = Glimpse(images, labels, GlimpseOptions(window=4, action_mode="flat")), [0]

    def look_then_count(obs: np.ndarray, mask: Any) -> np.ndarray:
        turn[0] += 1
        return np.full(len(obs), 10 if turn[0] == 1 else turn[0] - 2)

    scores, _ = gap.play(look_then_count, flat)
    assert scores["first_guess"] == pytest.approx(0.1)  # the look before it is no guess
    assert scores["solved"] == 1
    assert scores["performance"] == pytest.approx(0.55 - 0.1)


def test_correlation_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 200))
    assert gap.pearson(x, 3 - 2 * x) == pytest.approx(-1)
    assert gap.pearson(x, np.ones(200)) == 0
    y = x + noise
    assert gap.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    low, high = gap.interval(x, y)
    assert low < np.sqrt(0.5) < high
    assert high - low == pytest.approx(2 * 1.645 * 0.5 / np.sqrt(200), rel=0.3)


def runs(slope: float) -> list[gap.GapRun]:
    rng = np.random.default_rng(1)
    made = []
    for learner, sign in (("classifier", 1), ("dqn", -1)):
        for size, width in [(s, w) for s in (20, 500) for w in (4, 8, 16, 32)]:
            log_rho = np.log(width) * sign * slope + rng.normal() * 1e-3
            performance = {"performance": 1 - 0.1 * np.log(size) + 0.01 * sign * log_rho}
            made.append(
                gap.GapRun(
                    learner, size, width, 0, 0, width**2, float(np.exp(log_rho)),
                    performance, {"performance": 0.0},
                )
            )  # fmt: skip
    return made


def test_claims_are_held_against_the_runs() -> None:
    rows = {row.quantity: row for row in gap.claims(runs(slope=1.0))}
    assert rows["r(classifier: log ρ̄, gap, n_T = 500)"].agrees
    assert rows["r(dqn: log ρ̄, gap, n_T = 500)"].agrees
    assert rows["r(dqn: log n_T, gap)"].measured < -0.91
    assert rows["r(dqn: log parameters, log ρ̄)"].agrees
    assert not rows["r(classifier: log ρ̄, gap, all sizes)"].agrees
    wrong = {row.quantity: row for row in gap.claims(runs(slope=-1.0))}
    assert not wrong["r(dqn: log parameters, log ρ̄)"].agrees


def test_a_tiny_pass_trains_and_measures_every_learner(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flags = {
        "classifier": ("--steps", "320"),
        "dqn": TINY_DQN.split(),
        "reinforce": ("--steps", "60", "--num-envs", "4"),
    }
    tiny = dataclasses.replace(gap.QUICK, sizes=(8,), widths=(2, 3), depths=(1,), learners=flags)
    monkeypatch.setattr(gap, "QUICK", tiny)
    monkeypatch.setattr(gap, "EXAMPLES", dict.fromkeys(flags, 5))
    monkeypatch.setattr(gap, "_IMAGES", 40)
    made: list[str] = []
    report.prepare(tmp_path)
    job = report.Job("quick", 1, tmp_path, say=made.append)
    first = gap.reproduce(job)
    assert [line.split("-")[0] for line in made] == [*flags] * 2
    assert len(first.rows) == 4 + 3
    assert gap.reproduce(job).rows == first.rows
    assert len(made) == 6  # the second time, everything was there
    report.write(first, job, "generalisation-gap", gap.TITLE)
    assert (tmp_path / "figure.png").exists()
    run = gap.measure("dqn", "small-glyphs", 8, 2, 1, 0, flags["dqn"])
    assert run.interference > 0
    assert run.gap == run.train["performance"] - run.test["performance"]
    assert run == gap.measure("dqn", "small-glyphs", 8, 2, 1, 0, flags["dqn"])


def test_full_scale_settings_are_those_published(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--folder"):
        gap.full_plan("")
    cifar10 = gap.full_plan(str(tmp_path))
    (tmp_path / "train_32x32.mat").touch()
    svhn = gap.full_plan(str(tmp_path))
    assert (cifar10.dataset, cifar10.widths) == ("cifar10", (16, 32, 64))
    assert (svhn.dataset, svhn.widths) == ("svhn", (8, 16, 32))
    for plan in (svhn, cifar10):
        assert plan.depths == (0, 1, 2, 3)
        assert plan.sizes == (20, 100, 250, 500, 1000, 5000, 10000, 50000)
    assert gap.SEEDS["full"] == 3
    command = parse(["--agent", "dqn", "--env", "semigradient/Glimpse-v0"]).command
    assert (command.agent.gamma, command.agent.batch_size, command.optimizer.lr) == (
        0.9,
        128,
        2.5e-4,
    )
    assert (command.run.steps, command.agent.train_every) == (200_000, 2)


def test_evaluation_can_be_on_other_images() -> None:
    words = "--agent dqn --env semigradient/Glimpse-v0 --env-options dataset=digits limit=10"
    run = parse([*words.split(), "--eval-env-options", "split=test", "limit=20"]).command.run
    assert run.environment() == {"dataset": "digits", "limit": 10}
    assert run.evaluation_environment() == {"dataset": "digits", "limit": 20, "split": "test"}
    made = envs.make_vector(run.env, 2, 0, **run.evaluation_environment())
    assert made.protocol["images"] == 20
