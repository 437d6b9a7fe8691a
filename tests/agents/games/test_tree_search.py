"""The tree search against exact values, its gradient against theirs, and what BRS learns."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient.agents.games.tree_search import (
    Config,
    TreeSearchLearner,
    exact_values,
    search,
    shared_objective,
    tree_objective,
)
from semigradient.domains.games.repeated import PRISONERS, expected_return
from semigradient.errors import UserError
from semigradient.reproductions.games import brs_ipd
from semigradient.reproductions.report import Job, prepare

POLICIES = {
    "cooperate": ((1, 1, 1, 1, 1), (-18, 0)),
    "defect": ((0, 0, 0, 0, 0), (-12, -12)),
    "tit-for-tat": ((1, 1, 0, 1, 0), (-8, -5)),
    "cynic": ((0, 1, 0, 1, 0), (-7, -7)),
    "grim": ((1, 1, 0, 0, 0), (-8, -5)),
    "random": ((0.5,) * 5, (-14.0675, -3.9961)),
    "pavlov": ((1, 1, 0, 0, 1), (-12.31, None)),  # the one that ties decide
}
SOME = torch.tensor([0.4, -0.2, 0.3, -0.5, 0.1], dtype=torch.float64)


def plain_search(answer: list[float], state: int, rounds: int, rng: np.random.Generator) -> tuple:
    """One tree by plain recursion: (detective's value, agent's value)."""
    if rounds == 0:
        return 0.0, 0.0
    acted = 0 if rng.random() < answer[state] else 1
    ways = []
    for theirs in (0, 1):
        below = plain_search(answer, 1 + 2 * acted + theirs, rounds - 1, rng)
        agent, detective = PRISONERS[:, 2 * acted + theirs].tolist()
        ways.append((below[0] + detective, rng.random(), below[1] + agent))
    best = max(ways)
    return best[0], best[2]


@pytest.mark.parametrize("name", POLICIES)
def test_exact_values_are_the_published_ones(name: str) -> None:
    policy, published = POLICIES[name]
    values = exact_values(torch.tensor(policy, dtype=torch.float64), PRISONERS, 6).tolist()
    for value, number in zip(values, published, strict=True):
        assert number is None or value == pytest.approx(number, abs=5e-3)


def test_no_deterministic_policy_does_better_than_cynic_tit_for_tat() -> None:
    values = {
        policy: exact_values(torch.tensor(policy, dtype=torch.float64), PRISONERS, 6)[0].item()
        for policy in itertools.product((0, 1), repeat=5)
    }
    best = max(values, key=lambda policy: values[policy])
    assert best == (0, 1, 0, 1, 0)
    assert sorted(values.values())[-2] < -7


def test_sampled_trees_have_the_exact_values_and_those_of_a_plain_recursion() -> None:
    probabilities = SOME.sigmoid()
    exact = exact_values(probabilities, PRISONERS, 4)
    random = torch.Generator().manual_seed(0)
    trees = search(probabilities[None], PRISONERS, 4, 40_000, random)
    error = trees.values.std(2) / 200
    assert ((trees.values.mean(2) - exact[:, None]).abs() < 4 * error).all()
    assert (trees.counts.sum((2, 3)) == 15).all()
    assert (trees.on_path.sum((2, 3)) == 4).all()
    assert (trees.on_path <= trees.counts).all()
    rng = np.random.default_rng(0)
    plain = np.array([plain_search(probabilities.tolist(), 0, 4, rng) for _ in range(4000)])
    wide = plain.std(0) / len(plain) ** 0.5
    assert (np.abs(plain.mean(0) - exact.flip(0).numpy()) < 4 * wide).all()


def gradients(rows: int, off_path: bool) -> Tensor:
    """Estimates (rows, 5), each from trees of its own."""
    logits = SOME.expand(rows, 5).clone().requires_grad_()
    trees = search(logits.detach().sigmoid(), PRISONERS, 3, 256, torch.Generator().manual_seed(3))
    counts = trees.counts if off_path else trees.on_path
    (gradient,) = torch.autograd.grad(tree_objective(logits, trees.values[0], counts).sum(), logits)
    return gradient


def z_scores(estimates: Tensor, truth: Tensor) -> Tensor:
    return (estimates.mean(0) - truth) / (estimates.std(0) / len(estimates) ** 0.5)


def exact_gradient() -> Tensor:
    logits = SOME.clone().requires_grad_()
    return torch.autograd.grad(exact_values(logits.sigmoid(), PRISONERS, 3)[0], logits)[0]


def test_the_exact_values_have_the_right_gradient() -> None:
    logits = SOME.clone().requires_grad_()
    value = lambda x: exact_values(x.sigmoid(), PRISONERS, 4)  # noqa: E731
    assert torch.autograd.gradcheck(value, (logits,))


def test_the_estimate_is_the_gradient_of_the_exact_value() -> None:
    assert z_scores(gradients(2000, True), exact_gradient()).abs().max() < 4


def test_leaving_out_the_nodes_off_the_path_biases_the_gradient() -> None:
    assert z_scores(gradients(2000, False), exact_gradient()).abs().max() > 10


def test_self_play_estimates_the_gradient_of_the_own_return() -> None:
    rows = 2000
    logits = SOME.expand(rows, 5).clone().requires_grad_()
    random = torch.Generator().manual_seed(0)
    value = shared_objective(logits, PRISONERS, 4, 256, random)
    (estimates,) = torch.autograd.grad(value.sum(), logits)
    pair = SOME.clone().requires_grad_()
    (truth,) = torch.autograd.grad(expected_return(pair.expand(2, 5), PRISONERS, 4)[0], pair)
    assert z_scores(estimates, truth).abs().max() < 4


@pytest.mark.parametrize(("weight", "policy"), [(0.0, (0, 1, 0, 1, 0)), (1.0, (1, 1, 0, 1, 0))])
def test_best_response_shaping_learns_the_published_policies(
    weight: float, policy: tuple[int, ...]
) -> None:
    learner = TreeSearchLearner(Config(self_play=weight, trees=128), seeds=3)
    for _ in range(150):
        learner.iterate()
    probabilities = learner.logits().sigmoid()
    assert (probabilities - torch.tensor(policy)).abs().max() < 0.1


def test_without_a_hidden_layer_there_are_five_logits() -> None:
    learner = TreeSearchLearner(Config(hidden=0, trees=8), seeds=2)
    assert learner.logits().tolist() == [[0.0] * 5] * 2
    learner.iterate()
    assert (learner.logits() != 0).any()


def test_the_reproduction_s_claims(tmp_path: Path) -> None:
    prepare(tmp_path)
    policies = np.array([[0.001, 0.999, 0.0, 0.999, 0.001]] * 3)
    rows = brs_ipd.claims("BRS", policies)
    assert all(row.agrees for row in rows)
    assert not all(row.agrees for row in brs_ipd.claims("BRS-SP", policies))
    bad = policies.copy()
    bad[0, 3] = 0.2
    assert [row.agrees for row in brs_ipd.claims("BRS", bad)][-2:] == [False, False]
    job = Job("quick", 1, tmp_path)
    chosen, *_, updates = brs_ipd.config("BRS-SP", job.full)
    assert (chosen.self_play, updates) == (1.0, 400)


@pytest.mark.parametrize(
    ("field", "value"), [("rounds", 9), ("trees", 1), ("hidden", -1), ("self_play", -0.5)]
)
def test_bad_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{field}={value}"):
        Config(**{field: value})
