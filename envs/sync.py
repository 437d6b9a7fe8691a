"""Any Gymnasium environment, B copies stepped sequentially in this process.

For light environments this is faster than subprocesses: a step of CartPole costs less than
sending its action through a pipe.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from semigradient.envs.actions import checked
from semigradient.envs.clock import Clock
from semigradient.envs.single import make_single
from semigradient.envs.vector import Arrays, ExactVector
from semigradient.errors import UserError


class SyncVector(ExactVector):
    """B copies of a Gymnasium environment, exactly resumable through their running episodes.

    Observations that are not boxes of numbers (Discrete, MultiDiscrete, MultiBinary) are
    flattened to vectors, one-hot where categorical. Each episode starts from its own seed.
    """

    def __init__(
        self,
        spec: gymnasium.envs.registration.EnvSpec,
        num_envs: int,
        seed: int,
        render: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(num_envs, seed)
        self.spec = spec
        if render:
            options["render_mode"] = "rgb_array"
        self.envs = [_make(spec, options) for _ in range(num_envs)]
        space = self.envs[0].observation_space
        assert isinstance(space, spaces.Box)  # what `_make` lets through
        self.single_observation_space = space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = cast(spaces.Box, batch_space(space, num_envs))
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {**self.envs[0].metadata, **self.metadata}
        self.render_mode = "rgb_array" if render else None
        self.protocol = {"env": spec.id, "max_episode_steps": spec.max_episode_steps}
        # Gymnasium's own environments have pygame's clock under this name.
        named = self.envs[0].has_wrapper_attr("clock")
        clock = self.envs[0].get_wrapper_attr("clock") if named else None
        if isinstance(clock, Clock):
            self.clock, self.protocol = clock, {"env": spec.id, **clock.protocol()}
        self.is_repeatable = not (spec.nondeterministic or _has_box2d(self.envs[0]))
        self._as_python = isinstance(self.single_action_space, spaces.Discrete)
        self._actions: list[list[Any]] = [[] for _ in range(num_envs)]
        self._masks: np.ndarray | None = None
        # A digest of what each running episode returned: its replay must return the same.
        self._trails = np.zeros(num_envs, dtype=np.uint32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a fresh episode everywhere; `seed` replaces the root of all episode seeds."""
        if seed is not None:
            self.seed = seed
            self.resets[:] = 0
        self.last_obs = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        self._masks = None
        for index in range(self.num_envs):
            self.last_obs[index] = self._reset_one(index)
        return self.last_obs.copy(), self._infos()

    def step(self, actions: np.ndarray) -> Arrays:
        """Act everywhere; environments that end are reset in the same step.

        Args:
            actions: (B, *action); `UserError` for others.

        Returns:
            Observations (B, *observation), rewards (B,) float64, terminated and truncated (B,)
            bool, infos.
        """
        count = self.num_envs
        actions = checked(self.single_action_space, actions, count)
        obs = np.empty_like(self.last_obs)
        rewards = np.zeros(count)
        terminated = np.zeros(count, dtype=bool)
        truncated = np.zeros(count, dtype=bool)
        final_obs: np.ndarray | None = None
        listed = actions.tolist() if self._as_python else actions
        for index, env in enumerate(self.envs):
            action = listed[index]
            self._actions[index].append(action)
            current, rewards[index], ended, cut, info = env.step(action)
            self._note(index, current, rewards[index])
            if ended or cut:
                terminated[index], truncated[index] = ended, cut
                if final_obs is None:
                    final_obs = np.zeros_like(obs)
                final_obs[index] = current
                current = self._reset_one(index)
            elif "action_mask" in info:
                self._set_mask(index, info["action_mask"])
            obs[index] = current
        self.last_obs = obs
        infos = self._infos()
        if final_obs is not None:
            infos["final_obs"] = final_obs
            infos["_final_obs"] = terminated | truncated
        return obs, rewards, terminated, truncated, infos

    def state_dict(self) -> dict[str, Any]:
        """The running episodes: numbers of resets, and the actions since the last."""
        return {
            "seed": self.seed,
            "resets": self.resets.copy(),
            "last_obs": self.last_obs.copy(),
            "trails": self._trails.copy(),
            "actions": {str(i): np.asarray(actions) for i, actions in enumerate(self._actions)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Replay the running episodes; true if each returns what it did, step by step."""
        self.seed = int(state["seed"])
        self.resets = np.asarray(state["resets"]) - 1
        self.last_obs = np.zeros_like(state["last_obs"])
        for index, env in enumerate(self.envs):
            self.last_obs[index] = self._reset_one(index)
            actions = state["actions"][str(index)]
            for action in actions.tolist() if self._as_python else actions:
                current, reward, _, _, info = env.step(action)
                self._note(index, current, float(reward))
                self.last_obs[index] = current
                self._actions[index].append(action)
                if "action_mask" in info:
                    self._set_mask(index, info["action_mask"])
        exact = np.array_equal(self.last_obs, state["last_obs"])
        exact &= np.array_equal(self._trails, state.get("trails", self._trails))
        if not exact:
            self.reset()
        return exact

    def frames(self) -> list[np.ndarray]:
        """RGB frames (H, W, 3) of each environment."""
        return [np.asarray(env.render()) for env in self.envs]

    def action_masks(self) -> np.ndarray | None:
        """(B, A) bool masks of the latest observations, when the environment gives any."""
        return self._masks

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def _reset_one(self, index: int) -> np.ndarray:
        obs, info = self.envs[index].reset(seed=self.next_seed(index))
        self._actions[index] = []
        self._trails[index] = 0
        if "action_mask" in info:
            self._set_mask(index, info["action_mask"])
        return obs

    def _note(self, index: int, obs: Any, reward: float) -> None:
        row = np.ascontiguousarray(obs)
        digest = zlib.crc32(row.data, int(self._trails[index]))
        self._trails[index] = zlib.crc32(struct.pack("d", reward), digest)

    def _set_mask(self, index: int, mask: np.ndarray) -> None:
        if self._masks is None:
            self._masks = np.ones((self.num_envs, len(mask)), dtype=bool)
        self._masks[index] = np.asarray(mask, dtype=bool)

    def _infos(self) -> dict[str, Any]:
        return {} if self._masks is None else {"action_mask": self._masks.copy()}


def _has_box2d(env: gymnasium.Env) -> bool:
    """Whether Box2D simulates: its contacts depend on memory of earlier episodes."""
    world = getattr(env.unwrapped, "world", None)
    names = [type(world).__module__, *(cls.__module__ for cls in type(env.unwrapped).__mro__)]
    return any(name.split(".")[0] == "Box2D" or ".box2d" in name for name in names)


def _make(spec: gymnasium.envs.registration.EnvSpec, options: dict[str, Any]) -> gymnasium.Env:
    env = make_single(spec, options)
    space = env.observation_space
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        env = gymnasium.wrappers.FlattenObservation(env)
    elif not isinstance(space, spaces.Box):
        raise UserError(
            f"environment {spec.id!r} has the observation space {space}: accepted are Box, "
            "Discrete, MultiDiscrete and MultiBinary (flatten others with a Gymnasium wrapper)"
        )
    return env
