"""Environments that other packages register in a vector form.

The form of an id is chosen in this order:

1. a vector form whose state can be saved (a class derived from `ExactVector`, such as `CoreVector`
   over a core of their own): that one, and runs resume exactly;
2. a single form (`entry_point`): copies of it in a `SyncVector`, which resume exactly too;
3. a plain vector form alone (`vector_entry_point` and nothing else): `ForeignVector`, whose runs
   resume statistically, with fresh episodes.
"""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from semigradient.envs.actions import checked
from semigradient.envs.batched import Batched
from semigradient.envs.forms import MASK
from semigradient.envs.vector import Arrays, ExactVector
from semigradient.errors import UserError, require
from semigradient.validate import first_line

ACCEPTED = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)


def exact_form(spec: EnvSpec) -> type[ExactVector] | None:
    """The vector form whose state can be saved, where an id has one."""
    point: Any = spec.vector_entry_point
    if isinstance(point, str):
        if point.startswith("gymnasium."):
            return None
        try:
            point = load_env_creator(point)
        except (ImportError, AttributeError) as problem:
            raise UserError(f"environment {spec.id!r}: {problem}") from problem
    return point if isinstance(point, type) and issubclass(point, ExactVector) else None


class ForeignVector(ExactVector):
    """B environments in another package's vector form, whose state cannot be saved.

    Agents see the spaces of `envs.forms`; what the form returns is held to its own
    (`envs.guard`).

    Args:
        spec: what is registered.
        num_envs: B.
        seed: of all episodes.
        render: keep RGB frames.
        options: keyword arguments of the environment.

    Raises:
        UserError: it resets neither in the same step nor when asked to, a space that there is no
            form for, or an odd option.
    """

    def __init__(
        self, spec: EnvSpec, num_envs: int, seed: int, render: bool = False, **options: Any
    ) -> None:
        super().__init__(num_envs, seed)
        if render:
            options["render_mode"] = "rgb_array"
        try:
            self.envs = gymnasium.make_vec(
                spec, num_envs, vectorization_mode="vector_entry_point", **options
            )
        except Exception as problem:
            raise UserError(f"environment {spec.id!r}: {first_line(problem)}") from problem
        self.spec = spec
        self.mode = self.envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        require(
            self.mode in ACCEPTED,
            f"environment {spec.id!r}: its vector form resets in the next step "
            f"(autoreset_mode={self.mode.name}); accepted are "
            f"{' and '.join(mode.name for mode in ACCEPTED)}, or a single form (entry_point)",
        )
        self._read = Batched(self.envs, spec.id)
        self.forms = (self._read.seen, self._read.acted)
        self.single_observation_space = self._read.seen.space
        self.single_action_space = self._read.acted.space
        self.observation_space = cast(
            spaces.Box, batch_space(self.single_observation_space, num_envs)
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {**self.envs.metadata, **self.metadata}
        self.render_mode = "rgb_array" if render else None
        self.protocol = {"env": spec.id, "max_episode_steps": spec.max_episode_steps}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start fresh episodes everywhere; `seed` replaces the root of all randomness."""
        self.reseed(seed)
        self.last_obs, infos = self._read.reset(seed=self.next_seed(0), options=options)
        return self.last_obs.copy(), infos

    def step(self, actions: np.ndarray) -> Arrays:
        """Act everywhere; environments that end are reset in the same step."""
        actions = checked(self.single_action_space, actions, self.num_envs)
        obs, reward, terminated, truncated, infos = self._read.step(actions)
        ended = terminated | truncated
        final_infos: dict[str, Any] = {}
        if ended.any():
            final_obs = obs
            if self.mode is AutoresetMode.SAME_STEP:
                final_obs = self._read.final(infos, obs, ended)
            else:
                obs, infos = self._restart(obs, infos, ended)
            final_infos = {"final_obs": final_obs, "_final_obs": ended}
        self.last_obs = obs
        return obs.copy(), reward, terminated, truncated, {**_masks(infos), **final_infos}

    def _restart(
        self, obs: np.ndarray, infos: dict[str, Any], ended: np.ndarray
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Observations and masks of new episodes where one ended, and of the running ones."""
        fresh, begun = self._read.reset(options={"reset_mask": ended})
        now = obs.copy()
        now[ended] = fresh[ended]
        if MASK in begun and MASK in infos:
            begun = {**begun, MASK: np.where(ended[:, None], begun[MASK], infos[MASK])}
        return now, begun

    def state_dict(self) -> dict[str, Any]:
        """Seeds only: the running episodes cannot be saved."""
        return {"seed": self.seed, "resets": self.resets.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Start fresh episodes, with seeds that were not used before; false."""
        self.seed, self.resets = int(state["seed"]), np.array(state["resets"])
        self.reset()
        return False

    def frames(self) -> list[np.ndarray]:
        """RGB frames (H, W, 3) of each environment."""
        return self._read.frames()

    def close(self, **options: Any) -> None:
        """Close the environments."""
        self._read.close(**options)


def _masks(infos: dict[str, Any]) -> dict[str, Any]:
    return {MASK: infos[MASK]} if MASK in infos else {}
