"""A vector form of another's, read as `envs.guard` reads a single environment."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from semigradient.envs.declared import Mismatch, frame_of, hold, kind
from semigradient.envs.failures import EnvironmentFailureError
from semigradient.envs.forms import MASK, Acted, Seen
from semigradient.envs.guard import EVERY, FIRST
from semigradient.envs.masks import everything, legal, missing
from semigradient.errors import warn
from semigradient.validate import first_line

_STEP = "five values (observations, rewards, terminated, truncated, infos)"


class Batched:
    """B environments, with agents' actions and observations.

    Args:
        envs: Gymnasium's vector environment.
        name: of the environment.

    Raises:
        UserError: a space that there is no form for.
    """

    def __init__(self, envs: Any, name: str) -> None:
        self.envs, self.name, self.count = envs, name, envs.num_envs
        self.mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.seen = Seen(envs.single_observation_space, name)
        self.acted = Acted(envs.single_action_space, name)
        self.answers, self.is_masked, self.has_said = 0, False, False
        self._is_direct = self.acted.space is envs.single_action_space

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Observations (B, *observation), and infos of which `action_mask` is (B, A) bool."""
        try:
            result = self.envs.reset(**options)
        except Exception as problem:
            self._raised("reset", problem)
        if not isinstance(result, tuple) or len(result) != 2:
            self._refuse("reset", kind(result), "two values (observations, infos)")
        obs, infos = result
        read = self._observations("reset", obs)
        chosen = (options.get("options") or {}).get("reset_mask", np.ones(self.count, bool))
        return read, self._infos("reset", obs, infos, ~chosen)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations, rewards, terminated and truncated (B, …) in memory of their own, infos."""
        try:
            result = self.envs.step(self._native(actions))
        except Exception as problem:
            self._raised("step", problem)
        if not isinstance(result, tuple) or len(result) != 5:
            self._refuse("step", kind(result), _STEP)
        obs, rewards, terminated, truncated, infos = result
        read = self._observations("step", obs)
        rewards = self._column("rewards", rewards, "biuf").astype(np.float64)
        if not np.isfinite(rewards).all():
            index = int(np.flatnonzero(~np.isfinite(rewards))[0])
            details = f" (environment {index} of {self.count}, action {actions[index]})"
            self._fail(f"returned a non-finite reward {rewards[index]}", details)
        ended, cut = (
            self._flags(field, value)
            for field, value in (("terminated", terminated), ("truncated", truncated))
        )
        # Where an episode ends, the mask that counts is that of the next one.
        over = (ended | cut) & (self.mode is AutoresetMode.DISABLED)
        return read, rewards, ended, cut, self._infos("step", obs, infos, over)

    def final(self, infos: dict[str, Any], obs: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Last observations (B, *observation) of the episodes that ended; elsewhere `obs`."""
        final = obs.copy()
        if infos.get("final_obs") is None:
            self._refuse("step", "ends of episodes and no infos['final_obs']", "one for each")
        for index in np.flatnonzero(ended):
            final[index] = self._one("step", infos["final_obs"][index], f"final_obs[{index}]", True)
        return final

    def frames(self) -> list[np.ndarray]:
        """RGB (H, W, 3) uint8 of each environment."""
        try:
            return [frame_of(frame) for frame in self.envs.render() or ()]
        except Mismatch as problem:
            self._fail("returned in render()", f": {problem}")
        except Exception as problem:
            self._raised("render", problem)

    def close(self, **options: Any) -> None:
        """Close it; what it raises is said and stops nothing."""
        try:
            self.envs.close(**options)
        except Exception as problem:
            warn(f"environment {self.name} raised in close(): {first_line(problem)}")

    def _native(self, actions: np.ndarray) -> Any:
        """In memory of its own, or what the environment does to it is done to the agent's."""
        if self._is_direct:
            return actions.astype(self.envs.action_space.dtype)
        singles = [self.acted(row) for row in actions]
        space = self.envs.single_action_space
        empty: Any = create_empty_array(space, self.count)
        return concatenate(space, singles, empty)

    def _observations(self, method: str, obs: Any) -> np.ndarray:
        self.answers += 1
        is_due = self.answers <= FIRST or self.answers % EVERY == 0
        if self.seen.is_plain and not is_due:
            space = self.envs.observation_space
            if type(obs) is np.ndarray and obs.shape == space.shape and obs.dtype == space.dtype:
                return obs.copy()
        if obs is None or (self.seen.is_plain and np.ndim(obs) == 0):
            self._refuse(method, f"observations {kind(obs)}", f"{self.count} of them")
        try:
            rows = list(iterate(self.envs.observation_space, obs))
        except Exception as problem:
            came = f"observations {kind(obs)} ({first_line(problem)})"
            self._refuse(method, came, str(self.envs.observation_space))
        if len(rows) != self.count:
            self._refuse(method, f"{len(rows)} observations", str(self.count))
        field = "observation of environment {}"
        read = [self._one(method, row, field.format(i), is_due) for i, row in enumerate(rows)]
        return np.stack(read)

    def _one(self, method: str, obs: Any, field: str, is_due: bool) -> np.ndarray:
        try:
            return self.seen(hold(self.envs.single_observation_space, obs, field, is_due))
        except Mismatch as problem:
            self._fail(f"returned in {method}()", f": {problem}")

    def _column(self, field: str, values: Any, kinds: str) -> np.ndarray:
        array = np.array(values)
        if array.shape != (self.count,) or array.dtype.kind not in kinds:
            came = f"{field} {array.dtype} of shape {array.shape}"
            self._refuse("step", came, f"one for each of {self.count} environments")
        return array

    def _flags(self, field: str, values: Any) -> np.ndarray:
        array = self._column(field, values, "biu")
        if ((array != 0) & (array != 1)).any():
            self._refuse("step", f"{field} = {array.tolist()}", "True or False")
        return array.astype(bool)

    def _infos(self, method: str, obs: Any, infos: Any, over: np.ndarray) -> dict[str, Any]:
        if not isinstance(infos, dict):
            self._refuse(method, f"infos of type {kind(infos)}", "a dict")
        masks = obs[MASK] if self.seen.masked else infos.get(MASK)
        if masks is None:
            if not self.is_masked:
                return infos
            masks = np.full(self.count, None)
        self.is_masked = True
        given = infos.get(f"_{MASK}", np.ones(self.count, bool))
        if len(masks) != self.count:
            self._refuse(method, f"{len(masks)} action masks", str(self.count))
        free = everything(self.acted.sizes)
        rows = [
            free if over[i] else self._legal(method, masks[i] if given[i] else None)
            for i in range(self.count)
        ]
        return {**infos, MASK: np.stack(rows)}

    def _legal(self, method: str, mask: Any) -> np.ndarray:
        if mask is None:
            if not self.has_said:
                self.has_said = True
                warn(missing(self.name, method))
            return everything(self.acted.sizes)
        try:
            return legal(mask, self.acted.sizes)
        except ValueError as problem:
            self._fail(f"returned in {method}()", f": {problem}")

    def _raised(self, method: str, problem: Exception) -> NoReturn:
        details = f": {first_line(problem)} in {method}()"
        raise EnvironmentFailureError(self.name, "raised", details) from problem

    def _refuse(self, method: str, came: str, declared: str) -> NoReturn:
        self._fail(f"returned in {method}()", f": {Mismatch(came, declared)}")

    def _fail(self, what: str, details: str) -> NoReturn:
        raise EnvironmentFailureError(self.name, what, details)
