"""What agents see of an environment's spaces, and what it receives of their actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from semigradient.envs import make_vector
from semigradient.envs.forms import Acted, Parts, Seen
from semigradient.errors import UserError
from support.spaces import Spaced, registered

PIXELS = spaces.Box(0, 255, (2, 2, 3), np.uint8)
MIXED = spaces.Dict(
    {
        "picture": PIXELS,
        "way": spaces.Discrete(3, start=5),
        "rest": spaces.Tuple([spaces.MultiBinary(2), spaces.Text(8)]),
    }
)


@pytest.mark.parametrize(
    ("space", "value", "seen", "dtype"),
    [
        (spaces.Box(-1, 1, (2,), np.float32), np.array([0.5, -0.5]), [0.5, -0.5], np.float32),
        (spaces.Box(-1, 1, (), np.float32), np.array(0.5), [0.5], np.float32),
        (spaces.Discrete(3), 1, [0, 1, 0], np.uint8),
        (spaces.Discrete(3, start=-1), -1, [1, 0, 0], np.uint8),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2]), [0, 1, 0, 0, 1], np.uint8),
        (
            spaces.MultiDiscrete([[2], [3]], start=[[1], [4]]),
            np.array([[2], [4]]),
            [0, 1, 1, 0, 0],
            np.uint8,
        ),
        (spaces.MultiBinary([2, 2]), np.array([[1, 0], [0, 1]]), [1, 0, 0, 1], np.uint8),
        (
            spaces.Tuple([spaces.Discrete(2), spaces.Box(-9, 9, (1,), np.float32)]),
            (1, np.array([2.5])),
            [0, 1, 2.5],
            np.float32,
        ),
        (
            MIXED,
            {"picture": np.full((2, 2, 3), 7), "way": 6, "rest": (np.array([1, 0]), "north")},
            [*[7] * 12, *[1, 0], *[0, 1, 0]],  # keys of a Dict are sorted
            np.uint8,
        ),
    ],
)
def test_observations(space: spaces.Space, value: Any, seen: list[float], dtype: Any) -> None:
    form = Seen(space, "x")
    row = form(value)
    assert row.tolist() == pytest.approx(seen)
    assert form.space.shape == row.shape
    assert form.space.dtype == dtype
    assert form.space.contains(row.astype(dtype))


def test_where_the_parts_of_a_mixed_observation_lie() -> None:
    form = Seen(MIXED, "x")
    assert isinstance(form.space, Parts)
    assert [part.shape for part in form.space.parts] == [(2, 2, 3), (2,), (3,)]
    assert form.left_out == ["['rest'][1]"]


def test_a_mask_in_the_observation_is_no_part_of_it() -> None:
    shown = spaces.Dict({"see": PIXELS, "action_mask": spaces.MultiBinary(4)})
    form = Seen(shown, "x")
    assert form.masked
    assert form.space.shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("space", "agents", "row", "received"),
    [
        (spaces.Discrete(3), spaces.Discrete(3), 2, 2),
        (spaces.Discrete(3, start=-1), spaces.Discrete(3), 0, -1),
        (
            spaces.MultiDiscrete([[2, 3], [4, 5]]),
            spaces.MultiDiscrete([2, 3, 4, 5]),
            [1, 2, 3, 4],
            [[1, 2], [3, 4]],
        ),
        (
            spaces.MultiDiscrete([2, 3], start=[1, -1]),
            spaces.MultiDiscrete([2, 3]),
            [0, 0],
            [1, -1],
        ),
        (spaces.MultiBinary([2, 1]), spaces.MultiBinary(2), [1, 0], [[1], [0]]),
        (
            spaces.Box(-1, 1, (2, 2), np.float32),
            spaces.Box(-1, 1, (4,), np.float32),
            [0.1, 0.2, 0.3, 0.4],
            [[0.1, 0.2], [0.3, 0.4]],
        ),
        (spaces.Box(0, 2, (), np.float32), spaces.Box(0, 2, (1,), np.float32), [0.5], 0.5),
        (
            spaces.Box(0, 10, (2,), np.int32),
            spaces.Box(0, 10, (2,), np.float32),
            [3.6, 11.0],
            [4, 10],
        ),
        (
            spaces.Box(-(2**63), 2**63 - 1, (1,), np.int64),
            spaces.Box(-np.inf, np.inf, (1,), np.float32),
            [-2.4],
            [-2],
        ),
        (spaces.Box(0, 255, (1,), np.uint8), spaces.Box(0, 255, (1,), np.float32), [-3.0], [0]),
        (
            spaces.Dict({"a": spaces.Discrete(2), "b": spaces.MultiBinary(2)}),
            spaces.MultiDiscrete([2, 2, 2]),
            [1, 0, 1],
            {"a": 1, "b": [0, 1]},
        ),
        (
            spaces.Tuple([spaces.Box(0, 1, (1,), np.float64), spaces.Box(0, 9, (), np.int16)]),
            spaces.Box(np.zeros(2, np.float32), np.array([1, 9], np.float32)),
            [0.5, 8.7],
            ([0.5], 9),
        ),
    ],
)
def test_actions(space: spaces.Space, agents: spaces.Space, row: Any, received: Any) -> None:
    form = Acted(space, "x")
    assert form.space == agents
    given = np.array(row, agents.dtype) if isinstance(row, list) else row
    action = form(given)
    assert space.contains(action)
    assert _plain(action) == _close(received)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.tolist() if isinstance(value, np.ndarray) else value


def _close(value: Any) -> Any:
    if isinstance(value, (dict, tuple)):
        return value
    rounded: Any = np.float32(value).tolist() if np.ndim(value) else value
    return rounded


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(2), "observation space Sequence"),
        (
            spaces.Dict({"a": spaces.Graph(PIXELS, None)}),
            spaces.Discrete(2),
            "observation['a'] space Graph",
        ),
        (spaces.Text(4), spaces.Discrete(2), "nothing of the observation space"),
        (PIXELS, spaces.Text(4), "action space Text"),
        (
            PIXELS,
            spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (1,))]),
            "real numbers or choices, not both",
        ),
    ],
)
def test_spaces_without_a_form_are_refused(observation: Any, action: Any, words: str) -> None:
    kwargs = {"observation": observation, "action": action}
    with registered("test/Spaced-v0", Spaced, **kwargs), pytest.raises(UserError) as caught:
        make_vector("test/Spaced-v0", 1, 0)
    assert words in str(caught.value)
    assert "environment 'test/Spaced-v0'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_published_tuple_of_numbers() -> None:
    envs = make_vector("Blackjack-v1", 2, 0)
    obs, _ = envs.reset()
    plain, _ = gymnasium.make("Blackjack-v1").reset(seed=envs.seed_of(1, 0))
    hot = np.flatnonzero(obs[1]) - [0, 32, 43]
    assert hot.tolist() == list(plain)
    assert obs.shape == (2, 45)


def test_texts_are_left_out_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    with registered("test/Spaced-v0", Spaced, observation=MIXED, action=spaces.Discrete(2)):
        envs = make_vector("test/Spaced-v0", 3, 0)
    assert envs.protocol["left_out"] == ["['rest'][1]"]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no texts: observation['rest'][1]" in error


def test_an_environment_that_overwrites_what_it_is_given_and_gave() -> None:
    """The history of actions and the observations that were handed out stay as they were."""
    observation = spaces.Box(-1, 1, (2,), np.float32)
    action = spaces.Box(-1, 1, (3,), np.float32)
    with registered("test/Spaced-v0", Spaced, observation=observation, action=action):
        envs, again = make_vector("test/Spaced-v0", 2, 0), make_vector("test/Spaced-v0", 2, 1)
    handed = [envs.reset()[0]]
    actions = np.linspace(-1, 1, 18, dtype=np.float32).reshape(3, 2, 3)
    before = actions.copy()
    for row in actions:
        handed.append(envs.step(row)[0])
    copies = [obs.copy() for obs in handed]
    envs.step(actions[0])
    np.testing.assert_array_equal(actions, before)
    np.testing.assert_array_equal(handed, copies)
    state = envs.state_dict()
    np.testing.assert_array_equal(state["actions"]["1"], [*before[:, 1], before[0, 1]])
    assert again.load_state_dict(state)
