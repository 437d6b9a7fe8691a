"""The one place that steps environments while learning: successors, episodes, finite checks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, NoReturn

import numpy as np

from semigradient.envs import ExactVector
from semigradient.envs.failures import EnvironmentFailureError
from semigradient.errors import UserError
from semigradient.training.timers import Timers
from semigradient.validate import first_line, shown


class Transition(NamedTuple):
    """One step of B environments.

    `next_obs` is the true successor: the last observation of an episode where it ended, never
    the first of the next one. `next_mask` are its legal actions (all legal where it ended).
    """

    reward: np.ndarray  # (B,) float64, raw
    terminated: np.ndarray  # (B,) bool
    truncated: np.ndarray  # (B,) bool
    next_obs: np.ndarray  # (B, *observation)
    next_mask: np.ndarray | None  # (B, A) bool
    infos: dict[str, Any]


class Running:
    """Returns and lengths (…, B) of running episodes."""

    def __init__(self, returns: np.ndarray, lengths: np.ndarray) -> None:
        self.returns, self.lengths = returns, lengths

    def add(self, reward: np.ndarray) -> None:
        """One step more, with rewards (…, B)."""
        self.returns += reward
        self.lengths += 1

    def close(self, ended: np.ndarray) -> list[tuple[float, int]]:
        """(return, length) of those that ended (B,); others begin in their places."""
        closed = list(zip(self.returns[ended].tolist(), self.lengths[ended].tolist(), strict=True))
        self.returns[ended], self.lengths[ended] = 0, 0
        return closed


def successors(obs: np.ndarray, ended: np.ndarray | None, infos: dict[str, Any]) -> np.ndarray:
    """True successors (…, B, *observation): of what ended (…, B), the last ones of the episode."""
    if ended is None:
        return obs
    later = obs.copy()
    later[ended] = infos["final_obs"][ended]
    return later


class EnvStepper:
    """Steps a vector environment and keeps what agents need between steps.

    Attributes:
        obs: (B, *observation) current observations.
        mask: (B, A) legal actions of the current observations, or None.
        steps: environment steps so far, all environments together.
        episodes: (return, length) of those that ended since the last `pop_episodes`.
        running: (B,) returns and lengths of the running episodes.
        exact: whether the last `load_state_dict` could restore the environments exactly.

    Args:
        envs: the vector environment.
        timers: of the run.
        notes_episodes: false where the agent adds to `episodes` itself.
    """

    def __init__(
        self, envs: ExactVector, timers: Timers | None = None, notes_episodes: bool = True
    ) -> None:
        self.envs = envs
        self.timers = timers or Timers()
        self.steps = 0
        self.mask: np.ndarray | None
        self.obs, self.mask = self._reset()
        self._check_floats = np.issubdtype(self.obs.dtype, np.floating)
        self.running = Running(np.zeros(envs.num_envs), np.zeros(envs.num_envs, dtype=np.int64))
        self.episodes: list[tuple[float, int]] = []
        self.exact, self._notes_episodes = True, notes_episodes

    def restart(self) -> None:
        """Abandon all running episodes and begin new ones."""
        self.obs, self.mask = self._reset()
        self.running.close(np.ones(self.envs.num_envs, dtype=bool))

    def step(self, actions: np.ndarray) -> Transition:
        """Act once in every environment.

        Raises:
            EnvironmentFailureError: the environment raised, or an observation or reward is not
                finite; the message names step, environment and action.
        """
        with self.timers("environment"):
            try:
                obs, reward, terminated, truncated, infos = self.envs.step(actions)
            except EnvironmentFailureError as problem:
                problem.step = self.steps
                raise
            except Exception as problem:
                self._fail("raised", f": {first_line(problem)}", problem)
        ended = terminated | truncated if "final_obs" in infos else None
        next_obs, next_mask = successors(obs, ended, infos), infos.get("action_mask")
        if ended is not None and next_mask is not None:
            next_mask = next_mask.copy()
            next_mask[ended] = True
        self._check_finite("reward", reward, actions)
        if self._check_floats:
            self._check_finite("observation", obs, actions)
            if ended is not None:
                self._check_finite("observation", next_obs, actions)
        # Where only a life ended, the game goes on, and so does the episode that is reported.
        over = ended & ~infos["goes_on"] if ended is not None and "goes_on" in infos else ended
        self.running.add(reward)
        self.arrive(obs, infos.get("action_mask"), over)
        return Transition(reward, terminated, truncated, next_obs, next_mask, infos)

    def arrive(
        self, obs: np.ndarray, mask: np.ndarray | None = None, over: np.ndarray | None = None
    ) -> None:
        """Count a step that `running` has taken in, which led to `obs` (B, *observation).

        Args:
            obs, mask: what agents see now.
            over: (B,) where an episode ended; None: nowhere.
        """
        self.steps += len(obs)
        self.obs, self.mask = obs, mask
        if over is not None:
            closed = self.running.close(over)
            self.episodes += closed if self._notes_episodes else []

    def pop_episodes(self) -> list[tuple[float, int]]:
        """(return, length) of the episodes that ended since the last call."""
        ended, self.episodes = self.episodes, []
        return ended

    def state_dict(self) -> dict[str, Any]:
        """Environments, running episodes and counters."""
        return {
            "envs": self.envs.state_dict(),
            "steps": self.steps,
            "obs": self.obs,
            "mask": self.mask,
            "return": self.running.returns.copy(),
            "length": self.running.lengths.copy(),
            "ended": [list(episode) for episode in self.episodes],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state; `exact` says whether the environments could."""
        self.exact = self.envs.load_state_dict(state["envs"])
        self.steps = state["steps"]
        self.episodes = [(value, length) for value, length in state["ended"]]
        if self.exact:
            self.obs, self.mask = state["obs"], state["mask"]
            self.running.returns[:], self.running.lengths[:] = state["return"], state["length"]
        else:
            self.obs = self.envs.last_obs.copy()
            self.mask = getattr(self.envs, "action_masks", lambda: None)()

    def _reset(self) -> tuple[np.ndarray, np.ndarray | None]:
        """First observations of new episodes, of the declared shape and type, and legal actions."""
        try:
            obs, infos = self.envs.reset()
        except UserError:
            raise
        except Exception as problem:
            self._fail("raised", f": {first_line(problem)} in reset()", problem)
        space = self.envs.single_observation_space
        came = (obs.shape, obs.dtype)
        if came != ((self.envs.num_envs, *space.shape), space.dtype):
            details = f": observations {obs.dtype} of shape {obs.shape}, declared is {shown(space)}"
            self._fail("returned in reset()", details)
        return obs, infos.get("action_mask")

    def _check_finite(self, what: str, values: np.ndarray, actions: np.ndarray) -> None:
        # A sum of squares is finite only if all its terms are; it may also overflow.
        if math.isfinite(np.vdot(values, values)):
            return
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not bad.any():
            return
        index = int(np.flatnonzero(bad)[0])
        self._fail(
            f"returned a non-finite {what} {values[index]}",
            f" (environment {index} of {len(values)}, action {actions[index]})",
        )

    def _fail(self, what: str, details: str, cause: Exception | None = None) -> NoReturn:
        failure = EnvironmentFailureError(self._name(), what, details)
        failure.step = self.steps
        raise failure from cause

    def _name(self) -> str:
        spec = self.envs.spec
        return spec.id if spec is not None else type(self.envs).__name__
