"""Figures of learners on recorded episodes: their rows for given measurements, and tiny passes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from semigradient.errors import UserError
from semigradient.reproductions import report, rows
from semigradient.reproductions.td import (
    atari_policy_evaluation,
    gain_claims,
    gain_profiles,
    interference_evolution,
    loss_sensitivity,
    recorded,
    sign_variance,
    singular_values,
    td_lambda,
)
from semigradient.reproductions.td.gain_claims import OFFSETS
from support.recordings import frames, run_folder

RNG = np.random.default_rng(0)
OPTIMIZERS = ("adam", "rmsprop", "sgd", "momentum")


def agreeing(found):
    return [row.agrees for row in found]


def job(tmp_path, seeds=2, scale="quick", folder=""):
    report.prepare(tmp_path)
    return report.Job(scale, seeds, tmp_path, folder, say=lambda line: None)


def finished(module, tmp_path, seeds=1):
    """One pass: the rows, with the report written; a second one finds every part."""
    first = module.reproduce(job(tmp_path, seeds))
    report.write(first, job(tmp_path, seeds), "name", module.TITLE)
    assert (tmp_path / "figure.png").stat().st_size > 5000
    said = []
    again = report.Job("quick", seeds, tmp_path, say=said.append)
    assert [row.quantity for row in module.reproduce(again).rows] == [
        row.quantity for row in first.rows
    ]
    assert not [line for line in said if line.endswith(" s")]
    return first.rows


def bump(height, centre, width=10.0):
    """Gains (20, 61) of three seeds with a bump around 0, and another value at 0 itself."""
    curve = height * np.exp(-((OFFSETS / width) ** 2))
    curve[30] = centre
    return [curve * (1 + 0.01 * RNG.normal(size=(20, 61))) for _ in range(3)]


def published_gains():
    runs = {(k, o): bump(1, 2) for k in gain_claims.REGRESSIONS for o in OPTIMIZERS}
    heights = {"adam": 0.02, "momentum": 0.02, "rmsprop": -0.01, "sgd": -0.01}
    for name, height in heights.items():
        runs["batch", name] = bump(height, 5 if name == "rmsprop" else 1, width=4.0)
    runs["control", "adam"] = bump(0.05, 1)
    return runs


def test_published_gains_agree_and_none_of_the_reversed_ones_does():
    found = gain_claims.claims(published_gains(), OPTIMIZERS)
    assert len(found) == 14
    assert all(agreeing(found))
    runs = {key: [-curves for curves in seeds] for key, seeds in published_gains().items()}
    runs["td*", "adam"] = bump(1, 2)
    runs["batch", "adam"] = bump(-0.5, -1, width=30.0)
    runs["control", "adam"] = [np.linspace(1, 9, 20)[:, None] * c for c in bump(-1, 1)]
    assert not any(agreeing(gain_claims.claims(runs, OPTIMIZERS)))


def published_lambdas(sign=1):
    runs = {}
    for lam in (0.0, 0.5, 0.9, 1.0):
        value = sign * (0.1 + lam) + (0 if sign > 0 else 2)
        sides = np.where(OFFSETS > 0, 0.1 if sign > 0 else 0.0, 0.0)
        runs[lam] = [
            {
                "gain": np.tile(value + sides, (4, 1)) + 1e-4 * RNG.normal(size=(4, 61)),
                "cosine": np.tile(0.1 * value, (4, 61)) + 1e-4 * RNG.normal(size=(4, 61)),
                "singular": value * np.linspace(2, 1, 8) + 1e-4 * RNG.random(8),
            }
            for _ in range(3)
        ]
    return runs


def test_quantities_that_rise_with_lambda_agree_and_falling_ones_do_not():
    assert all(agreeing(td_lambda.claims(published_lambdas(), bump(0.02, 1))))
    fallen = td_lambda.claims(published_lambdas(-1), bump(20, 1, width=100.0))
    assert not any(agreeing(fallen[:-1]))
    largest = td_lambda.of_lambda(published_lambdas(), lambda run: run["singular"][0])
    assert all(agreeing(td_lambda.rising("largest", "figure", largest)))


def test_rank_correlation_and_spread():
    x = np.array([0.0, 0.5, 0.9, 1.0])
    assert td_lambda.rank_correlation(x, np.array([1.0, 2, 30, 400])) == pytest.approx(1)
    assert td_lambda.rank_correlation(x, np.array([4.0, 3, 2, 1])) == pytest.approx(-1)
    values = np.array([3.0, 2, 1, 0])
    assert singular_values.spread(5 * values) == pytest.approx(5 * singular_values.spread(values))
    weight = torch.outer(torch.arange(1.0, 6), torch.ones(4)) + torch.eye(5, 4)
    low = torch.outer(torch.arange(1.0, 6), torch.ones(4))
    for matrix, rank in ((weight, 4), (low, 1)):
        found = singular_values.singular_values(matrix)
        assert (found > 1e-4).sum() == rank
        torch.testing.assert_close(singular_values.singular_values(3 * matrix), 3 * found)


def test_the_cutoff_of_singular_values():
    sharp = np.where(np.arange(512) < 200, 1.0, 0.01)
    assert singular_values._cutoff(np.stack([sharp, sharp])).agrees
    assert not singular_values._cutoff(np.ones((2, 512))).agrees


def evolutions(sign=1):
    """Parts as published, or reversed."""

    def run(positive, negative, r3):
        up, down = np.array(positive), np.array(negative)
        if sign < 0:
            up, down, r3 = 1 - up, 1 - down, -30 * r3
        mean = np.array([1.0, 0.5, r3])
        noise = 1e-3 * RNG.normal(size=(10, 3))
        return {
            "parts": np.repeat((mean + noise)[:, :, None], 3, 2),
            "positive": up + noise,
            "negative": down + noise,
        }

    reg = [run([1.0, 0.9, 0.5], [0.0, 0.05, 0.5], -0.1) for _ in range(3)]
    td = [run([0.9, 0.7, 0.4], [0.1, 0.3, 0.6], -0.1) for _ in range(3)]
    return {"reg": reg, **dict.fromkeys(interference_evolution.BOOTSTRAPPED, td)}


def test_published_parts_of_the_evolution_agree_and_reversed_ones_do_not():
    found = interference_evolution.claims(evolutions())
    assert len(found) == 2 + 3 * 5
    assert all(agreeing(found))
    assert not any(agreeing(interference_evolution.claims(evolutions(-1))))


def sign_runs(sign=1):
    made = []
    for rate, variance in ((1e-5, 0.1), (1e-3, 0.5), (5e-3, 0.8)):
        for width, seed in [(w, s) for w in (16, 64) for s in range(3)]:
            v = variance + 0.01 * RNG.normal()
            reward = 100 - 80 * sign * v * v
            rho = float(np.exp(sign * 5 * v + 0.1 * RNG.normal()))
            shown = v if sign > 0 else 1 - v
            made.append(
                sign_variance.SignVarianceRun(rate, width, seed, shown, rho * (1 + shown), reward)
            )
    return made


def test_published_sign_variances_agree():
    found = sign_variance.claims(sign_runs())
    assert all(agreeing(found))
    assert found[0].measured > 0.7
    runs = [dataclasses.replace(run, interference=1 / run.interference) for run in sign_runs()]
    reversed_ = sign_variance.claims(runs)
    assert not reversed_[0].agrees
    slow = [dataclasses.replace(run, sign_variance=-run.sign_variance) for run in runs]
    assert not sign_variance.claims(slow)[2].agrees
    paid = [dataclasses.replace(run, reward=-run.reward) for run in sign_runs()]
    assert not sign_variance.claims(paid)[1].agrees


def test_a_group_without_runs_does_not_agree():
    assert not rows.separated("", "", "", np.ones(0), np.ones(2), -1).agrees


def test_published_errors_on_frames_agree_and_reversed_ones_do_not():
    time = np.linspace(1, 0.5, 9)

    def errors(final):
        return time - 0.5 + final + 1e-3 * RNG.random((4, 9))

    runs = {"adam": errors(0.4), "corrected-adam": errors(0.2), "frozen": errors(0.3) + time}
    assert all(agreeing(atari_policy_evaluation.claims(runs, "somebody", full=False)))
    late = {**runs, "frozen": np.concatenate([runs["frozen"][:, :-1], errors(0.3)[:, -1:]], 1)}
    assert all(agreeing(atari_policy_evaluation.claims(late, "somebody", full=True)))
    wrong = {"adam": runs["corrected-adam"], "corrected-adam": runs["adam"], "frozen": errors(0.1)}
    assert not any(agreeing(atari_policy_evaluation.claims(wrong, "somebody", full=False)))


@pytest.mark.parametrize(
    "module",
    [gain_profiles, td_lambda, singular_values, interference_evolution, atari_policy_evaluation],
)
def test_full_scales_ask_for_the_run_of_an_expert(module, tmp_path):
    with pytest.raises(UserError, match="--folder"):
        module.reproduce(job(tmp_path, scale="full"))


TINY = dataclasses.replace(
    gain_profiles.QUICK,
    steps=40,
    updates=4,
    every=2,
    renewed=2,
    control=420,
    optimizers={k: gain_profiles.QUICK.optimizers[k] for k in ("adam", "rmsprop")},
)


def test_tiny_passes_through_the_figures_of_recorded_episodes(tmp_path, monkeypatch):
    monkeypatch.setattr(gain_profiles, "QUICK", TINY)
    monkeypatch.setattr(td_lambda, "QUICK", td_lambda.LambdaPlan((0.0, 1.0), TINY))
    plan = dataclasses.replace(interference_evolution.QUICK, steps=40, updates=4, every=2, side=3)
    monkeypatch.setattr(interference_evolution, "QUICK", plan)
    modules = (gain_profiles, td_lambda, singular_values, interference_evolution)
    for count, module in zip((12, 6, 6, 17), modules, strict=True):
        assert len(finished(module, tmp_path / module.__name__)) == count


def test_tiny_passes_through_sensitivity_and_sign_variance(tmp_path, monkeypatch):
    monkeypatch.setattr(loss_sensitivity, "QUICK", loss_sensitivity.SensitivityPlan(12, 8, 2))
    tiny = dataclasses.replace(sign_variance.QUICK, steps=300, rates=(1e-4, 1e-3), widths=(4,))
    monkeypatch.setattr(sign_variance, "QUICK", tiny)
    monkeypatch.setattr(sign_variance, "SAMPLES", 8)
    for count, module in zip((7, 3), (loss_sensitivity, sign_variance), strict=True):
        assert len(finished(module, tmp_path / module.__name__)) == count


def test_stacks_of_frames_are_recorded_in_order():
    record, kept = frames((5, 7), 0)
    everything = record.at(torch.arange(record.size))
    assert record.size == 12
    for t, step in enumerate(kept):
        assert np.array_equal(everything.obs[t].numpy(), step.obs)
        following = kept[t + 1].obs if step.last is None else step.last
        assert np.array_equal(everything.next_obs[t].numpy(), following)
    assert record.terminated.nonzero()[:, 0].tolist() == [4, 11]
    assert record.action.tolist() == everything.action.tolist()


def test_a_tiny_pass_through_policy_evaluation_from_frames(tmp_path, monkeypatch):
    plan = dataclasses.replace(atari_policy_evaluation.QUICK, updates=2, every=1, renewed=2)
    monkeypatch.setattr(atari_policy_evaluation, "QUICK", plan)
    of = {seed: frames((5, 7), seed)[0] for seed in (0, 1, 1000, 1001)}
    monkeypatch.setattr(atari_policy_evaluation, "at_random", lambda steps, seed: of[seed])
    found = finished(atari_policy_evaluation, tmp_path, seeds=2)
    assert len(found) == 2
    assert "random actions on ALE/MsPacman-v5" in found[0].quantity


def test_the_error_on_test_episodes_is_that_of_the_recorded_actions():
    of = atari_policy_evaluation.TrainTestEpisodes(frames((5, 7), 0)[0], frames((6,), 1)[0])
    plan = dataclasses.replace(atari_policy_evaluation.QUICK, updates=0)
    found = atari_policy_evaluation.measure(of, "adam", plan, seed=3)
    network = atari_policy_evaluation.network(plan, of.train, 3)
    total, returns = 0.0, of.test.returns()
    for t in range(6):
        value = network(of.test.at(torch.tensor([t])).obs)[0, of.test.action[t]]
        total += (value - returns[t]).item() ** 2 / 6
    assert found["error"].tolist() == pytest.approx([total], rel=1e-4)
    assert found["spread"][0] == pytest.approx(returns.numpy().var(), rel=1e-4)


@pytest.mark.slow
def test_a_game_is_recorded_at_random():
    record = atari_policy_evaluation.at_random(10, 0)
    assert record.actions == 9
    assert record.terminated.any()
    assert set(record.reward.tolist()) <= {-1.0, 0.0, 1.0}


def test_a_tiny_pass_at_full_scale_follows_the_expert(tmp_path, monkeypatch):
    run_folder(tmp_path / "run", "dqn")
    monkeypatch.setattr(gain_profiles, "FULL", TINY)
    monkeypatch.setattr(gain_profiles, "_CONTROL_FULL", gain_profiles._CONTROL)
    asked = job(tmp_path / "out", 1, "full", str(tmp_path / "run"))
    assert len(gain_profiles.reproduce(asked).rows) == 12
    player = recorded.expert(str(tmp_path / "run"), "name")
    of = gain_profiles.subject(TINY, 0, player)
    best = of.recorded.evaluate(player.network, successors=True).max(1).values
    torch.testing.assert_close(of.one_step, of.recorded.reward + of.recorded.discount * best)
    taken = of.recorded.evaluate(player.network).gather(1, of.recorded.action[:, None])[:, 0]
    torch.testing.assert_close(of.values, taken)


def test_a_tiny_pass_at_full_scale_learns_from_the_experts_frames(tmp_path, monkeypatch):
    plan = dataclasses.replace(atari_policy_evaluation.FULL, updates=1, every=1, renewed=1, width=2)
    monkeypatch.setattr(atari_policy_evaluation, "FULL", plan)
    asked = []

    class Player:
        def record(self, steps, seed, gamma):
            asked.append((steps, seed, gamma))
            return frames((5, 7), seed)[0]

    monkeypatch.setattr(atari_policy_evaluation, "expert", lambda folder, name: Player())
    found = atari_policy_evaluation.reproduce(job(tmp_path, 2, "full", "runs/one"))
    assert len(found.rows) == 3
    assert sorted(asked)[:2] == [(10_000, 1000, 0.99), (10_000, 1001, 0.99)]
    assert sorted(asked)[2:] == [(100_000, 0, 0.99), (100_000, 1, 0.99)]
    assert "the Q-learner of runs/one" in found.rows[0].quantity
