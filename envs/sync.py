"""Any Gymnasium environment, B copies stepped sequentially in this process.

For light environments this is faster than subprocesses: a step of CartPole costs less than
sending its action through a pipe.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from semigradient.envs.actions import checked
from semigradient.envs.clock import Clock
from semigradient.envs.forms import Acted, Seen
from semigradient.envs.guard import Guarded
from semigradient.envs.single import make_single
from semigradient.envs.vector import Arrays, ExactVector, digest
from semigradient.errors import UserError, warn
from semigradient.validate import shown


class SyncVector(ExactVector):
    """B copies of a Gymnasium environment, exactly resumable through their running episodes.

    Agents see the spaces of `envs.forms`; what an environment returns is held to its own
    (`envs.guard`). Each episode starts from its own seed.
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
        made = [_make(spec, options) for _ in range(num_envs)]
        seen, acted = _forms(made, spec.id)
        said: set[str] = set()
        self.envs = [
            Guarded(env, spec.id, f"{index} of {num_envs}", seen, acted, said)
            for index, env in enumerate(made)
        ]
        self.show(seen, acted)
        self.metadata = {**made[0].metadata, **self.metadata}
        self.render_mode = "rgb_array" if render else None
        self.protocol = {"env": spec.id, "max_episode_steps": spec.max_episode_steps}
        if seen.left_out:
            self.protocol["left_out"] = seen.left_out
        # Gymnasium's own environments have pygame's clock under this name.
        clock = made[0].get_wrapper_attr("clock") if made[0].has_wrapper_attr("clock") else None
        if isinstance(clock, Clock):
            self.clock, self.protocol = clock, {"env": spec.id, **clock.protocol()}
        self.is_repeatable = not (spec.nondeterministic or _has_box2d(made[0]))
        self._as_python = isinstance(self.single_action_space, spaces.Discrete)
        # Of the running episodes, as bytes: an endless one costs no more than its actions.
        self._actions = [bytearray() for _ in range(num_envs)]
        self._masks: np.ndarray | None = None
        # A digest of what each running episode returned: its replay must return the same.
        self._trails = [0] * num_envs

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a fresh episode everywhere; `seed` replaces the root of all episode seeds."""
        self.reseed(seed)
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

        Raises:
            EnvironmentFailureError: an environment raised, or returned what it does not declare.
        """
        count = self.num_envs
        actions = checked(self.single_action_space, actions, count)
        actions = actions.astype(self.single_action_space.dtype)
        taken, width = actions.tobytes(), actions[0].nbytes
        obs = np.empty_like(self.last_obs)
        rewards = np.zeros(count)
        terminated = np.zeros(count, dtype=bool)
        truncated = np.zeros(count, dtype=bool)
        final_obs: np.ndarray | None = None
        listed = actions.tolist() if self._as_python else actions
        for index, env in enumerate(self.envs):
            self._actions[index] += taken[index * width : (index + 1) * width]
            current, reward, ended, cut, mask = env.step(listed[index])
            rewards[index] = reward
            self._note(index, current, reward)
            if ended or cut:
                terminated[index], truncated[index] = ended, cut
                if final_obs is None:
                    final_obs = np.zeros_like(obs)
                final_obs[index] = current
                current = self._reset_one(index)
            elif mask is not None:
                self._set_mask(index, mask)
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
            "trails": np.array(self._trails, np.uint32),
            "actions": {str(index): self._taken(index) for index in range(self.num_envs)},
            "masks": None if self._masks is None else self._masks.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Replay the running episodes; true if each returns what it did, step by step."""
        self.seed = int(state["seed"])
        if "actions" not in state:  # saved by a form that keeps states (`envs.classic`)
            self.resets[:] = state["resets"]
            self.reset()
            return False
        self.resets = np.asarray(state["resets"]) - 1
        self.last_obs = np.zeros_like(state["last_obs"])
        masks = state.get("masks")
        self._masks = None if masks is None else np.ones_like(masks)
        for index, env in enumerate(self.envs):
            env.is_masked = env.seen.masked or masks is not None
            self.last_obs[index] = self._reset_one(index)
            actions = np.asarray(state["actions"][str(index)], self.single_action_space.dtype)
            self._actions[index] += actions.tobytes()
            for action in actions.tolist() if self._as_python else actions:
                current, reward, _, _, mask = env.step(action)
                self._note(index, current, reward)
                self.last_obs[index] = current
                if mask is not None:
                    self._set_mask(index, mask)
        exact = np.array_equal(self.last_obs, state["last_obs"])
        exact &= list(state.get("trails", self._trails)) == self._trails
        if not exact:
            self.reset()
        return exact

    def frames(self) -> list[np.ndarray]:
        """RGB frames (H, W, 3) of each environment."""
        return [env.frame() for env in self.envs]

    def action_masks(self) -> np.ndarray | None:
        """(B, A) bool masks of the latest observations, when the environment gives any."""
        return self._masks

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def _reset_one(self, index: int) -> np.ndarray:
        obs, mask = self.envs[index].reset(self.next_seed(index))
        self._actions[index] = bytearray()
        self._trails[index] = 0
        if mask is not None:
            self._set_mask(index, mask)
        elif self._masks is not None:
            self._masks[index] = True
        return obs

    def _taken(self, index: int) -> np.ndarray:
        """Actions (T, *action) of a running episode."""
        space = self.single_action_space
        actions = np.frombuffer(bytes(self._actions[index]), space.dtype)
        return actions.reshape(-1, *(space.shape or ()))

    def _note(self, index: int, obs: np.ndarray, reward: float) -> None:
        self._trails[index] = digest(self._trails[index], obs, reward)

    def _set_mask(self, index: int, mask: np.ndarray) -> None:
        if self._masks is None:
            self._masks = np.ones((self.num_envs, len(mask)), dtype=bool)
        self._masks[index] = mask

    def _infos(self) -> dict[str, Any]:
        return {} if self._masks is None else {"action_mask": self._masks.copy()}


def _has_box2d(env: gymnasium.Env) -> bool:
    """Whether Box2D simulates: its contacts depend on memory of earlier episodes."""
    world = getattr(env.unwrapped, "world", None)
    names = [type(world).__module__, *(cls.__module__ for cls in type(env.unwrapped).__mro__)]
    return any(name.split(".")[0] == "Box2D" or ".box2d" in name for name in names)


def _make(spec: gymnasium.envs.registration.EnvSpec, options: dict[str, Any]) -> gymnasium.Env:
    env = make_single(spec, options)
    for kind in ("observation_space", "action_space"):
        space = getattr(env, kind, None)
        if not isinstance(space, spaces.Space):
            raise UserError(
                f"environment {spec.id!r}: {kind} is {shown(space)}, must be a Gymnasium space"
            )
    return env


def _forms(envs: list[gymnasium.Env], name: str) -> tuple[Seen, Acted]:
    """What agents see of the spaces, which all copies share."""
    first = envs[0]
    for index, env in enumerate(envs):
        for kind in ("observation_space", "action_space"):
            ours, theirs = getattr(first, kind), getattr(env, kind)
            if ours != theirs:
                raise UserError(
                    f"environment {name!r}: copy {index} has the {kind} {shown(theirs)}, "
                    f"the first has {shown(ours)}"
                )
    seen, acted = Seen(first.observation_space, name), Acted(first.action_space, name)
    if seen.left_out:
        texts = ", ".join(f"observation{path}" for path in seen.left_out)
        warn(f"environment {name}: left out, because agents read no texts: {texts}")
    return seen, acted
