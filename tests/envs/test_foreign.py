"""Ids that other packages register: by their module, and in vector forms."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from semigradient.envs import check_id, make_vector
from semigradient.envs.adapters import CoreVector
from semigradient.envs.foreign import ForeignVector
from semigradient.envs.images import glimpse
from semigradient.envs.sync import SyncVector
from semigradient.errors import UserError

STEPS = 3


class Counting(VectorEnv):
    """Counts its steps to three, from a start that its seed chooses."""

    mode: AutoresetMode

    def __init__(self, num_envs: int, start: int = 0, render_mode: str | None = None) -> None:
        self.num_envs, self.start = num_envs, start
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": self.mode}
        self.count = np.zeros(num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        chosen = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if seed is not None:
            self.root = float(seed % 1000)
        self.count[chosen] = self.start
        return self._observe(), {"action_mask": np.ones((self.num_envs, 2), bool)}

    def step(self, actions: np.ndarray) -> Any:
        self.count += 1 + actions
        ended = self.count >= STEPS
        infos: dict[str, Any] = {}
        obs = self._observe()
        if ended.any() and self.mode is AutoresetMode.SAME_STEP:
            infos = {"final_obs": np.array([*obs, None], object)[:-1], "_final_obs": ended}
            obs, _ = self.reset(options={"reset_mask": ended})
        cut = np.zeros(self.num_envs, bool)
        return obs, self.count.copy(), ended, cut, infos

    def _observe(self) -> np.ndarray:
        return np.stack([self.count, np.full(self.num_envs, self.root)], 1).astype(np.float32)


def counting(mode: AutoresetMode) -> type[Counting]:
    return type("Counting", (Counting,), {"mode": mode})


@pytest.fixture
def register() -> Iterator[Any]:
    """`register(**points)`: an id of those entry points, gone afterwards."""
    added: list[str] = []

    def add(**points: Any) -> str:
        added.append(f"Foreign{len(added)}-v0")
        gymnasium.register(added[-1], **points)
        return added[-1]

    yield add
    for name in added:
        gymnasium.registry.pop(name)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_vector_form_alone_resets_in_the_same_step(register: Any, mode: AutoresetMode) -> None:
    envs = make_vector(register(vector_entry_point=counting(mode)), 2, 5, start=1)
    assert isinstance(envs, ForeignVector)
    obs, infos = envs.reset()
    assert obs[:, 0].tolist() == [1, 1]
    assert infos["action_mask"].all()
    obs, _, terminated, truncated, infos = envs.step(np.array([0, 1]))
    assert (terminated.tolist(), truncated.any()) == ([False, True], False)
    assert obs[:, 0].tolist() == [2, 1]
    assert infos["final_obs"][1, 0] == STEPS
    assert infos["_final_obs"].tolist() == [False, True]


def test_a_vector_form_alone_resumes_with_fresh_episodes(register: Any) -> None:
    name = register(vector_entry_point=counting(AutoresetMode.DISABLED))
    envs, again = make_vector(name, 2, 5), make_vector(name, 2, 5)
    first, _ = envs.reset()
    envs.step(np.array([0, 0]))
    assert not again.load_state_dict(envs.state_dict())
    assert again.last_obs[:, 0].tolist() == [0, 0]
    assert again.last_obs[0, 1] != first[0, 1]  # a seed that was not used before


def test_a_vector_form_that_resets_in_the_next_step_is_refused(register: Any) -> None:
    name = register(vector_entry_point=counting(AutoresetMode.NEXT_STEP))
    with pytest.raises(UserError, match=r"NEXT_STEP\); accepted are SAME_STEP and DISABLED"):
        make_vector(name, 2, 0)


def test_a_single_form_is_preferred_for_its_exact_state(register: Any) -> None:
    single = "gymnasium.envs.toy_text.taxi:TaxiEnv"
    name = register(entry_point=single, vector_entry_point=counting(AutoresetMode.SAME_STEP))
    assert isinstance(make_vector(name, 2, 0), SyncVector)


def test_a_vector_form_with_exact_state_is_used(register: Any) -> None:
    points = {"entry_point": "semigradient.envs.adapters:CoreEnv"}
    core = f"{glimpse.__name__}:GlimpseOptions"
    name = register(**points, vector_entry_point=CoreVector, kwargs={"core": core})
    envs, ours = make_vector(name, 3, 7), make_vector("semigradient/Glimpse-v0", 3, 7)
    assert isinstance(envs, CoreVector)
    assert envs.protocol == {**ours.protocol, "env": name}
    assert np.array_equal(envs.reset()[0], ours.reset()[0])
    with pytest.raises(UserError, match=r"option of .* 'sise'"):
        make_vector(name, 3, 7, sise=3)


def test_a_module_before_the_id_is_imported_and_registers_it(
    monkeypatch: pytest.MonkeyPatch, register: Any
) -> None:
    monkeypatch.setitem(sys.modules, "a_module_of_mine", types.ModuleType("a_module_of_mine"))
    name = register(entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv")
    assert check_id(f"a_module_of_mine:{name}").id == name
    assert make_vector(f"semigradient:{name}", 1, 0).protocol["env"] == name
    ours = make_vector("semigradient:semigradient/IPD-v0", 1, 0)
    assert ours.protocol == make_vector("semigradient/IPD-v0", 1, 0).protocol
    with pytest.raises(UserError, match="'no_such_module:X-v0': No module named"):
        check_id("no_such_module:X-v0")
