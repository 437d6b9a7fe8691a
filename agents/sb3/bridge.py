"""Our vector environments with the interface of stable-baselines3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from semigradient.envs import ExactVector
from semigradient.errors import UserError
from semigradient.training.timers import Timers


class Bridge(VecEnv):
    """Shows an `ExactVector` as SB3's vector environment.

    Args:
        envs: B environments with SAME_STEP autoreset.
        timers: time spent in the environments is charged to `environment`.
        clip_rewards: hand SB3 rewards clipped to [-1, 1].

    Attributes:
        episodes: (return, length) of the ended episodes, in raw rewards.
    """

    def __init__(self, envs: ExactVector, timers: Timers, clip_rewards: bool = False) -> None:
        self.envs, self.timers, self.clip_rewards = envs, timers, clip_rewards
        self.episodes: list[tuple[float, int]] = []
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, dtype=np.int64)
        self._actions = np.zeros(0)
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> np.ndarray:
        """Start new episodes in all environments: (B, *observation)."""
        self._returns[:] = 0
        self._lengths[:] = 0
        with self.timers("environment"):
            obs, infos = self.envs.reset()
        if "action_mask" in infos:
            raise UserError("environment gives action masks: SB3's algorithms cannot use them")
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step, with the last observation of an episode where SB3 looks for it."""
        with self.timers("environment"):
            obs, rewards, terminated, truncated, native = self.envs.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(dones):
            infos[index] = {
                "terminal_observation": native["final_obs"][index].copy(),
                "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
            }
            self.episodes.append((float(self._returns[index]), int(self._lengths[index])))
            self._returns[index] = self._lengths[index] = 0
        if self.clip_rewards:
            rewards = np.clip(rewards, -1, 1)
        return obs, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Nothing to do: the caller closes the environments."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The vector environment's attribute, once for each environment."""
        return [getattr(self.envs, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not offered: nothing that SB3 does needs it."""
        raise NotImplementedError("set_attr")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        """Not offered: nothing that SB3 does needs it."""
        raise NotImplementedError("env_method")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No SB3 wrapper is inside."""
        return [False for _ in self._get_indices(indices)]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Nothing to do: an `ExactVector` derives every seed from its own root."""
        return [None] * self.num_envs
