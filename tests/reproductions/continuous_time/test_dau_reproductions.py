"""The reproductions across time steps, in small; portraits, and scores in physical time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from semigradient import evaluate
from semigradient.benchmarks.continuous_time import GymnasiumPendulum, learner, measure
from semigradient.commands import train
from semigradient.envs import make_vector
from semigradient.envs.control.closed_forms import pusher_values
from semigradient.reproductions.continuous_time import (
    dau_ant,
    dau_cart_pole,
    dau_cheetah,
    dau_curves,
    dau_pendulum,
    dau_pusher,
    dau_walker,
)
from support.commands import QUIET

SMALL = dau_pusher.PusherPlan(seconds=2.0, gradient_steps=2)


def test_closed_forms_agree() -> None:
    rows = dau_pusher.closed_forms()
    assert [row.agrees for row in rows] == [True] * 4


def test_outward_turns_actions_to_where_they_lead() -> None:
    advantages = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])  # of -1, 0, 1
    found = dau_pusher.outward(advantages, np.array([-1.0, 1.0]))
    # On the left -1 leads toward 0, on the right 1 does.
    assert found.tolist() == [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]


@pytest.mark.parametrize(("name", "actions"), dau_pusher.RUNS)
def test_pusher_runs_measure_what_they_say(name: str, actions: str) -> None:
    found = dau_pusher.learn(SMALL, name, actions, 0.1, 0)
    assert found["curve"].shape == (2, 2)
    assert 0 <= found["ranked"] <= 1
    assert abs(found["greedy"]) <= 1


def test_rows_accept_the_limits_and_nothing_else() -> None:
    _, stay = pusher_values(torch.tensor(1.0), 0.8)

    def run(factor: float, share: float) -> dict[str, np.ndarray]:
        curve = np.tile([factor * stay.item(), 2 * factor * stay.item()], (8, 1))
        return {"curve": curve, "ranked": np.array(share), "greedy": np.array(share)}

    for factor, share, agrees in ((1.05, 0.95, True), (0.85, 0.95, False)):
        rows = dau_pusher.learned({("dau", "discrete", 0.01): [run(factor, share)] * 2})
        assert [row.agrees for row in rows] == [agrees, agrees, True]
    for share in (0.1, 0.9):
        (row,) = dau_pusher.learned({("dqn", "discrete", 0.001): [run(1, share)] * 2})
        assert row.agrees == (share < 0.5)


SMALL_PENDULUM = replace(dau_pendulum.QUICK, steps=(0.05, 0.01), evaluations=5)


def _run(level: float, image: np.ndarray) -> dict[str, np.ndarray]:
    curve = np.array([-1500, -900, -500, -300, level])
    return {"curve": curve, "value": image[None], "policy": image[None]}


def test_rows_of_curves_and_figure() -> None:
    plan = SMALL_PENDULUM
    coarse, fine = np.random.default_rng(0).normal(size=(2, 50, 50))
    runs = {
        ("dau", 0.05): [_run(-150.0, coarse)] * 2,
        ("dau", 0.01): [_run(-170.0, coarse)] * 2,
        ("ddpg unscaled", 0.05): [_run(-180.0, coarse)] * 2,
        ("ddpg unscaled", 0.01): [_run(-900.0, fine)] * 2,
    }
    rows = dau_curves.claims(plan, runs)
    # Curves part in the last of five evaluations only, where 4 = 20 / 5 and 144 = 720 / 5.
    assert [row.measured for row in rows[:5]] == [-150, -170, 20, -900, 720]
    assert rows[5].measured == pytest.approx(144)
    assert "4.0" in rows[5].quantity
    # Both seeds are alike at either dt: nothing grows.
    assert (rows[6].measured, rows[6].agrees) == (0, False)
    assert rows[7].measured == pytest.approx(1)
    assert all(row.agrees for row in rows if row is not rows[6])
    assert [row.required for row in rows] == [True] * 3 + [False] * 5
    better = {**runs, ("ddpg unscaled", 0.05): runs["ddpg unscaled", 0.01]}
    better["ddpg unscaled", 0.01] = [_run(-200.0, fine), _run(-190.0, fine)]
    rows = dau_curves.claims(plan, better)
    # Curves far apart whose order is the other one are no degradation.
    assert (rows[4].measured, rows[4].agrees) == (-705, False)
    assert rows[5].agrees
    assert (rows[6].measured, rows[6].agrees) == (10, True)
    other = dau_curves.claims(replace(plan, scatters=False, portraits=()), runs)
    assert [row.published for row in other[3:]] == [
        "below dau",
        "degrades as dt falls",
        "curves of different dt lie apart",
    ]
    runs["dau", 0.01][0] = {**runs["dau", 0.01][0], "curve": np.full(5, -300.0)}
    agreeing = [row.agrees for row in dau_curves.claims(plan, runs)]
    assert agreeing[:3] == [True, False, False]
    assert not any(row.required for row in dau_curves.claims(replace(plan, required=False), runs))
    figure = Figure()
    dau_curves.draw(figure, plan, runs)
    assert len(figure.axes) == 2 + 8
    images = [axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()]
    assert len(images) == 8


def test_a_pendulum_run_measures_and_draws() -> None:
    plan = replace(
        dau_pendulum.QUICK,
        seconds=1.0,
        evaluations=1,
        portraits=(0.5, 1.0),
        flags="--hidden 8 8 --gradient-steps 1",
    )
    found = dau_curves.learn(plan, "dau", 0.05, 0)
    assert found["curve"].shape == (1,)
    assert -2000 < found["curve"][0] < 0
    assert found["value"].shape == found["policy"].shape == (2, 50, 50)
    assert np.abs(found["policy"]).max() <= 1


@pytest.mark.parametrize(
    ("module", "package"),
    [
        (dau_cart_pole, ""),
        (dau_cheetah, "mujoco"),
        pytest.param(dau_walker, "Box2D", marks=pytest.mark.slow),
        pytest.param(dau_ant, "mujoco", marks=pytest.mark.slow),
    ],
)
def test_every_environment_can_be_run(module: Any, package: str) -> None:
    if package:
        pytest.importorskip(package)
    flags = "--hidden 8 8 --gradient-steps 1 --buffer-size 3000"
    plan = replace(module.QUICK, seconds=0.4, evaluations=1, episode=0.2, flags=flags)
    for label, _ in plan.learners:
        found = dau_curves.learn(plan, label, plan.steps[0], 0)
        assert np.isfinite(found["curve"]).all()


def test_training_and_evaluation_tell_physical_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = "--agent dau --env semigradient/Pendulum-v0 --num-envs 16 --hidden 8 8 --steps 640"
    words += " --eval-every 320 --eval-episodes 2 --batch-size 16 --gradient-steps 1"
    words += f" --env-options dt=0.025 time_limit=0 --eval-env-options time_limit=1 --run-dir {run}"
    assert train([*words.split(), *QUIET]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if "eval/mean" in line]
    assert len(scores) == 2
    for line in scores:
        assert line["eval/scaled_return"] == pytest.approx(line["eval/mean"] / 2)
    assert len(list((run / "pictures").glob("portrait-*.png"))) == 2
    assert evaluate.main([str(run), "--episodes", "2", "--pictures"]) == 0
    report = json.loads((run / "evaluation.json").read_text())
    assert report["scaled_return"] == pytest.approx(report["mean"] / 2)
    assert report["train_hours"] == pytest.approx(640 * 0.025 / 3600)
    assert (run / "pictures" / "portrait.png").exists()
    assert "physical hours" in capsys.readouterr().out


def test_only_a_pendulum_has_a_portrait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = "--agent dau --env semigradient/Pusher-v0 --num-envs 4 --hidden 8 8 --steps 40"
    words += f" --eval-episodes 1 --batch-size 8 --gradient-steps 1 --run-dir {run}"
    assert train([*words.split(), *QUIET]) == 0
    assert not (run / "pictures").exists()
    with pytest.raises(SystemExit) as left:
        evaluate.main([str(run), "--episodes", "1", "--pictures"])
    assert left.value.code == 2
    assert "dau on semigradient/Pusher-v0 has no pictures" in capsys.readouterr().err


def test_the_benchmarks_peer_is_the_same_pendulum() -> None:
    theirs = GymnasiumPendulum(4, 0.01)
    ours = make_vector("semigradient/Pendulum-v0", 4, 0, dt=0.01, time_limit=0)
    theirs.reset()
    ours.reset(options={"state": np.stack([env.unwrapped.state for env in theirs.inner.envs])})
    rng = np.random.default_rng(0)
    for _ in range(50):
        actions = rng.uniform(-1, 1, (4, 1)).astype(np.float32)
        one, other = ours.step(actions), theirs.step(actions)
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)
        np.testing.assert_allclose(one[1], other[1], atol=1e-5)
    flags = ["--hidden", "8", "8", "--gradient-steps", "1", "--batch-size", "8"]
    found = measure({"core": learner(ours, flags, "cpu")}, phases=1)
    assert found["core"]["wall"] > 0
