"""Physical time of an environment whose time step can be chosen.

A near-continuous environment discretises dx/dt = F(x, a): an action is held for `dt` seconds. Its
reward is a density, per second, so that

    R = Σ_k γ^{k dt} r(x_k, a_k) dt    →    ∫ γ^t r dt,

and the discount of one step is γ^dt (C. Tallec, PhD thesis, 2019, §8.2, equations 8.3 to 8.6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from semigradient.errors import UserError, require


@dataclass(frozen=True)
class Clock:
    """Conversion between steps and seconds.

    Attributes:
        dt: seconds of one step.
        reference_dt: the step at which undiscounted returns are usually reported.
        time_limit: seconds after which an episode is truncated; 0: never.
    """

    dt: float
    reference_dt: float
    time_limit: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dt", "reference_dt"):
            value = getattr(self, name)
            is_valid = isinstance(value, (int, float)) and 0 < value < math.inf
            require(is_valid, f"{name}={value!r}: must be a number of seconds > 0")
        limit = self.time_limit
        is_valid = isinstance(limit, (int, float)) and 0 <= limit < math.inf
        require(is_valid, f"time_limit={limit!r}: must be a number of seconds ≥ 0 (0: none)")
        require(limit == 0 or limit >= self.dt, f"time_limit={limit}: must be ≥ dt={self.dt}")

    @property
    def limit(self) -> int:
        """The time limit in steps; 0: none."""
        return round(self.time_limit / self.dt)

    @property
    def return_scale(self) -> float:
        """Factor that makes a sum of densities comparable with one at the reference step."""
        return self.dt / self.reference_dt

    def discount(self, gamma: float) -> float:
        """Discount per step, from the discount per second."""
        return gamma**self.dt

    def horizon(self, gamma: float) -> float:
        """Physical horizon in seconds (eq. 8.6): dt / (1 - γ^dt), near -1 / ln γ."""
        return self.dt / (1 - self.discount(gamma))

    def hours(self, steps: int) -> float:
        """Physical hours of so many steps, all environments together."""
        return steps * self.dt / 3600

    def protocol(self) -> dict[str, Any]:
        """The time settings that scores depend on."""
        times = {"dt": self.dt, "reference_dt": self.reference_dt, "time_limit": self.time_limit}
        return {**times, "reward": "density"}


def clock_of(envs: Any) -> Clock:
    """The clock of a vector environment; `UserError` where its time step cannot be set."""
    clock = getattr(envs, "clock", None)
    if clock is None:
        name = envs.spec.id if envs.spec is not None else type(envs).__name__
        raise UserError(
            f"environment {name!r}: has no time step that can be set; accepted are those of "
            "docs/continuous_time.md, or semigradient/TimeStep-v0 with --env-options base=… dt=…"
        )
    return clock
