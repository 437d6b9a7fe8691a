"""What stands between an environment of another's and everything that learns from it.

An environment may raise, or return what its spaces do not declare: another shape, that NumPy would
broadcast, another type, that it would cast, four values in the place of five. Whatever it is, it
becomes one `EnvironmentFailureError` that names environment, method and field, and what came
beside what was declared. Shapes, types, rewards and ends are looked at in every step, which costs
about a microsecond; values (bounds, NaN) at the first resets and steps, then at every hundredth.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import gymnasium
import numpy as np

from semigradient.envs.declared import Limits, Mismatch, frame_of, hold, kind
from semigradient.envs.failures import EnvironmentFailureError
from semigradient.envs.forms import MASK, Acted, Seen
from semigradient.envs.masks import everything, legal, missing
from semigradient.errors import warn
from semigradient.validate import first_line, shown

FIRST, EVERY = 10, 100
"""Steps of each environment whose values are looked at: the first ones, then one in so many."""
_STEP = ("observation", "reward", "terminated", "truncated", "info")
_INF = math.inf
_ARRAY = np.ndarray


class Guarded:
    """One environment of B, with agents' actions and observations.

    Args:
        env: Gymnasium's.
        name: of the environment.
        where: which copy this is.
        seen: its observations as agents see them.
        acted: agents' actions as it receives them.
        said: warnings that have been said, shared by all copies.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        name: str,
        where: str,
        seen: Seen,
        acted: Acted,
        said: set[str],
    ) -> None:
        self.env, self.name, self.where, self.said = env, name, where, said
        self.seen, self.acted = seen, acted
        self.space: Any = env.observation_space
        self.is_masked = seen.masked
        self._steps = self._resets = self._countdown = 0
        box: Any = self.space if seen.is_plain else None
        self._limits = None if box is None else Limits(box)
        self._shape: Any = None if box is None else box.shape
        self._dtype: Any = None if box is None else box.dtype
        self._native = None if acted.is_plain_number else acted
        self._act = env.step

    def reset(self, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Observation (*observation) and legal actions (A,), or None where there is no mask."""
        try:
            result = self.env.reset(seed=seed)
        except Exception as problem:
            self._raised("reset", problem)
        if not isinstance(result, tuple) or len(result) != 2:
            self._refuse("reset", f"{kind(result)}", "two values (observation, info)")
        obs, info = result
        if not isinstance(info, dict):
            self._refuse("reset", f"an info of type {kind(info)}", "a dict")
        self._resets += 1
        is_due = self._resets <= FIRST or self._resets % EVERY == 0
        if is_due or not self._fits(obs):
            return self._observation("reset", obs, is_due), self._mask("reset", obs, info)
        return obs, self._mask("reset", obs, info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, np.ndarray | None]:
        """Observation, reward, whether terminated and truncated, and legal actions."""
        self.action = action
        try:
            obs, reward, terminated, truncated, info = self._act(
                action if self._native is None else self._native(action)
            )
        except Exception as problem:
            self._raised("step", problem)
        if not isinstance(reward, float) or not -_INF < reward < _INF:
            reward = self._reward(reward)
        if terminated is not False and terminated is not True:
            terminated = self._flag("terminated", terminated)
        if truncated is not False and truncated is not True:
            truncated = self._flag("truncated", truncated)
        self._countdown -= 1
        came = obs
        if (
            self._countdown < 0
            or type(obs) is not _ARRAY
            or obs.dtype is not self._dtype
            or obs.shape != self._shape
        ):
            obs = self._looked_at(obs)
        if type(info) is not dict and not isinstance(info, dict):
            self._refuse("step", f"an info of type {kind(info)}", "a dict")
        # Where an episode ends, the mask that counts is that of the next one.
        if (MASK in info or self.is_masked) and not (terminated or truncated):
            return obs, reward, terminated, truncated, self._mask("step", came, info)
        return obs, reward, terminated, truncated, None

    def _looked_at(self, obs: Any) -> np.ndarray:
        """The observation of a step; its values too, where it is their turn."""
        is_due = self._countdown < 0
        if is_due:
            self._steps += 1
            self._countdown = 0 if self._steps < FIRST else EVERY - 1
        return self._observation("step", obs, is_due)

    def frame(self) -> np.ndarray:
        """RGB (H, W, 3) uint8."""
        try:
            frame = self.env.render()
        except Exception as problem:
            self._raised("render", problem)
        try:
            return frame_of(frame)
        except Mismatch as problem:
            self._fail("render", "returned in render()", f": {problem}")

    def close(self) -> None:
        """Close it; what it raises is said and stops nothing."""
        try:
            self.env.close()
        except Exception as problem:
            warn(f"environment {self.name} raised in close(): {first_line(problem)}")

    def _fits(self, obs: Any) -> bool:
        """Whether an observation is an array of the declared shape and type."""
        return type(obs) is np.ndarray and obs.dtype is self._dtype and obs.shape == self._shape

    def _observation(self, method: str, obs: Any, is_due: bool) -> np.ndarray:
        try:
            held = hold(self.space, obs, "observation", is_due, self._limits)
        except Mismatch as problem:
            self._fail(method, f"returned in {method}()", f": {problem}")
        return self.seen(held)

    def _mask(self, method: str, obs: Any, info: dict[str, Any]) -> np.ndarray | None:
        """Legal actions (A,); where one is missing for once, everything is."""
        mask = obs[MASK] if self.seen.masked else info.get(MASK)
        if mask is None:
            if not self.is_masked:
                return None
            if "mask" not in self.said:
                self.said.add("mask")
                warn(missing(self.name, method))
            return everything(self.acted.sizes)
        self.is_masked = True
        try:
            return legal(mask, self.acted.sizes)
        except ValueError as problem:
            self._fail(method, f"returned in {method}()", f": {problem}")

    def _reward(self, reward: Any) -> float:
        is_number = isinstance(reward, (int, float, np.number, np.bool_))
        if not is_number and getattr(reward, "ndim", None) == 0:
            reward = np.asarray(reward)[()]
            is_number = isinstance(reward, (np.number, np.bool_))
        if not is_number or isinstance(reward, (complex, np.complexfloating)):
            self._refuse("step", f"a reward {kind(reward)}", "one number")
        number = float(reward)
        if not math.isfinite(number):
            self._fail("step", f"returned a non-finite reward {number}", "")
        return number

    def _flag(self, field: str, value: Any) -> bool:
        is_flag = isinstance(value, (bool, np.bool_)) or (
            isinstance(value, (int, np.integer)) and value in (0, 1)
        )
        if not is_flag and getattr(value, "ndim", None) == 0:
            value = np.asarray(value)[()]
            is_flag = isinstance(value, np.bool_)
        if not is_flag:
            self._refuse("step", f"{field} = {kind(value)}", "True or False")
        return bool(value)

    def _raised(self, method: str, problem: Exception) -> NoReturn:
        """What it raised; a wrong number of values, if one of Gymnasium's wrappers met it."""
        if method == "step" and _is_miscounted(problem):
            wanted = f"five values ({', '.join(_STEP)})"
            self._fail(method, "returned in step()", f": {problem}, declared are {wanted}")
        self._fail(method, "raised", f": {first_line(problem)} in {method}()", problem)

    def _refuse(self, method: str, came: str, declared: str) -> NoReturn:
        self._fail(method, f"returned in {method}()", f": {Mismatch(came, declared)}")

    def _fail(
        self, method: str, what: str, details: str, cause: Exception | None = None
    ) -> NoReturn:
        which = f"environment {self.where}"
        if method == "step":
            which += f", action {shown(self.action)}"
        raise EnvironmentFailureError(self.name, what, f"{details} ({which})") from cause


def _is_miscounted(problem: Exception) -> bool:
    """Whether it was met in taking what step() returned apart, here or in a wrapper."""
    trace = problem.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else trace.tb_frame.f_code.co_filename.replace("\\", "/")
    return "unpack" in str(problem) and (place == __file__ or "/gymnasium/wrappers/" in place)
