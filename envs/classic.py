"""Gymnasium's classic control as one array of environments, in the place of B copies.

What comes out is what `envs.sync` gives, bit for bit, at a third of the time. Where that is not
certain, `classic_form` gives nothing: another package's environment, an option that the rules do
not know, or a Gymnasium whose rules differ (`envs.control.gymnasium_classic`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from semigradient.envs.actions import checked
from semigradient.envs.control.gymnasium_classic import RULES, Array, Rules, agrees
from semigradient.envs.failures import EnvironmentFailureError
from semigradient.envs.forms import Acted, Seen
from semigradient.envs.single import make_single
from semigradient.envs.vector import Arrays, ExactVector
from semigradient.errors import UserError
from semigradient.validate import shown


class ClassicForm(NamedTuple):
    """Rules of an environment of Gymnasium's, and what `gymnasium.make` adds to them.

    Attributes:
        rules: bit for bit the environment's.
        limit: steps after which an episode is truncated.
        key: equal for the same environment with the same options.
    """

    rules: Rules
    limit: int
    key: tuple[Any, ...]


def classic_form(spec: EnvSpec, options: Mapping[str, Any]) -> ClassicForm | None:
    """The form of an environment that is Gymnasium's own; None where copies have to be stepped.

    Raises:
        UserError: a value that Gymnasium refuses.
    """
    point, chosen = spec.entry_point, {**spec.kwargs, **options}
    if not isinstance(point, str) or point not in RULES or spec.additional_wrappers:
        return None
    chosen.pop("max_episode_steps", None)
    known = tuple(sorted(chosen.items()))
    if not all(RULES[point].accepts(name, value) for name, value in known):
        return None
    if not agrees(point, known):
        return None
    env = make_single(spec, options)
    limit = _limit(env)
    return ClassicForm(RULES[point](env.unwrapped), limit, (point, known, limit))


def _limit(env: Any) -> int:
    """Steps after which Gymnasium's wrapper truncates an episode."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            return env._max_episode_steps
        env = env.env
    return np.iinfo(np.int64).max


class Episodes:
    """N running episodes.

    Args:
        rules: of the environment.
        limit: steps after which an episode is truncated.
        state: (S, N), written in place.
        ages: (N,) steps of each episode so far, written in place.
    """

    def __init__(self, rules: Rules, limit: int, state: Array, ages: Array) -> None:
        self.rules, self.limit, self.state, self.ages = rules, limit, state, ages

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        """Observations (N, o), rewards, terminated and truncated (N,) of one step, no resets."""
        rules, state = self.rules, self.state
        self.ages += 1
        truncated = self.ages >= self.limit
        if len(actions) == 1:  # faster with Gymnasium's own
            obs, reward, terminated = rules.alone(state[:, 0], actions[0])
            return obs[None], np.array([reward]), np.array([terminated]), truncated
        rewards, ended = rules.step(state, actions)
        return rules.observe(state), rewards, ended, truncated


def final(obs: Array, ended: Array) -> dict[str, Any]:
    """Infos of a step, before the environments (…,) that ended are reset in `obs` (…, o)."""
    if not np.count_nonzero(ended):
        return {}
    return {"final_obs": np.where(ended[..., None], obs, 0), "_final_obs": ended}


class ClassicVector(ExactVector):
    """B environments of Gymnasium's classic control; its state is their states.

    Args:
        form: the environment, as `classic_form` gives it.
        spec: of the environment.
        num_envs: B.
        seed: every episode's seed is derived from it.

    Attributes:
        episodes: the running ones; their arrays may be parts of others' (`envs.joined`).
        joined: the `Joined` that it is a member of.
    """

    def __init__(self, form: ClassicForm, spec: EnvSpec, num_envs: int, seed: int) -> None:
        super().__init__(num_envs, seed)
        self.form, self.spec = form, spec
        env = form.rules.env
        seen, acted = Seen(env.observation_space, spec.id), Acted(env.action_space, spec.id)
        self.show(seen, acted)
        self.metadata = {**env.metadata, **self.metadata}
        self.render_mode = None
        self.protocol = {"env": spec.id, "max_episode_steps": spec.max_episode_steps}
        self.is_repeatable = not spec.nondeterministic
        size = len(form.rules.begin(0)[0])
        state, ages = np.zeros((size, num_envs)), np.zeros(num_envs, np.int64)
        self.episodes = Episodes(form.rules, form.limit, state, ages)
        self.joined: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a fresh episode everywhere; `seed` replaces the root of all episode seeds."""
        self.reseed(seed)
        obs: Array = np.empty(self.observation_space.shape, self.observation_space.dtype)
        for index in range(self.num_envs):
            self.begin(index, obs)
        self.last_obs = obs
        return obs.copy(), {}

    def step(self, actions: np.ndarray) -> Arrays:
        """Act everywhere; environments that end are reset in the same step.

        Args:
            actions: (B, *action); `UserError` for others.

        Returns:
            Observations (B, *observation), rewards (B,) float64, terminated and truncated (B,)
            bool, infos.

        Raises:
            EnvironmentFailureError: a reward is not finite, as that of an infinite force.
        """
        space = self.single_action_space
        chosen = checked(space, actions, self.num_envs).astype(space.dtype, copy=False)
        obs, reward, terminated, truncated = self.episodes.step(chosen)
        if not self.form.rules.is_finite:
            self.hold(reward, chosen)
        ended = terminated | truncated
        infos = final(obs, ended)
        for index in ended.nonzero()[0].tolist() if infos else ():
            self.begin(index, obs)
        self.last_obs = obs
        return obs, reward, terminated, truncated, infos

    def hold(self, rewards: Array, actions: Array) -> None:
        """Raise an `EnvironmentFailureError` for rewards (B,) that are no numbers."""
        for index in np.flatnonzero(~np.isfinite(rewards)):
            which = f"{index} of {self.num_envs}, action {shown(actions[index])}"
            what, name = f"returned a non-finite reward {rewards[index]}", self.protocol["env"]
            raise EnvironmentFailureError(name, what, f" (environment {which})")

    def begin(self, index: int, obs: Array) -> None:
        """Start the next episode of one environment; its observation goes into `obs` (B, o)."""
        episodes = self.episodes
        episodes.state[:, index], obs[index] = episodes.rules.begin(self.next_seed(index))
        episodes.ages[index] = 0

    def state_dict(self) -> dict[str, Any]:
        """States (S, B) and ages (B,) of the running episodes, and numbers of resets."""
        return {
            "seed": self.seed,
            "resets": self.resets.copy(),
            "last_obs": self.last_obs.copy(),
            "state": self.episodes.state.copy(),
            "ages": self.episodes.ages.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restore a saved state, in place; that of a `SyncVector` is replayed.

        False where that returned something else, or the state is of another kind.
        """
        self.seed = int(state["seed"])
        exact = self._replayed(state) if "actions" in state else self._loaded(state)
        if not exact:
            self.reset()
        return exact

    def frames(self) -> list[np.ndarray]:
        """Always an error: environments that are drawn are copies of Gymnasium's."""
        raise UserError(f"environment {self.protocol['env']!r}: frames need render=True")

    def _loaded(self, state: dict[str, Any]) -> bool:
        episodes = self.episodes
        self.resets[:] = state["resets"]
        if state["state"].shape != episodes.state.shape:
            return False
        episodes.state[:], episodes.ages[:] = state["state"], state["ages"]
        self.last_obs = np.array(state["last_obs"])
        return True

    def _replayed(self, state: dict[str, Any]) -> bool:
        self.resets[:] = np.asarray(state["resets"]) - 1
        self.last_obs = np.empty_like(state["last_obs"])
        for index in range(self.num_envs):
            self.begin(index, self.last_obs)
            here, whole = slice(index, index + 1), self.episodes
            one = Episodes(whole.rules, whole.limit, whole.state[:, here], whole.ages[here])
            for action in state["actions"][str(index)]:
                self.last_obs[here] = one.step(action[None])[0]
        return np.array_equal(self.last_obs, state["last_obs"])
