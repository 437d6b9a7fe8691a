"""A resumed run says "exact" only if it is."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from semigradient.commands import train
from semigradient.envs import make_vector
from support.commands import QUIET
from support.runs import tiny_run
from support.scripted_env import SMALL, Scripted, scripted


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes."""
    return tiny_run(tmp_path_factory.mktemp("runs") / "finished", steps=64)


def _version(provenance: dict[str, Any]) -> str:
    provenance["versions"]["torch"] = "1.0"
    return "torch 1.0 → "


def _commit(provenance: dict[str, Any]) -> str:
    provenance["commit"] = "abc"
    return "commit abc → "


def _processor(provenance: dict[str, Any]) -> str:
    provenance["hardware"]["cpu"] = "Z80"
    return "processor Z80 → "


def _unknown(provenance: dict[str, Any]) -> str:
    provenance.clear()
    return "provenance.json does not say"


@pytest.mark.parametrize("change", [_version, _commit, _processor, _unknown])
def test_other_surroundings_are_named(
    change: Callable[[dict[str, Any]], str],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    provenance = json.loads((folder / "provenance.json").read_text())
    words = change(provenance)
    (folder / "provenance.json").write_text(json.dumps(provenance))
    assert train(["--resume", str(folder), *QUIET]) == 0
    assert f"(statistical: {words}" in capsys.readouterr().out
    assert train(["--resume", str(folder), *QUIET]) == 0  # the last attempt was made here
    assert "(exact)" in capsys.readouterr().out


def test_another_number_of_threads_is_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    assert train(["--resume", str(folder), "--threads", "2", *QUIET]) == 0
    assert "(statistical: threads 0 → 2)" in capsys.readouterr().out


def test_a_simulator_that_does_not_repeat_itself_is_statistical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with scripted(lambda env: None):
        assert train([*SMALL, *QUIET, "--run-dir", str(folder)]) == 0
        assert train(["--resume", str(folder), *QUIET]) == 0
        assert "(exact)" in capsys.readouterr().out
        gymnasium.spec("Scripted-v0").nondeterministic = True
        assert train(["--resume", str(folder), *QUIET]) == 0
    assert "the simulator does not repeat itself exactly" in capsys.readouterr().out


def test_what_differs_on_the_way_is_noticed_even_where_the_last_observation_agrees() -> None:
    """A reward of the running episode that comes out differently when it is played again."""

    class Forgetful(Scripted):
        played = 0

        def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            Forgetful.played += 1
            return np.zeros(2, np.float32), float(Forgetful.played == 2), False, False, {}

    gymnasium.register("Forgetful-v0", entry_point=Forgetful)
    try:
        envs = make_vector("Forgetful-v0", 1, 0)
        envs.reset()
        for _ in range(3):
            envs.step(np.zeros(1, np.int64))
        again = make_vector("Forgetful-v0", 1, 0)
        assert not again.load_state_dict(envs.state_dict())
        Forgetful.played = 0
        assert again.load_state_dict(envs.state_dict())
    finally:
        del gymnasium.registry["Forgetful-v0"]


def test_a_reward_of_a_game_that_differs_is_noticed() -> None:
    envs = make_vector("ALE/Pong-v5", 2, 0)
    envs.reset()
    for step in range(8):
        envs.step(np.array([step % 3, 2]))
    for wrong in (None, 0, 1):
        again = make_vector("ALE/Pong-v5", 2, 0)
        _pay_once(again, wrong)
        assert again.load_state_dict(envs.state_dict()) is (wrong is None)


def _pay_once(envs: Any, game: int | None) -> None:
    """One more point in the fourth step of one of the games."""
    steps, plain = 0, envs._step_games

    def step(actions: np.ndarray) -> Any:
        nonlocal steps
        steps += 1
        result = plain(actions)
        result[1][[] if game is None or steps != 4 else game] += 1
        return result

    envs._step_games = step


def test_an_endless_episode_costs_no_more_memory_than_its_actions() -> None:
    class Endless(Scripted):
        action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return np.zeros(2, np.float32), 0.0, False, False, {}

    gymnasium.register("Endless-v0", entry_point=Endless)
    try:
        envs = make_vector("Endless-v0", 1, 0)
        envs.reset()
        tracemalloc.start()
        for number in range(3000):
            if number == 1000:
                before = tracemalloc.get_traced_memory()[0]
            envs.step(np.full((1, 2), number / 3000, np.float32))
        grown = tracemalloc.get_traced_memory()[0] - before
        actions = envs.state_dict()["actions"]["0"]
    finally:
        tracemalloc.stop()
        del gymnasium.registry["Endless-v0"]
    assert grown / 2000 < 16  # bytes a step: eight of the action, and room to grow
    np.testing.assert_array_equal(actions[:, 1], np.arange(3000, dtype=np.float32) / 3000)


def test_box2d_is_known_not_to_repeat_itself() -> None:
    pytest.importorskip("Box2D")
    assert not make_vector("LunarLander-v3", 1, 0).is_repeatable
    assert make_vector("CartPole-v1", 1, 0).is_repeatable
