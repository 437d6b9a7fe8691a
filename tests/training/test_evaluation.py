"""Scores are of other episodes than those of training, and of the policy as it was saved."""

from __future__ import annotations

import numpy as np
import pytest

from semigradient.envs import make_vector
from semigradient.training import evaluation, parts
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.command import Command


def command(*words: str) -> Command:
    return parse(["--agent", "a2c", "--env", "CartPole-v1", "--num-envs", "4", *words]).command


def test_scores_are_of_other_episodes_than_those_of_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, made = command("--seed", "3"), []

    def spy(*args: object, **options: object) -> object:
        made.append(make_vector(*args, **options))
        return made[-1]

    monkeypatch.setattr(evaluation, "make_vector", spy)
    agent = build(run)
    evaluation.score(run, agent.policy(True), 6)
    (envs,) = made
    assert (envs.seed, envs.num_envs) == (3 + evaluation.SEED_OFFSET, 6)
    assert evaluation.SEED_OFFSET > 1_000_000
    # Seeds decide the episodes.
    ours, theirs = (make_vector("CartPole-v1", 4, seed).reset()[0] for seed in (3, envs.seed))
    np.testing.assert_array_equal(agent.progress.obs, ours)
    assert not np.isin(theirs, ours).any()


def test_a_saved_policy_normalises_as_the_agent_did() -> None:
    run = command("--normalise-observations")
    agent, other = build(run), build(run, learning=False)
    for _ in range(5):
        agent.iterate()
    parts.load_policy_state(other, parts.policy_state(agent))
    obs = np.random.default_rng(0).normal(0, 0.02, (64, 4)).astype(np.float32)
    ours, theirs = agent.collector.obs_normaliser, other.collector.obs_normaliser
    np.testing.assert_array_equal(ours(obs), theirs(obs))
    assert ours.moments.count > 100
    assert np.abs(ours(obs) - obs).max() > 0.5
