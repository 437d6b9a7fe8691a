"""One-dimensional near-continuous environments whose values are known in closed form.

C. Tallec, PhD thesis, 2019, chapter 8 and the code published with it; the solutions are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.control.near_continuous import (
    Actions,
    Flow,
    NearContinuous,
    TimedOptions,
    control,
    force,
    uniform,
)
from semigradient.envs.pictures import line
from semigradient.validate import NonNegative, Positive


class Pusher:
    """`semigradient/Pusher-v0`: dx/dt = -a, reward density exp(-x²); see `pusher_values`.

    Actions: `Box(-1, 1, (1,))`, or with `actions="discrete"` `Discrete(3)`: -1, 0, 1. Observation:
    x. Begins at x ~ N(0, 1); truncated after `time_limit` (10) seconds. v0: first version.
    """

    reference_dt = 0.1

    def __init__(self, actions: Actions = "continuous") -> None:
        self.observation_space: spaces.Box = _line()
        self.action_space = control(actions, 3)
        self.settings: dict[str, Any] = {"actions": actions}

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """(n, 1)."""
        return torch.randn((n, 1), dtype=torch.float64, generator=generator, device=device)

    def flow(self, x: Tensor, action: Tensor, dt: float) -> Flow:
        """Exact: the speed is constant over a step."""
        density = torch.exp(-x[:, 0].square())
        moved = x - dt * force(self.action_space, action)[:, None]
        return Flow(moved, density, torch.zeros_like(density, dtype=torch.bool))

    def observe(self, x: Tensor) -> Tensor:
        """(B, 1)."""
        return x.float()

    def frame(self, x: np.ndarray) -> np.ndarray:
        """A point on a line."""
        return line(x[0], -3, 3, f"position {x[0]:.2f}   (the reward is largest at 0)")


class LinearQuadratic:
    """`semigradient/LQ1-v0`, `semigradient/LQR1-v0`: ds/dt = a, reward density -s² - cost·a².

    Actions: `Box(-4, 4, (1,))`. Observation: s. Begins at s ~ U(-2, 2); truncated after
    `time_limit` (10) seconds. `cost` is 0 for LQ1, 1 for LQR1; see `lq_values` and `lqr_optimum`.
    v0: first version.
    """

    reference_dt = 0.1
    _LARGEST = 4.0

    def __init__(self, cost: float = 0.0) -> None:
        self.cost = cost
        self.observation_space: spaces.Box = _line()
        self.action_space: spaces.Space = spaces.Box(
            -self._LARGEST, self._LARGEST, (1,), np.float32
        )
        self.settings: dict[str, Any] = {"cost": cost}

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """(n, 1)."""
        return uniform(n, torch.tensor([2.0], dtype=torch.float64), generator, device)

    def flow(self, x: Tensor, action: Tensor, dt: float) -> Flow:
        """Exact: the speed is constant over a step."""
        speed = action[:, :1].double().clamp(-self._LARGEST, self._LARGEST)
        density = -(x.square() + self.cost * speed.square())[:, 0]
        return Flow(x + dt * speed, density, torch.zeros_like(density, dtype=torch.bool))

    def observe(self, x: Tensor) -> Tensor:
        """(B, 1)."""
        return x.float()

    def frame(self, x: np.ndarray) -> np.ndarray:
        """A point on a line."""
        return line(x[0], -3, 3, f"s = {x[0]:.2f}")


class Hill:
    """`semigradient/Hill-v0`: a slope with immediate rewards that leads to termination.

    dx/dt = a on [-1, 1], but to the left of -0.25 the state slides down at speed 1 whatever the
    action. Reward density 1 for x < 0; terminated at x ≤ -1. A myopic agent goes over the edge.
    Actions: `Box(-1, 1, (1,))`, or with `actions="discrete"` `Discrete(2)`: -1, 1. Observation: x.
    Begins at x ~ U(-1, 1); truncated after `time_limit` (10) seconds. v0: first version.
    """

    reference_dt = 0.1
    _EDGE = -0.25

    def __init__(self, actions: Actions = "discrete") -> None:
        self.observation_space: spaces.Box = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = control(actions, 2)
        self.settings: dict[str, Any] = {"actions": actions}

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """(n, 1)."""
        return uniform(n, torch.ones(1, dtype=torch.float64), generator, device)

    def flow(self, x: Tensor, action: Tensor, dt: float) -> Flow:
        """Explicit Euler: exact but at the edge."""
        at = x[:, 0]
        chosen = force(self.action_space, action)
        speed = torch.where(at < self._EDGE, -torch.ones_like(at), chosen)
        moved = (at + dt * speed).clamp(-1, 1)
        return Flow(moved[:, None], (at < 0).double(), moved <= -1)

    def observe(self, x: Tensor) -> Tensor:
        """(B, 1)."""
        return x.float()

    def frame(self, x: np.ndarray) -> np.ndarray:
        """A point on a line."""
        slope = [(-1, self._EDGE, "slides down")]
        return line(x[0], -1, 1, f"x = {x[0]:.2f}", slope)


class Sine:
    """`semigradient/Sine-v0`: the state is sin t for every action, and rewards are 0.

    The counter-example of theorem 5: learning rates proportional to dt^β with β < 1 blow up, with
    β > 1 nothing is learned. Actions: `Discrete(2)`. Observation: sin t. Begins at t = 0;
    truncated after `time_limit` (10) seconds. v0: first version.
    """

    reference_dt = 0.1

    def __init__(self) -> None:
        self.observation_space: spaces.Box = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space: spaces.Space = spaces.Discrete(2)
        self.settings: dict[str, Any] = {}

    def start(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """(n, 1): the time."""
        return torch.zeros((n, 1), dtype=torch.float64, device=device)

    def flow(self, x: Tensor, action: Tensor, dt: float) -> Flow:
        """Advance the time."""
        nothing = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Flow(x + dt, nothing, torch.zeros_like(nothing, dtype=torch.bool))

    def observe(self, x: Tensor) -> Tensor:
        """(B, 1)."""
        return torch.sin(x).float()

    def frame(self, x: np.ndarray) -> np.ndarray:
        """A point on a line."""
        return line(math.sin(x[0]), -1, 1, f"sin {x[0]:.2f} = {math.sin(x[0]):.2f}")


def pusher_values(x: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Optimal V*(x) and A*(x, stay) of the continuous-time pusher: float64, of the shape of x.

    The optimum goes to 0 at full speed and stays:

        V*(x) = ∫_0^|x| γ^t exp(-(|x| - t)²) dt + γ^|x| / λ,    λ = -ln γ,
        A*(x, toward) = 0,  A*(x, stay) = exp(-x²) - λ V*(x),  A*(x, away) = 2 A*(x, stay).
    """
    # Completing the square turns the integral into a difference of error functions.
    rate, far = -math.log(gamma), x.double().abs()
    shift = rate / 2
    span = torch.erf(far - shift) + math.erf(shift)
    # With u = |x| - t:  exp(-λ|x|) ∫_0^|x| exp(λu - u²) du,  and λu - u² = λ²/4 - (u - λ/2)².
    gathered = torch.exp(shift**2 - rate * far) * span * math.sqrt(math.pi) / 2
    value = gathered + torch.exp(-rate * far) / rate
    return value, torch.exp(-far.square()) - rate * value


def lq_values(s: Tensor, a: Tensor, gain: float, gamma: float, dt: float) -> tuple[Tensor, Tensor]:
    """V_dt(s) and A_dt(s, a) = (Q_dt - V_dt) / dt of the policy -gain·s on LQ1; dt = 0: the limit.

    Closed forms for an action that is held for dt seconds, whose reward is -s² dt.
    """
    if dt == 0:
        rate = -math.log(gamma) + 2 * gain
        return -s.square() / rate, -2 * s * (a + gain * s) / rate
    discount = gamma**dt
    p = dt / (1 - discount * (1 - gain * dt) ** 2)
    value = -p * s.square()
    return value, (-s.square() * dt - discount * p * (s + a * dt).square() - value) / dt


def lqr_optimum(cost: float, gamma: float) -> tuple[float, float]:
    """(P, gain): optimal V = -P s² and action -gain·s of LQR1 in continuous time."""
    rate = -math.log(gamma)
    p = cost * (-rate + math.sqrt(rate**2 + 4 / cost)) / 2
    return p, p / cost


def _line() -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (1,), np.float32)


@dataclass(frozen=True)
class PusherOptions(TimedOptions):
    """Options of the pusher."""

    dt: Positive = Pusher.reference_dt
    """Seconds of one step."""
    actions: Actions = "continuous"
    """Speeds in [-1, 1] (continuous), or -1, 0 and 1 (discrete)."""

    def make(self, device: str = "cpu") -> NearContinuous:
        """The core of `semigradient/Pusher-v0`."""
        return self.timed(Pusher(self.actions), device)


@dataclass(frozen=True)
class LQ1Options(TimedOptions):
    """Options of the quadratic problem with free control."""

    def make(self, device: str = "cpu") -> NearContinuous:
        """The core of `semigradient/LQ1-v0`."""
        return self.timed(LinearQuadratic(), device)


@dataclass(frozen=True)
class LQR1Options(TimedOptions):
    """Options of the linear-quadratic problem."""

    cost: NonNegative = 1.0
    """What the squared control costs per second."""

    def make(self, device: str = "cpu") -> NearContinuous:
        """The core of `semigradient/LQR1-v0`."""
        return self.timed(LinearQuadratic(self.cost), device)


@dataclass(frozen=True)
class HillOptions(TimedOptions):
    """Options of the hill."""

    actions: Actions = "discrete"
    """Speeds in [-1, 1] (continuous), or -1 and 1 (discrete)."""

    def make(self, device: str = "cpu") -> NearContinuous:
        """The core of `semigradient/Hill-v0`."""
        return self.timed(Hill(self.actions), device)


@dataclass(frozen=True)
class SineOptions(TimedOptions):
    """Options of the sine."""

    def make(self, device: str = "cpu") -> NearContinuous:
        """The core of `semigradient/Sine-v0`."""
        return self.timed(Sine(), device)
