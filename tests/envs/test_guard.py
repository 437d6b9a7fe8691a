"""What an environment does wrong: one line that names it, the method, the field and both values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from semigradient.envs import ExactVector, guard, make_vector
from semigradient.envs.failures import EnvironmentFailureError
from semigradient.envs.guard import EVERY, FIRST
from semigradient.errors import UserError
from semigradient.training.stepping import EnvStepper

BYTES = spaces.Box(0, 255, (3, 40, 40), np.uint8)
VECTOR = spaces.Box(-1, 1, (4,), np.float32)
NOTHING: dict[str, Any] = {}


class Wrong(gymnasium.Env):
    """Right until its `when`-th step (0: the reset), where it returns `what`, or raises it."""

    action_space = spaces.Discrete(2)
    render_mode = "rgb_array"
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self, space: Any, when: int = 0, what: Any = None, field: str = "obs", **_: Any
    ) -> None:
        self.observation_space, self.when, self.what, self.field = space, when, what, field
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(0)
        return self._answer((self.observation_space.sample(), {}), self.when == 0)

    def step(self, action: int) -> Any:
        self.time += 1
        right = (self.observation_space.sample(), 1.0, False, False, {})
        return self._answer(right, self.when == self.time)

    def render(self) -> Any:
        return self.what if self.field == "render" else np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        if self.field == "close":
            raise self.what

    def _answer(self, right: tuple[Any, ...], is_time: bool) -> Any:
        if not is_time or self.field in ("render", "close"):
            return right
        if isinstance(self.what, Exception):
            raise self.what
        if self.field == "all":
            return self.what
        names = ["obs", "info"]
        if len(right) == 5:
            names = ["obs", "reward", "terminated", "truncated", "info"]
        at = names.index(self.field)
        return (*right[:at], self.what, *right[at + 1 :])


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("test/Wrong-v0", Wrong)
    gymnasium.register("test/WrongLimited-v0", Wrong, max_episode_steps=50)
    yield
    del gymnasium.registry["test/Wrong-v0"], gymnasium.registry["test/WrongLimited-v0"]


def play(envs: ExactVector, steps: int) -> None:
    stepper = EnvStepper(envs)
    for _ in range(steps):
        stepper.step(np.ones(2, np.int64))


def failure(name: str = "test/Wrong-v0", steps: int = 3, **options: Any) -> str:
    """What is said about it."""
    with pytest.raises(EnvironmentFailureError) as caught:
        play(make_vector(name, 2, 0, **options), steps)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"environment {name} ")
    return text


OBSERVATIONS: list[tuple[spaces.Space, Any, list[str]]] = [
    (BYTES, np.full((3, 40, 40), 0.5), ["float64 in [0.5, 0.5]", "uint8 in [0, 255]"]),
    (BYTES, np.full((3, 40, 40), 300), ["in [300, 300]", "[0, 255]"]),
    (BYTES, np.full((3, 40, 40), -1), ["in [-1, -1]", "[0, 255]"]),
    (BYTES, np.zeros((40, 40, 3), np.uint8), ["shape (40, 40, 3)", "shape (3, 40, 40)"]),
    (VECTOR, 0.5, ["shape ()", "shape (4,)"]),
    (VECTOR, np.zeros((1, 4), np.float32), ["shape (1, 4)", "shape (4,)"]),
    (VECTOR, np.zeros(1, np.float32), ["shape (1,)", "shape (4,)"]),
    (VECTOR, np.full(4, 255.0, np.float32), ["in [255, 255]", "[-1.0, 1.0]"]),
    (VECTOR, np.array([0, np.nan, 0, 0], np.float32), ["nan"]),
    (VECTOR, None, ["None", "float32 of shape (4,)"]),
    (VECTOR, "north", ["'north'", "float32 of shape (4,)"]),
    (VECTOR, np.zeros(4, complex), ["complex", "float32 of shape (4,)"]),
    (VECTOR, [[1.0, 2.0], [3.0]], ["list of 2", "float32 of shape (4,)"]),
    (spaces.Discrete(5), 5, [" 5,", "Discrete(5)"]),
    (spaces.Discrete(5, start=2), 1, [" 1,", "Discrete(5, start=2)"]),
    (spaces.Discrete(5), 1.5, ["1.5", "Discrete(5)"]),
    (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), ["[1, 3]", "MultiDiscrete([2 3])"]),
    (spaces.MultiBinary(3), np.array([0, 1, 2]), ["[0, 1, 2]", "MultiBinary(3)"]),
    (
        spaces.Dict({"a": VECTOR, "b": spaces.Discrete(2)}),
        {"a": np.zeros(4, np.float32)},
        ["keys 'a'", "'a', 'b'"],
    ),
    (
        spaces.Dict({"a": spaces.Dict({"c": VECTOR})}),
        {"a": {"c": np.zeros(3, np.float32)}},
        ["observation['a']['c'] of shape (3,)", "shape (4,)"],
    ),
    (spaces.Tuple([VECTOR, VECTOR]), (np.zeros(4, np.float32),), ["of 1", "a tuple of 2"]),
]


@pytest.mark.parametrize("when", [0, 2])
@pytest.mark.parametrize(("space", "what", "words"), OBSERVATIONS)
def test_a_wrong_observation(space: spaces.Space, what: Any, words: list[str], when: int) -> None:
    text = failure(space=space, when=when, what=what)
    method = ["returned in step() at step 2:", "environment 0 of 2, action 1"]
    wanted = [*words, "observation", *(method if when else ["returned in reset():"])]
    assert [word for word in wanted if word not in text] == [], text


@pytest.mark.parametrize(
    ("field", "what", "words"),
    [
        ("reward", None, ["a reward None", "one number"]),
        ("reward", "1.0", ["a reward '1.0' (str)", "one number"]),
        ("reward", np.ones(2), ["shape (2,)", "one number"]),
        ("reward", [1.0], ["a list of 1", "one number"]),
        ("reward", 1j, ["1j", "one number"]),
        ("reward", float("nan"), ["non-finite reward nan at step 2", "environment 0 of 2"]),
        ("reward", np.float32("inf"), ["non-finite reward inf at step 2"]),
        ("terminated", None, ["terminated = None", "True or False"]),
        ("terminated", "False", ["terminated = 'False'", "True or False"]),
        ("truncated", {}, ["truncated = {} (dict)", "True or False"]),
        ("truncated", np.array([True]), ["truncated = ndarray of shape (1,)"]),
        ("info", None, ["an info of type None", "a dict"]),
        ("info", [], ["an info of type a list of 0", "a dict"]),
        ("all", (np.zeros(4), 1.0, False, {}), ["got 4", "five values"]),
        ("all", None, ["None", "five values"]),
        ("obs", KeyError("goal"), ["raised at step 2: KeyError: 'goal' in step()", "action 1"]),
    ],
)
@pytest.mark.parametrize("name", ["test/Wrong-v0", "test/WrongLimited-v0"])
def test_a_wrong_step(name: str, field: str, what: Any, words: list[str]) -> None:
    text = failure(name, space=VECTOR, when=2, what=what, field=field)
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (np.zeros(4, np.float32), ["returned in reset()", "ndarray of shape (4,)", "two values"]),
        ((np.zeros(4), {}, {}), ["a tuple of 3", "two values"]),
        ((np.zeros(4), None), ["an info of type None", "a dict"]),
        (OSError("no such map"), ["raised: OSError: no such map in reset()"]),
    ],
)
def test_a_wrong_reset(what: Any, words: list[str]) -> None:
    text = failure(space=VECTOR, what=what, field="all")
    assert [word for word in words if word not in text] == [], text


def test_values_are_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = make_vector("test/Wrong-v0", 1, 0, space=VECTOR, when=10**6)
    envs.reset()
    seen, taken, right = [], [], guard.hold
    monkeypatch.setattr(guard, "hold", lambda *rest: (seen.append(len(taken)), right(*rest))[1])
    for step in range(1, 2 * EVERY + FIRST + 1):
        taken.append(step)
        envs.step(np.zeros(1, np.int64))
    assert seen == [*range(1, FIRST + 1), FIRST + EVERY, FIRST + 2 * EVERY]


@pytest.mark.parametrize("what", [None, np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3))])
def test_a_wrong_picture(what: Any) -> None:
    envs = make_vector("test/Wrong-v0", 1, 0, render=True, space=VECTOR, what=what, field="render")
    envs.reset()
    with pytest.raises(EnvironmentFailureError, match=r"in render\(\): a frame.*uint8 of shape"):
        envs.frames()


def test_what_close_raises_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"space": VECTOR, "what": OSError("gone"), "field": "close"}
    make_vector("test/Wrong-v0", 1, 0, **options).close()
    error = capsys.readouterr().err
    assert error == "warning: environment test/Wrong-v0 raised in close(): OSError: gone\n"


def test_what_is_right_enough_is_accepted() -> None:
    """Other floats, other integers within bounds, lists, numbers of NumPy, bounds left a little."""
    for space, what in [
        (VECTOR, np.full(4, 1.5)),
        (VECTOR, [0.0, 0.5, 0.5, 0.0]),
        (VECTOR, np.ones(4, np.int64)),
        (BYTES, np.full((3, 40, 40), 200)),
        (spaces.Discrete(3), np.int32(2)),
        (spaces.Discrete(3), np.array(2)),
        (spaces.MultiBinary(2), [True, False]),
    ]:
        envs = make_vector("test/Wrong-v0", 1, 0, space=space, when=1, what=what)
        envs.reset()
        obs = envs.step(np.zeros(1, np.int64))[0]
        assert obs.dtype == envs.single_observation_space.dtype
        if isinstance(space, spaces.Box):
            np.testing.assert_array_equal(obs[0], np.asarray(what, space.dtype))
    for field, what, read in [
        ("reward", np.float32(2), 2.0),
        ("reward", 3, 3.0),
        ("reward", np.array(4.0), 4.0),
        ("terminated", np.bool_(True), True),
        ("terminated", 1, True),
    ]:
        envs = make_vector("test/Wrong-v0", 1, 0, space=VECTOR, when=1, what=what, field=field)
        envs.reset()
        _, rewards, terminated, _, _ = envs.step(np.zeros(1, np.int64))
        assert (rewards if field == "reward" else terminated)[0] == read


class Odd(gymnasium.Env):
    """Its spaces are no spaces, or others in every copy."""

    copies = 0

    def __init__(self, kind: str) -> None:
        Odd.copies += 1
        size = Odd.copies if kind == "other" else 2
        self.observation_space = spaces.Box(-1, 1, (size,), np.float32)
        self.action_space = None if kind == "none" else spaces.Discrete(2)
        if kind == "raise":
            raise KeyError("a map\nthat is not there")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("none", "action_space is None, must be a Gymnasium space"),
        ("other", "copy 1 has the observation_space"),
        ("raise", "KeyError"),
    ],
)
def test_a_wrong_construction(kind: str, words: str) -> None:
    gymnasium.register("test/Odd-v0", Odd)
    try:
        with pytest.raises(UserError, match=words) as caught:
            make_vector("test/Odd-v0", 2, 0, kind=kind)
    finally:
        del gymnasium.registry["test/Odd-v0"]
    assert "test/Odd-v0" in str(caught.value)
    assert "\n" not in str(caught.value)


class WrongVector(VectorEnv):
    """A vector form that is right but for one field of its second step, or of its reset."""

    def __init__(self, num_envs: int, field: str = "", what: Any = None) -> None:
        self.num_envs, self.field, self.what = num_envs, field, what
        self.single_observation_space, self.single_action_space = VECTOR, spaces.Discrete(2)
        self.observation_space = batch_space(VECTOR, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        obs = np.zeros((self.num_envs, 4), np.float32)
        return self.what if self.field == "reset" else (obs, {})

    def step(self, actions: np.ndarray) -> Any:
        self.time += 1
        actions[:] = 7
        count = self.num_envs
        answer = {
            "obs": np.zeros((count, 4), np.float32),
            "reward": np.ones(count),
            "terminated": np.zeros(count, bool),
            "truncated": np.zeros(count, bool),
            "infos": {},
        }
        if self.time == 2 and self.field in answer:
            answer[self.field] = self.what
        return self.what if self.field == "all" else tuple(answer.values())


@pytest.mark.parametrize(
    ("field", "what", "words"),
    [
        ("", None, []),
        ("reset", np.zeros((2, 4)), ["returned in reset()", "two values"]),
        ("reset", (None, {}), ["observations None"]),
        ("all", (1, 2, 3, 4), ["a tuple of 4", "five values"]),
        ("obs", np.zeros(4, np.float32), ["4 observations, declared is 2"]),
        ("obs", np.zeros((2, 3), np.float32), ["environment 0 of shape (3,)", "shape (4,)"]),
        ("obs", np.full((2, 4), 99, np.float32), ["[99, 99]", "[-1.0, 1.0]"]),
        ("reward", 1.0, ["rewards float64 of shape ()", "each of 2 environments"]),
        ("reward", np.array([1, np.nan]), ["non-finite reward nan", "environment 1 of 2"]),
        ("terminated", np.array([0.0, 1.0]), ["terminated float64", "each of 2"]),
        ("truncated", None, ["truncated object"]),
        ("terminated", np.array([True, False]), ["no infos['final_obs']"]),
        ("infos", [], ["infos of type a list of 0", "a dict"]),
        ("infos", {"action_mask": np.zeros((2, 2))}, ["an action_mask that forbids every action"]),
        ("infos", {"action_mask": np.ones((2, 3))}, ["action_mask of shape (3,)", "(2,)"]),
    ],
)
def test_a_wrong_vector_form(field: str, what: Any, words: list[str]) -> None:
    gymnasium.register("test/WrongVector-v0", vector_entry_point=WrongVector)
    try:
        actions = np.ones(2, np.int64)
        if not words:
            envs = make_vector("test/WrongVector-v0", 2, 0)
            envs.reset()
            envs.step(actions)
            assert actions.tolist() == [1, 1]  # it wrote into a copy
            return
        with pytest.raises(EnvironmentFailureError) as caught:
            play(make_vector("test/WrongVector-v0", 2, 0, field=field, what=what), 2)
    finally:
        del gymnasium.registry["test/WrongVector-v0"]
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text


class Exact(ExactVector):
    """Another package's vector form with a state, whose reset is wrong."""

    def __init__(self, num_envs: int, seed: int, what: str = "", render_mode: Any = None) -> None:
        super().__init__(num_envs, seed)
        self.what = what
        self.single_observation_space, self.single_action_space = VECTOR, spaces.Discrete(2)
        self.observation_space = batch_space(VECTOR, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, **_: Any) -> Any:
        if self.what == "raise":
            raise KeyError("no map")
        shape = (self.num_envs, 4) if self.what == "type" else (self.num_envs, 3)
        return np.zeros(shape, np.float32 if self.what == "shape" else np.float64), {}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("raise", "raised at step 0: KeyError: 'no map' in reset()"),
        ("shape", "observations float32 of shape (2, 3)"),
        ("type", "observations float64 of shape (2, 4)"),
    ],
)
def test_the_first_answer_of_an_exact_form(what: str, words: str) -> None:
    gymnasium.register("test/Exact-v0", vector_entry_point=Exact)
    try:
        with pytest.raises(EnvironmentFailureError) as caught:
            EnvStepper(make_vector("test/Exact-v0", 2, 0, what=what))
    finally:
        del gymnasium.registry["test/Exact-v0"]
    assert words in str(caught.value)
    assert "test/Exact-v0" in str(caught.value)


@pytest.mark.parametrize(("space", "what", "words"), [OBSERVATIONS[0], *OBSERVATIONS[3:7]])
def test_shapes_and_types_are_looked_at_in_every_step(
    space: spaces.Space, what: Any, words: list[str]
) -> None:
    text = failure(space=space, when=FIRST + 5, what=what, steps=FIRST + 5)
    assert [word for word in words if word not in text] == [], text
