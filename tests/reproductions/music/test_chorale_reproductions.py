"""What the reproductions of music environments are made of: sources of rolls, and their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from semigradient.agents.pcl import PCL
from semigradient.domains.music.score_counts import Counts
from semigradient.envs.music import chorales
from semigradient.envs.music.chorale_rules import EVENTS, Rules
from semigradient.envs.music.chorale_setting import LOW
from semigradient.envs.music.toy_chorale import toy_joint
from semigradient.reproductions.music import (
    chorale_harmonize,
    chorale_models,
    chorale_rules,
    toy_chorale,
)
from semigradient.reproductions.music import toy_chorale_exact as exact
from semigradient.reproductions.report import Job
from semigradient.training.build import build
from semigradient.training.cli import parse


def test_voices_of_counts_follow_them() -> None:
    rng, size = np.random.default_rng(0), len(chorales.PITCHES)
    alone = np.log(rng.dirichlet(np.ones(size), 4))
    after = np.log(rng.dirichlet(np.ones(size) / 4, (4, size)))
    counts = Counts(alone, after)
    rolls = chorale_models.counted(counts, True, 4000, 2, rng) - chorales.PITCHES[0]
    plain = chorale_models.counted(counts, False, 4000, 2, rng) - chorales.PITCHES[0]
    for voice in range(4):
        first = np.bincount(rolls[:, voice, 0], minlength=size) / 4000
        assert np.abs(first - np.exp(alone[voice])).sum() / 2 < 0.07
        second = np.bincount(rolls[:, voice, 1], minlength=size) / 4000
        expected = np.exp(alone[voice]) @ np.exp(after[voice])
        assert np.abs(second - expected).sum() / 2 < 0.07
        again = np.bincount(plain[:, voice, 1], minlength=size) / 4000
        assert np.abs(again - np.exp(alone[voice])).sum() / 2 < 0.07


def test_shifted_pieces_have_the_same_voices() -> None:
    piece = np.arange(40).reshape(4, 10)
    moved = chorale_models.shifted(piece, np.random.default_rng(1))
    assert (np.sort(moved, 1) == piece).all()
    assert len({int(row[0]) % 10 for row in moved}) > 1


def test_scores_are_by_100_frames() -> None:
    roll = np.repeat(np.array([[72], [67], [64], [48]]), 40, 1)
    events = chorale_models.by_100_frames([roll, roll[:, :20]], 4)
    assert dict(zip(EVENTS, events[0], strict=True))["chordal"] == 25
    np.testing.assert_allclose(chorale_models.score(events), [25 - 80, 25 - 60])
    np.testing.assert_allclose(chorale_rules._loose(events), [25, 25])


def test_bach_earns_what_was_measured() -> None:
    rows = chorale_rules._corpus_rows(chorale_rules.sixteenths(0))
    assert len(rows) == 12
    assert all(row.agrees for row in rows), [row for row in rows if not row.agrees]


def test_a_harmonising_policy_is_scored_on_the_same_excerpts() -> None:
    seen: list[np.ndarray] = []

    def lowest(obs: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        seen.append(obs)
        assert mask is not None
        return mask.argmax(1)

    rolls = chorale_harmonize.played(lowest, 32)["rolls"]
    assert rolls.shape == (32, 4, 8)
    assert (rolls >= LOW).all()
    first = chorale_harmonize.returns(lowest, 32)
    begun = seen[0].copy()
    seen.clear()
    assert np.array_equal(chorale_harmonize.returns(lowest, 32), first)
    assert np.array_equal(seen[0], begun)
    bach = chorale_harmonize.real()["returns"]
    assert bach.mean() > first.mean()


def test_a_policy_that_games_the_rules_is_found_by_its_likelihood() -> None:
    curves = [{"returns": np.array([5.0, 6.0, 5.5])}]
    likely = {"best": np.array([-2.0, -2.2]), "random": np.array([-8.0, -8.2])}
    for nats, best, agrees in ((-2.5, 1.0, [True, True]), (-7.0, 9.0, [False, False])):
        found = {**likely, "PPO": np.array([nats, nats])}
        rows = chorale_harmonize.hacking_rows(curves, np.full(4, best), found)
        assert [row.agrees for row in rows] == agrees
        assert rows[1].measured == pytest.approx((nats + 8.1) / 6)


def test_the_best_of_several_harmonies_is_taken_excerpt_by_excerpt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plays = iter([[3.0, -1.0, 0.0], [2.0, 4.0, 0.5], [1.0, 5.0, 0.25]])

    def played(policy: Any, episodes: int) -> dict[str, np.ndarray]:
        returns = np.array(next(plays))
        return {"returns": returns, "rolls": np.tile(returns[:, None, None], (1, 4, 8))}

    monkeypatch.setattr(chorale_harmonize, "build", lambda command: Mock())
    monkeypatch.setattr(chorale_harmonize, "parse", lambda words: Mock())
    monkeypatch.setattr(chorale_harmonize, "played", played)
    best = chorale_harmonize.best_of("folder", 3)
    assert best["returns"].tolist() == [3.0, 5.0, 0.5]
    assert best["rolls"][:, 0, 0].tolist() == [3.0, 5.0, 0.5]


def test_likelihoods_are_of_pitch_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(pitches: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        log_p = torch.full((*pitches.shape, 46), -5.0)
        log_p[..., 0] = -1.0  # the lowest pitch, MIDI 36
        return log_p

    monkeypatch.setattr(chorale_harmonize, "conditionals", lambda folder: first)
    rolls = np.full((2, 4, 8), LOW, float)
    rolls[1] += 1
    assert chorale_harmonize.likelihoods("folder", rolls).tolist() == [-4.0, -20.0]


def test_figures_of_a_soft_learner() -> None:
    words = "--agent pcl --env semigradient/ToyChorale-v0 --num-envs 2 --hidden 4"
    agent = build(parse(words.split()).command)
    assert isinstance(agent, PCL)
    found = toy_chorale.soft_figures(agent)
    # By sampling what it writes.
    act, core = agent.policy(False), agent.setup.envs.core  # type: ignore[attr-defined]
    state = core.reset(8_000)
    for _ in range(6):
        action = act(core.observe(state).numpy(), core.legal(state).numpy())
        state = core.step(state, torch.from_numpy(action)).state
    assert float(state.log_p.mean()) == pytest.approx(found["return"], abs=0.1)
    law = torch.bincount(toy_joint().index(state.pitches), minlength=729) / 8_000
    apart = exact.total_variation(law, toy_joint().log_p.exp())
    assert apart == pytest.approx(found["tv"], abs=0.08)


def test_a_small_coconet_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chorale_models.coconet_run(Job("quick", 1, tmp_path, "elsewhere")) == "elsewhere"
    monkeypatch.setitem(chorale_models._CROPS, "quick", 32)
    said: list[str] = []
    job = Job("quick", 1, tmp_path, say=said.append)
    folder = chorale_models.coconet_run(job)
    assert said == ["a small Coconet: 32 crops"]
    assert chorale_models.coconet_run(job) == folder
    assert len(said) == 1
    again = chorale_rules.conditionals(folder)
    empty = torch.zeros(1, 4, 16, dtype=torch.int64)
    log_p = again(empty, torch.zeros_like(empty, dtype=torch.bool))
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(1, 4, 16))
    assert Rules(1).count(empty).shape == (1, len(EVENTS))
