"""Options of every environment of ours and of Atari: one declaration, and one line for a mistake.

An environment joins by being registered: its options are asked for what they say of themselves.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from semigradient import envs, validate
from semigradient.commands import train
from semigradient.envs.adapters import CoreEnv, CoreVector
from semigradient.envs.options import RESERVED, Options
from semigradient.errors import UserError
from semigradient.training import env_help
from semigradient.validate import Among, Range
from support.commands import QUIET

IDS = [*envs.OURS, *envs.REFINED, "semigradient/TimeStep-v0", "ALE/Pong-v5"]


def options_of(env_id: str) -> type:
    cls = envs.options_class(envs.check_id(env_id))
    assert cls is not None
    return cls


def cases() -> list[tuple[str, str]]:
    """Every field of every environment; a field that several inherit is asked for once."""
    seen, found = set(), []
    for env_id in IDS:
        cls = options_of(env_id)
        for field in dataclasses.fields(cls):
            bases = (c for c in cls.__mro__ if field.name in inspect.get_annotations(c))
            owner = next(bases)
            if (owner, field.name) not in seen:
                seen.add((owner, field.name))
                found.append((env_id, field.name))
    return found


def wrong_values(hint: Any) -> list[Any]:
    """Values of every kind that an annotation does not accept."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return [*wrong_values(arguments[0]), *outside(arguments[1])]
    if origin is Literal:
        return ["no such choice", "", True, -7, 1.5, None, [1]]
    if origin in (typing.Union, types.UnionType):
        return [each for each in wrong_values(arguments[0]) if each is not None]
    return {
        int: ["many", "", True, 1.5, None, [1], math.nan, math.inf, 10**30],
        float: ["much", "", True, None, [1.0], math.nan, math.inf, -math.inf, 10**30],
        bool: ["yes", "", 1, 0.0, None],
        str: [5, True, 1.5, ["a"]],
        Any: [5, True, "no such name", [0.5, 2], [[1]], math.nan],
    }[hint]


def outside(rule: Any) -> list[Any]:
    """Values beside a range or a list of names."""
    if isinstance(rule, Among):
        return ["no such name", "", rule.names[0] + "x"]
    assert isinstance(rule, Range)
    low, high = rule.low, rule.high
    found = [low if rule.open_low else low - 1] if math.isfinite(low) else []
    return found + ([high if rule.open_high else high + 1] if math.isfinite(high) else [])


# What text alone can be wrong, beyond its type.
WRONG_TEXTS: dict[str, list[str]] = {
    "folder": ["/no/such/folder"],
    "source": ["", "/no/such/folder", "none.npz", ":"],
    "model": [":", "a:", ":b", "nowhere:maker", "math:sqrt@x", "os:getcwd@", "no-such"],
    "reward": ["", ":", "a:", ":b", "nowhere:maker", "math:sqrt", "os:getcwd"],
    "reward_file": ["/no/such/file"],
    "vocabulary": ["", ":", "/no/such/file", "C[", "[0]", "CC[7]"],
    "engine": ["", "cluster"],
    "ray_address": ["nowhere:1"],
    "task": ["", "voice:", "voice:9", "voice:x", "none"],
    "opponent": ["", "tit-for-tatt", ":"],
    "base": ["", ":", "a:", "nowhere:Env-v0", "CartPole-v9", "no such"],
}


def refused(env_id: str, /, **options: Any) -> str:
    """The one line that an environment has for bad options."""
    with pytest.raises(UserError) as caught:
        envs.make_vector(env_id, 1, 0, **options).close()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(("env_id", "name"), cases())
def test_every_bad_value_of_every_option_is_one_line_that_names_it(env_id: str, name: str) -> None:
    hint = validate.hints_of(options_of(env_id))[name]
    for value in wrong_values(hint):
        text = refused(env_id, **{name: value})
        assert name in text or repr(value) in text, (value, text)


@pytest.mark.parametrize(("env_id", "name"), [case for case in cases() if case[1] in WRONG_TEXTS])
def test_every_bad_text_is_one_line_that_names_it(env_id: str, name: str) -> None:
    for value in WRONG_TEXTS[name]:
        if value != getattr(options_of(env_id), name):
            text = refused(env_id, **{name: value})
            assert value in text or f"{name}:" in text


@pytest.mark.parametrize("env_id", IDS)
def test_names_that_are_no_options_are_one_line(env_id: str) -> None:
    names = {field.name for field in dataclasses.fields(options_of(env_id))}
    others = {"base": "Pendulum-v1"} if "base" in names else {}
    # The limit is Gymnasium's own where the environment is stepped by it.
    limit = set() if others else {"max_episode_steps"}
    for name in {*RESERVED, *limit, "opton", ""} - names:
        if name not in ("self", "render"):  # which Python itself takes
            text = refused(env_id, **{**others, name: 1})
            assert repr(name) in text or f"{name}=" in text
    for device in ("tpu", "", 0, "cuda:99", "meta", None, [1]):
        assert "device" in refused(env_id, **others, device=device)


@pytest.mark.parametrize("env_id", IDS)
def test_help_lists_every_option_with_meaning_and_default(env_id: str) -> None:
    text = env_help.describe(env_id)
    cls = options_of(env_id)
    docs, defaults = validate.documentation(cls), env_help.defaults(envs.check_id(env_id))
    for field in dataclasses.fields(cls):
        assert docs[field.name].endswith("."), f"{field.name}: a sentence"
        assert f"\n  {field.name}" in text
        assert docs[field.name].split()[0] in text
        default = defaults.get(field.name, field.default)
        spoken = "none" if default is None else str(default) or "empty"
        words = " ".join(text.split())
        assert f"default: {spoken.lower() if isinstance(default, bool) else spoken})" in words


@pytest.mark.parametrize("env_id", envs.OURS)
def test_every_number_says_its_range_or_is_any(env_id: str) -> None:
    """Whole numbers always have a range: sizes, counts and seeds below it are mistakes."""
    for name, hint in validate.hints_of(options_of(env_id)).items():
        assert hint is not int, f"{name}: say its range"


def classes() -> list[type]:
    return sorted({options_of(env_id) for env_id in IDS}, key=lambda cls: cls.__qualname__)


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__qualname__)
def test_every_option_is_read_somewhere(cls: type) -> None:
    """By its class, or by what it is handed to: as `self.name` or `options.name`."""
    read: set[str] = set()
    files = {Path(inspect.getfile(base)) for base in cls.__mro__ if issubclass(base, Options)}
    for path in files:
        tree = ast.parse(path.read_text())
        read |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "options", "chosen")
        }
        read |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        if "dataclasses.asdict(" in path.read_text():
            read |= {field.name for field in dataclasses.fields(cls)}
    assert {field.name for field in dataclasses.fields(cls)} <= read


def test_gymnasium_and_the_vector_make_what_the_defaults_say() -> None:
    options = options_of("semigradient/CoinGame-v0")()
    core: Any = gymnasium.make("semigradient/CoinGame-v0").unwrapped.core  # type: ignore[attr-defined]
    vector: Any = envs.make_vector("semigradient/CoinGame-v0", 1, 0)
    assert (
        core.protocol
        == options.make().protocol
        == {key: value for key, value in vector.protocol.items() if key != "env"}
    )
    many = gymnasium.make_vec("semigradient/CoinGame-v0", 3, size=5)
    single: Any = CoreEnv(envs.OURS["semigradient/CoinGame-v0"], size=5, seat=1)
    assert many.single_observation_space == single.observation_space
    assert single.core.seat == 1
    assert envs.make_parallel("semigradient/CoinGame-v0", size=5).game.size == 5


@dataclasses.dataclass(frozen=True)
class Exploding(Options):
    """An environment whose maker raises."""

    size: validate.Count = 1
    """Its size."""

    def make(self, device: str = "cpu") -> Any:
        raise RuntimeError("boom\nand more")


def test_a_maker_that_raises_is_named_with_its_options() -> None:
    place = f"{__name__}:Exploding"
    with pytest.raises(UserError, match=r"Exploding' \(size=3\): RuntimeError: boom$"):
        CoreVector(place, 1, size=3)
    for wrong in ("", ":", "a:", ":b", "nowhere:Options", "math:sqrt", "no colon"):
        with pytest.raises(UserError, match="core="):
            CoreVector(wrong, 1)


class Picky(gymnasium.Env):
    """Somebody else's environment, which raises what it likes."""

    def __init__(self, size: int = 3) -> None:
        raise KeyError(size)


def test_foreign_environments_are_named_with_their_options() -> None:
    gymnasium.register("test/Picky-v0", Picky)
    try:
        text = refused("test/Picky-v0", size=4)
        assert text == "environment 'test/Picky-v0' (size=4): KeyError: 4"
        assert "did you mean size" in refused("test/Picky-v0", sise=4)
        assert "\n  size" in env_help.describe("test/Picky-v0")
    finally:
        gymnasium.registry.pop("test/Picky-v0")


# The command line


@pytest.mark.parametrize(
    ("env_id", "option", "words"),
    [
        ("semigradient/Glimpse-v0", "window=3", ["window=3", "even"]),
        ("semigradient/Glimpse-v0", "windw=4", ["'windw'", "did you mean window"]),
        ("semigradient/Glimpse-v0", "device=tpu", ["device='tpu'", "cpu"]),
        ("semigradient/Glimpse-v0", "seed=3", ["'seed'", "--seed"]),
        ("semigradient/Glimpse-v0", "render=true", ["'render'", "evaluate.py"]),
        ("semigradient/Glimpse-v0", "=3", ["'=3'", "KEY=VALUE"]),
        ("ALE/Pong-v5", "frameskip=0", ["frameskip=0", "[1, 1000]"]),
        ("ALE/Pong-v5", "stack_num=0", ["stack_num=0", "[1, 100]"]),
        ("CartPole-v1", "max_episode_steps=0", ["max_episode_steps=0", "positive"]),
        ("CartPole-v1", "sutton=1", ["'sutton'", "sutton_barto_reward"]),
        ("semigradient/Molecule-v0", "reward=:", ["reward", "':'"]),
    ],
)
def test_the_command_line_says_one_line_before_training(
    env_id: str, option: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--env-options", "--eval-env-options"):
        arguments = ["--agent", "dqn", "--env", env_id, "--buffer-size", "1000", flag, option]
        with pytest.raises(SystemExit) as leaving:
            train([*arguments, *QUIET])
        assert leaving.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert all(word in line for word in words), line


def test_evaluation_sees_what_training_sees(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--agent", "dqn", "--env", "semigradient/Glimpse-v0", "--buffer-size", "1000"]
    with pytest.raises(SystemExit):
        train([*words, "--eval-env-options", "dataset=small-glyphs", *QUIET])
    assert "dataset=small-glyphs: evaluation has the space" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--agent", "dqn"]])
def test_help_of_an_environment_follows_the_other_help(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        train([*words, "--env", "semigradient/Glimpse-v0", "--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert text.index("--eval-episodes") < text.index("options of semigradient/Glimpse-v0")
    assert "max_steps          Steps after which an episode is cut off. (≥ 1; default: 20)" in text


# Actions


def wrong_actions(space: spaces.Space, batch: int) -> list[Any]:
    """Actions of `batch` environments that none of them can take."""
    good = np.stack([space.sample() for _ in range(batch)])
    found = [good[:1], np.concatenate([good, good]), good[..., None], np.array(None)]
    found += [np.full(good.shape, "up")]
    if isinstance(space, spaces.Box):
        return [*found, np.full(good.shape, np.nan), np.full(good.shape, np.inf)]
    return [*found, good * 0 - 1, good * 0 + 10_000, good + 0.5, np.full(good.shape, np.nan)]


CHEAP = [name for name in envs.OURS if "horal" not in name or "Toy" in name]


@pytest.mark.parametrize("env_id", [*CHEAP, "ALE/Pong-v5", "CartPole-v1", "Pendulum-v1"])
def test_wrong_actions_are_one_clear_error(env_id: str) -> None:
    small = {"initial": 12} if "Active" in env_id else {}
    vector = envs.make_vector(env_id, 2, 0, **small)
    vector.reset()
    for actions in wrong_actions(vector.single_action_space, 2):
        with pytest.raises(UserError, match=r"^actions=.*: must .*\(action space "):
            vector.step(actions)
    vector.close()
    if env_id not in envs.OURS:
        return
    env = gymnasium.make(env_id, **small).unwrapped
    env.reset(seed=0)
    for actions in wrong_actions(vector.single_action_space, 1)[2:]:
        if np.shape(actions) != (1, *(vector.single_action_space.shape or ())):
            continue
        with pytest.raises(UserError, match=r"^actions="):
            env.step(actions[0])


def test_one_action_is_not_broadcast_to_two_environments() -> None:
    vector = envs.make_vector("semigradient/CartPole-v0", 2, 0)
    vector.reset()
    with pytest.raises(UserError, match=r"must have shape \(2,\), not \(1,\)"):
        vector.step(np.array([1]))
    assert torch.equal(vector.state.steps, torch.zeros(2, dtype=torch.int64))  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class Needed:
    """An option without default."""

    base: str
    size: int = 3


def test_an_option_without_default_is_asked_for() -> None:
    assert validate.build(Needed, {"base": "x"}) == Needed("x")
    with pytest.raises(UserError, match="option of Walk 'base': must be given"):
        validate.build(Needed, {"size": 4}, "option of Walk")
