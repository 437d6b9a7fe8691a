"""Legal actions in every form, and late, missing, misshapen and impossible ones."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from semigradient.envs import make_vector
from semigradient.envs.failures import EnvironmentFailureError
from semigradient.envs.masks import legal
from semigradient.training.stepping import EnvStepper
from support.spaces import registered


@pytest.mark.parametrize(
    ("mask", "sizes", "row"),
    [
        (np.array([1, 0, 1], np.int8), [3], [1, 0, 1]),
        ([True, False, True], [3], [1, 0, 1]),
        (np.array([1.0, 0.0]), [2], [1, 0]),
        (np.array([1, 0, 0, 1, 1]), [2, 3], [1, 0, 0, 1, 1]),
        ((np.array([1, 0]), np.array([0, 1, 1])), [2, 3], [1, 0, 0, 1, 1]),
        ([[1, 0], [0, 1]], [2, 2], [1, 0, 0, 1]),
        (np.array([[1, 0], [0, 1]]), [2, 2], [1, 0, 0, 1]),
        ({"a": np.array([1, 0]), "b": np.array([0, 1, 1])}, [2, 3], [1, 0, 0, 1, 1]),
    ],
)
def test_forms_of_a_mask(mask: Any, sizes: list[int], row: list[int]) -> None:
    read = legal(mask, sizes)
    assert read.dtype == bool
    assert read.tolist() == row


@pytest.mark.parametrize(
    ("mask", "sizes", "words"),
    [
        (np.ones(2), [3], "shape (2,), accepted is (3,)"),
        (np.ones((1, 3)), [3], "shape (1, 3), accepted is (3,)"),
        (np.float64(1), [3], "shape (), accepted is (3,)"),
        ("abc", [3], "shape (), accepted is (3,)"),
        (np.ones(4), [2, 3], "shape (4,), accepted is (5,) or 2 arrays of 2, 3"),
        ((np.ones(3), np.ones(2)), [2, 3], "shape ((3,), (2,))"),
        (np.array([2, 0, 1]), [3], "not of zeros and ones"),
        (np.array([0, -np.inf, 0]), [3], "not of zeros and ones"),
        (np.zeros(3), [3], "forbids every action"),
        (np.array([1, 1, 0, 0, 0]), [2, 3], "forbids every action for choice 1"),
        (np.ones(3), [], "its actions are real numbers"),
    ],
)
def test_masks_that_are_none(mask: Any, sizes: list[int], words: str) -> None:
    with pytest.raises(ValueError, match="an action_mask") as caught:
        legal(mask, sizes)
    assert words in str(caught.value)


class Masked(gymnasium.Env):
    """Gives the masks of a list, one at each step; refuses actions that they forbid."""

    observation_space = spaces.Box(-1, 100, (2,), np.float32)

    def __init__(self, masks: list[Any], action: spaces.Space, shown: bool = False) -> None:
        self.masks, self.action_space, self.shown = masks, action, shown
        if shown:
            inner = {"see": self.observation_space, "action_mask": spaces.MultiBinary(3)}
            self.observation_space = spaces.Dict(inner)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._see()

    def step(self, action: Any) -> Any:
        self._hold(action)
        self.time += 1
        obs, info = self._see()
        return obs, 1.0, self.time == len(self.masks), False, info

    def _hold(self, action: Any) -> None:
        mask = self.masks[self.time]
        if mask is not None and isinstance(self.action_space, spaces.MultiDiscrete):
            assert all(part[chosen] for part, chosen in zip(mask, action, strict=True))
        elif mask is not None:
            start = getattr(self.action_space, "start", 0)
            assert mask[action - start], (mask, action)

    def _see(self) -> Any:
        # An episode that is over has no legal action.
        over = self.time == len(self.masks)
        mask = np.zeros(3, np.int8) if over else self.masks[self.time]
        obs = np.array([self.time, len(self.masks)], np.float32)
        if self.shown:
            return {"see": obs, "action_mask": np.asarray(mask, np.int8)}, {}
        return obs, {} if mask is None else {"action_mask": mask}


FREE, FIRST, LAST = [1, 1, 1], [1, 0, 0], [0, 0, 1]


def seen_masks(masks: list[Any], steps: int, **options: Any) -> list[Any]:
    """The masks of agents that take the first legal action; None where there are none."""
    action = options.pop("action", spaces.Discrete(3))
    with registered("test/Masked-v0", Masked, masks=masks, action=action, **options):
        stepper = EnvStepper(make_vector("test/Masked-v0", 1, 0))
        seen = []
        for _ in range(steps):
            mask = stepper.mask
            seen.append(None if mask is None else mask[0].tolist())
            first = 0 if mask is None else int(mask[0].argmax())
            stepper.step(np.array([first]))
    return seen


def test_masks_that_are_always_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert seen_masks([FIRST, LAST], 3) == [FIRST, LAST, FIRST]
    assert seen_masks([FIRST, LAST], 3, shown=True) == [FIRST, LAST, FIRST]
    start = spaces.Discrete(3, start=-1)
    assert seen_masks([FIRST, LAST], 3, action=start) == [FIRST, LAST, FIRST]
    assert capsys.readouterr().err == ""


def test_masks_that_come_late_are_honoured_from_then_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert seen_masks([None, None, LAST, FIRST], 6) == [None, None, LAST, FIRST, FREE, FREE]
    error = capsys.readouterr().err
    assert "test/Masked-v0 returned no action_mask in reset()" in error
    assert error.count("\n") == 1


def test_without_a_mask_for_once_everything_is_legal(capsys: pytest.CaptureFixture[str]) -> None:
    assert seen_masks([LAST, None, FIRST, None], 5) == [LAST, FREE, FIRST, FREE, LAST]
    error = capsys.readouterr().err
    assert "returned no action_mask in step()" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ([1, 1], "an action_mask of shape (2,), accepted is (3,)"),
        ([0, 0, 0], "an action_mask that forbids every action"),
        ("?", "an action_mask of shape ()"),
    ],
)
def test_a_mask_that_is_none_ends_the_run(mask: Any, words: str) -> None:
    with pytest.raises(EnvironmentFailureError) as caught:
        seen_masks([FIRST, FIRST, mask], 4)
    text = str(caught.value)
    assert text.startswith("environment test/Masked-v0 returned in step() at step 1: ")
    assert words in text


def test_a_mask_of_real_actions_is_refused() -> None:
    with pytest.raises(EnvironmentFailureError, match="but its actions are real numbers"):
        seen_masks([FIRST], 1, action=spaces.Box(-1, 1, (3,), np.float32))


def test_missing_masks_are_the_same_after_resuming() -> None:
    """Whether the environment has masks at all is part of the state."""
    with registered("test/Masked-v0", Masked, masks=[LAST, None], action=spaces.Discrete(3)):
        envs, again = make_vector("test/Masked-v0", 1, 0), make_vector("test/Masked-v0", 1, 0)
    envs.reset()
    envs.step(np.array([2]))
    assert again.load_state_dict(envs.state_dict())
    for form in (envs, again):
        assert form.action_masks().tolist() == [FREE]
        assert form.step(np.array([0]))[-1]["action_mask"].tolist() == [LAST]
