"""Sources: what is shown, what is asked for, and the exact returns of two policies."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from semigradient import envs
from semigradient import evaluate as evaluate_command
from semigradient.commands import train
from semigradient.errors import UserError
from semigradient.training.evaluation import evaluate
from support.commands import QUIET
from support.memory import episodes, memoryless_value, optimum_value

CASES = [
    ("semigradient/Copy-v0", {}),
    ("semigradient/Copy-v0", {"delay": 1, "letters": 3, "alphabet": 2}),
    ("semigradient/VariableCopy-v0", {"delay": 4, "letters": 2}),
    ("semigradient/Queue-v0", {"length": 12}),
    ("semigradient/Queue-v0", {"delay": 1, "length": 5}),
    ("semigradient/AnBn-v0", {}),
    ("semigradient/AnBn-v0", {"least": 2, "most": 3, "length": 19}),
    ("semigradient/AnBn-v0", {"least": 3, "most": 3, "length": 9}),
    ("semigradient/Brackets-v0", {}),
    ("semigradient/Brackets-v0", {"inside": 2, "between": 0, "alphabet": 3, "length": 25}),
    ("semigradient/Brackets-v0", {"inside": 3, "between": 1, "alphabet": 2, "length": 11}),
    ("semigradient/Warp-v0", {}),
    ("semigradient/Warp-v0", {"warp": 6, "padded": True, "least": 3, "length": 40, "letters": 4}),
    ("semigradient/Warp-v0", {"warp": 3, "variable": False, "length": 20, "letters": 3}),
    ("semigradient/Warp-v0", {"warp": 3, "variable": False, "length": 20, "padded": True}),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
def test_a_guess_by_the_present_symbol_earns_what_is_said(case: tuple[str, dict]) -> None:
    played = episodes(case[0], 4000, **case[1])
    value, error = memoryless_value(played)
    assert value == pytest.approx(played.core.references["memoryless"], abs=4 * error)


@each_case
def test_right_answers_by_all_that_was_seen_earn_the_optimum(case: tuple[str, dict]) -> None:
    played = episodes(case[0], 400, **case[1])
    earned, error = optimum_value(played)
    assert earned == pytest.approx(played.core.references["optimum"], abs=4 * error + 1e-9)


def test_copying_is_the_published_sequence() -> None:
    played = episodes("semigradient/Copy-v0", 20, delay=30)
    assert played.symbol.shape == (20, 50)
    assert (played.symbol[:, :10] < 8).all()
    assert (played.symbol[:, 10:39] == 8).all()
    assert (played.symbol[:, 39] == 9).all()
    assert (played.symbol[:, 40:] == 8).all()
    assert (played.target[:, :40] == 8).all()
    np.testing.assert_array_equal(played.target[:, 40:], played.symbol[:, :10])
    assert not played.is_scored[:, :40].any()
    assert played.is_scored[:, 40:].all()


def test_a_delay_that_varies_is_uniform() -> None:
    played = episodes("semigradient/VariableCopy-v0", 6000, delay=5, letters=2)
    rows, signals = np.nonzero((played.symbol == 9) & played.is_there)
    assert (np.bincount(rows) == 1).all()
    shares = np.bincount(signals, minlength=8)[3:8] / len(signals)
    np.testing.assert_allclose(shares, 0.2, atol=0.02)
    for row, signal in zip(rows[:50], signals[:50], strict=True):
        assert played.is_there[row].sum() == signal + 3
        np.testing.assert_array_equal(
            played.target[row, signal + 1 : signal + 3], played.symbol[row, :2]
        )


def test_a_queue_asks_for_the_bit_of_some_steps_ago() -> None:
    played = episodes("semigradient/Queue-v0", 10, delay=3, length=40)
    np.testing.assert_array_equal(played.target[:, 3:], played.symbol[:, :-3])
    np.testing.assert_array_equal(played.is_scored, np.tile(np.arange(40) >= 3, (10, 1)))
    assert 0.4 < played.symbol.mean() < 0.6


def test_episodes_end_or_are_cut() -> None:
    for env_id, ends in (("semigradient/Copy-v0", True), ("semigradient/Queue-v0", False)):
        env = gymnasium.make(env_id, delay=2)
        env.reset(seed=0)
        flags = [(False, False)]
        while not any(flags[-1]):
            flags.append(env.step(0)[2:4])
        assert len(flags) - 1 == (22 if ends else 100)
        assert flags[-1] == (ends, not ends)


def test_an_evaluation_tells_the_optimum_and_the_value_without_memory() -> None:
    many = envs.make_vector("semigradient/Copy-v0", 2, 0, letters=3, delay=2)
    scores = evaluate(lambda obs, mask: np.zeros(2, np.int64), many, 4)
    assert scores.references == {"optimum": 3.0, "memoryless": 3 / 8}
    assert evaluate(lambda obs, mask: np.zeros(1, np.int64), cart_pole(), 1).references == {}


def test_commands_print_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--agent a2c --env semigradient/Queue-v0 --env-options length=9 delay=4 --hidden 4 "
    words += "--num-envs 2 --steps 40 --eval-episodes 2"
    assert train([*words.split(), *QUIET, "--run-dir", str(tmp_path / "run")]) == 0
    assert "over 2 episodes, optimum 5.00, memoryless 2.50; run" in capsys.readouterr().out
    metrics = (tmp_path / "run/metrics.jsonl").read_text()
    assert '"eval/optimum": 5.0' in metrics
    assert evaluate_command.main([str(tmp_path / "run"), "--episodes", "2"]) == 0
    assert "  exact     optimum 5.00, memoryless 2.50" in capsys.readouterr().out


def cart_pole() -> envs.ExactVector:
    return envs.make_vector("CartPole-v1", 1, 0)


def test_pictures_show_symbols_and_answers_of_the_running_episode() -> None:
    many = envs.make_vector("semigradient/Queue-v0", 2, 0, render=True, delay=1, length=4)
    many.reset()
    frames = [many.frames()]
    for _ in range(5):
        many.step(np.zeros(2, np.int64))
        frames.append(many.frames())
    assert all(frame.shape == (112, 464, 3) for pair in frames for frame in pair)
    columns = [dark_columns(pair[0]) for pair in frames]
    assert columns == [1, 2, 3, 4, 1, 2]  # the episode that has ended is no longer shown


def dark_columns(frame: np.ndarray) -> int:
    """How many symbols are drawn in the upper row."""
    return sum(bool((frame[42:64, 10 + 28 * k : 30 + 28 * k] < 120).any()) for k in range(16))


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("Copy", {"alphabet": 1}, "alphabet=1: must be in"),
        ("Copy", {"delay": 0}, "delay=0: must be ≥ 1"),
        ("Queue", {"delay": 9, "length": 9}, "length=9: must be > delay, here 9"),
    ],
)
def test_odd_options_are_refused(env_id: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        envs.make_vector(f"semigradient/{env_id}-v0", 1, 0, **options)
