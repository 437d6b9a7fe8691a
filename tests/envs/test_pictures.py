"""Frames for people: sizes, the history of games, the place of a point."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from semigradient.envs import make_parallel, make_vector
from semigradient.envs.games.iterated import _outcomes
from semigradient.envs.games.matrix_rendering import _COLOURS, _LIT, frame
from semigradient.envs.music.chorale_rendering import frame as roll_frame
from semigradient.envs.music.chorale_rendering import note_name
from semigradient.envs.pictures import captioned, enlarged, line

PAYOFF = np.array([[-1, -3, 0, -2], [-1, 0, -3, -2]])


def test_small_frames_are_enlarged_in_squares() -> None:
    small = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert enlarged(small).shape == (128, 256, 3)
    np.testing.assert_array_equal(enlarged(small)[::64, ::64], small)
    assert enlarged(np.zeros((300, 10, 3), np.uint8)).shape == (300, 10, 3)
    assert captioned(small, "words").shape == (154, 256, 3)


def test_the_last_outcome_is_lit_and_moves_are_written() -> None:
    def lit(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.nonzero((picture == _LIT).all(2))
        return np.median(rows), np.median(columns)

    top_right, bottom_left = (lit(frame(PAYOFF, [outcome], 1)) for outcome in (1, 2))
    assert top_right[0] < bottom_left[0]
    assert top_right[1] > bottom_left[1]
    assert not (frame(PAYOFF, [], 0) == _LIT).all(2).any()
    one, two = frame(PAYOFF, [0, 1], 2), frame(PAYOFF, [2, 1], 2)
    changed = np.nonzero((one != two).any(2))  # the first player's first letter alone
    assert changed[0].min() > 250
    assert (one == _COLOURS[0]).all(2).any()


@pytest.mark.parametrize(
    ("seen", "rounds", "outcomes"),
    [
        ([0], [0], []),
        ([1], [1], [0]),
        ([0, 1, 4], [0, 1, 2], [0, 3]),
        ([3, 0, 2, 1], [9, 0, 1, 2], [1, 0]),  # another game before
        ([2, 1], [4, 5], [1, 0]),  # the rest is forgotten
    ],
)
def test_the_history_is_of_the_running_game(
    seen: list[int], rounds: list[int], outcomes: list[int]
) -> None:
    assert _outcomes(seen, rounds) == outcomes


def test_games_show_their_past_alone_in_a_vector_and_between_two() -> None:
    """All three forms draw the same picture of the same moves."""
    options = {"horizon": 9, "opponent": "always-defect"}
    alone = gymnasium.make("semigradient/IPD-v0", render_mode="rgb_array", **options).unwrapped
    many = make_vector("semigradient/IPD-v0", 2, 0, render=True, **options)
    both = make_parallel("semigradient/IPD-v0", "rgb_array", horizon=9)
    alone.reset(seed=0)
    many.reset()
    both.reset(seed=0)
    for move in (0, 1, 0):
        alone.step(move)
        many.step(np.array([move, 1]))
        both.step({"first": move, "second": 1})
    wanted = frame(PAYOFF, [1, 3, 1], 3)
    np.testing.assert_array_equal(alone.render(), wanted)
    np.testing.assert_array_equal(many.frames()[0], wanted)
    np.testing.assert_array_equal(both.render(), wanted)
    np.testing.assert_array_equal(many.frames()[1], frame(PAYOFF, [3, 3, 3], 3))


def test_a_point_stands_where_it_is() -> None:
    def place(position: float) -> float:
        return float(np.median(np.nonzero((line(position, -3, 3, "x") == (200, 40, 40)).all(2))[1]))

    left, middle, right = place(-3), place(0), place(3)
    assert middle == pytest.approx((left + right) / 2, abs=1)
    assert place(1.5) == pytest.approx((middle + right) / 2, abs=1)
    assert place(99) == right


def test_rolls_have_axes() -> None:
    roll = torch.tensor([[3, -1], [0, 1]])
    named, numbered = roll_frame(roll, 4, 60), roll_frame(roll, 4, 0)
    assert named.shape == numbered.shape
    changed = np.nonzero((named != numbered).any(2))
    assert changed[1].max() < 46  # labels of pitches alone
    assert [note_name(midi) for midi in (21, 60, 61, 70)] == ["A0", "C4", "C♯4", "B♭4"]
