"""Every option of an environment of ours changes what it does, or is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from semigradient import envs
from semigradient.envs.options import Options
from semigradient.errors import UserError
from semigradient.validate import Among, Range

SLOW = {"semigradient/ActiveMolecule-v0": "options of Molecule and ActiveHyperGrid"}
QUICK = [name for name in envs.OURS if ("horal" not in name or "Toy" in name) and name not in SLOW]
SMALL = {"initial": 12, "queries": 4, "rounds": 2}
NOT_SEEN = {
    "device": "where it computes, not what",
    "workers": "how it computes, not what",
    "engine": "needs workers",
    "ray_address": "needs a cluster",
    "folder": "needs files",
    "base": "tests/envs/control",
    "model": "needs a model",
    "semigradient/Molecule-v0 reward": "tests/envs/molecules",
    "vocabulary": "tests/envs/molecules",
    "opponent": "tests/envs/games",
    "payoff": "tests/envs/games",
    "task": "tests/envs/music",
    "reward_file": "needs files",
    "modes_file": "tests/envs/constructions",
    "scores_file": "tests/envs/constructions",
    "semigradient/Sequences-v0 letters": "tests/envs/constructions",
    "second": "tests/agents/gflownet",
}


def class_of(env_id: str) -> type[Options]:
    cls = envs.options_class(envs.check_id(env_id))
    assert cls is not None
    return cls


def cases() -> list[tuple[str, str]]:
    return [
        (env_id, field.name)
        for env_id in QUICK
        for field in dataclasses.fields(class_of(env_id))
        if not {field.name, f"{env_id} {field.name}"} & set(NOT_SEEN)
    ]


def others(hint: Any, value: Any) -> list[Any]:
    """Valid values that differ from `value`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [other for one in arguments for other in others(one, value)]
    if origin is Literal:
        return [one for one in arguments if one != value]
    if origin is Annotated and isinstance(arguments[1], Among):
        return [one for one in arguments[1].names if one != value]
    if origin is Annotated and isinstance(arguments[1], Range):
        lattice = [arguments[0](number) for number in (0, 0.25, 0.7, 1, 2, 3, 4, 6, 12)]
        return [one for one in lattice if one != value and inside(arguments[1], one)]
    if hint is bool:
        return [not value]
    return [hint(value) + hint(1)] if hint in (int, float) else []


def inside(allowed: Range, number: Any) -> bool:
    try:
        allowed.check("number", number)
    except UserError:
        return False
    return True


def trace(env_id: str, options: dict[str, Any]) -> str:
    """Spaces, protocol, and what random legal actions lead to."""
    vector = envs.make_vector(env_id, 4, 0, **options)
    rng = np.random.default_rng(0)
    found = [str(vector.single_action_space), str(vector.single_observation_space)]
    found.append(str(getattr(vector, "protocol", "")))
    observation, infos = vector.reset(seed=3)
    for _ in range(40):
        mask = infos.get("action_mask")
        if mask is None:
            size = vector.action_space
            size.seed(int(rng.integers(2**31)))
            actions = size.sample()
        else:
            actions = (rng.random(mask.shape) * np.asarray(mask)).argmax(-1)
        observation, reward, *ends, infos = vector.step(actions)
        found.append(repr((np.asarray(observation).tobytes(), reward.tolist(), ends)))
    vector.close()
    return "".join(found)


def small_options(env_id: str) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(class_of(env_id))}
    return {key: value for key, value in SMALL.items() if key in known}


@cache
def usual(env_id: str) -> str:
    """The trace of its options as they are, which all of them are compared with."""
    return trace(env_id, small_options(env_id))


@pytest.mark.parametrize(("env_id", "name"), cases())
def test_an_option_changes_something_or_is_refused(env_id: str, name: str) -> None:
    cls = class_of(env_id)
    known = {field.name: field for field in dataclasses.fields(cls)}
    small = small_options(env_id)
    before = usual(env_id)
    default = small.get(name, known[name].default)
    hint = typing.get_type_hints(cls, include_extras=True)[name]
    for value in others(hint, default):
        with contextlib.suppress(UserError):
            if trace(env_id, {**small, name: value}) != before:
                return
    # No value had an effect: then every one was refused, by name.
    values = others(hint, default)
    assert values, f"{name}: no other value to try"
    for value in values:
        with pytest.raises(UserError, match=name):
            trace(env_id, {**small, name: value})


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("ChoraleFill", {"mix": 0.3}, r"^mix=0.3: acts only with reward='mixed', not reward="),
        ("ToyChorale", {"context_rate": 0.3}, r"^context_rate=0.3: acts only with task='inpaint'"),
        ("ChoraleRewrite", {"score": "frame", "masks": 3}, r"^masks=3: acts only with score="),
        ("Chorales", {"rate": 0.3}, r"^rate=0.3: acts only with task='inpaint'"),
        ("IPD", {"slope": 2.0}, r"^slope=2.0: acts only with opponent='extortion', not opponent='"),
        ("LogisticGame", {"opponent": "still", "lr": 0.5}, r"^lr=0.5: acts only with opponent="),
        ("HyperGrid", {"reward": "cosine", "r2": 3.0}, r"^r2=3.0: acts only with reward='corners'"),
        ("HyperGrid", {"reward_seed": 1}, r"^reward_seed=1: acts only with reward='uniform' or "),
        ("HyperGrid", {"preference": 0.3}, r"^preference=0.3: acts only with second='corners' or "),
        (
            "BitSequences",
            {"modes_file": "x", "modes": 3},
            r"^modes=3: acts only with modes_file=''",
        ),
        ("Sequences", {"scores_file": "x", "scores_seed": 3}, r"^scores_seed=3: acts only with sc"),
        ("Molecule", {"reward_seed": 1}, r"^reward_seed=1: acts only with reward='dock_like', not"),
        ("Glimpse", {"verify": False}, r"^verify=False: acts only with dataset='svhn' or dataset="),
        ("Regression", {"folder": "x"}, r"^folder='x': acts only with dataset='sarcos' or dataset"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    env_id: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        class_of(f"semigradient/{env_id}-v0")(**options)
