"""Rules of Gymnasium's classic control on arrays, bit for bit.

Each class is the `step` of one of Gymnasium's environments, for N states at once: the same
operations in the same order and in the same precision. Constants and first states come from an
environment of Gymnasium's, and `agrees` compares the two on this machine with the versions that
are installed, since neither Gymnasium's rules nor the last bit of a cosine are promised to stay.

Source: Gymnasium 1.4, gymnasium/envs/classic_control.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

Array = NDArray[Any]

_SIZES = range(1, 32)
"""Numbers of states that are compared at once: vectorised loops treat their ends differently."""


class Rules:
    """One environment of Gymnasium's, on arrays.

    Args:
        env: Gymnasium's own, without wrappers.

    Attributes:
        OPTIONS: keyword arguments that are known.
        BOUNDS: of the states (S,) that are compared.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    BOUNDS: ClassVar[tuple[float, ...]] = ()

    def __init__(self, env: Any) -> None:
        self.env = env

    @classmethod
    def accepts(cls, name: str, value: Any) -> bool:
        """Whether the rules know an option and this value of it."""
        return name in cls.OPTIONS and type(value) in (bool, int, float) and math.isfinite(value)

    def begin(self, seed: int) -> tuple[Array, Array]:
        """First state (S,) float64 and observation (o,) of the episode with a seed."""
        obs, _ = self.env.reset(seed=seed)
        return np.array(self.env.state, np.float64), obs

    def step(self, state: Array, actions: Array) -> tuple[Array, Array]:
        """Act on states (S, N), in place.

        Returns:
            Rewards (N,) float64, and whether the episodes terminated (N,).
        """
        raise NotImplementedError

    def observe(self, state: Array) -> Array:
        """Observations (N, o) float32 of states (S, N) that were acted on."""
        return np.array(state.T, np.float32, order="C")

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """States (S, `count`) all over the range of the environment."""
        bounds = np.array(self.BOUNDS)[:, None]
        return rng.uniform(-bounds, bounds, (len(bounds), count))

    def alone(self, state: Array, action: Any) -> tuple[Any, float, bool]:
        """One step of Gymnasium's environment from a state (S,), written in place.

        Returns:
            Observation (o,), reward, and whether the episode terminated.
        """
        self.place(state)
        obs, reward, terminated, _, _ = self.env.step(action)
        state[:] = self.env.state
        return obs, reward, terminated

    def place(self, state: Array) -> None:
        """Put Gymnasium's environment into a state (S,)."""
        self.env.state = state


class CartPole(Rules):
    """States are (position, velocity, angle, angular velocity); forces are -10 and 10."""

    OPTIONS = frozenset({"sutton_barto_reward"})
    BOUNDS = (4.8, 4.0, 0.42, 4.0)

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.forces = np.array([-env.force_mag, env.force_mag])
        self.limits = np.array([[env.x_threshold], [env.theta_threshold_radians]])
        self.going, self.over = (0.0, -1.0) if env._sutton_barto_reward else (1.0, 1.0)
        names = ("masspole", "total_mass", "length", "polemass_length", "gravity", "tau")
        # Arrays without axes are faster than Python's numbers.
        self.constants = [np.array(getattr(env, name)) for name in names]
        self.inertia = np.array(4.0 / 3.0)

    def step(self, state: Array, actions: Array) -> tuple[Array, Array]:
        """Euler's method, as in Gymnasium."""
        masspole, total_mass, length, polemass_length, gravity, tau = self.constants
        angle, speed = state[2], state[3]
        cosine, sine = np.cos(angle), np.sin(angle)
        push = (self.forces[actions] + polemass_length * (speed * speed) * sine) / total_mass
        inertia = length * (self.inertia - masspole * (cosine * cosine) / total_mass)
        turn = (gravity * sine - cosine * push) / inertia
        rates = np.empty_like(state)
        rates[::2] = state[1::2]
        rates[1] = push - polemass_length * turn * cosine / total_mass
        rates[3] = turn
        rates *= tau
        state += rates
        far, fallen = abs(state[::2]) > self.limits
        terminated = far | fallen
        return np.where(terminated, self.over, self.going), terminated

    def place(self, state: Array) -> None:
        """Gymnasium's environment also remembers whether the pole has fallen."""
        self.env.state, self.env.steps_beyond_terminated = state, None


_CLASSIC = "gymnasium.envs.classic_control"
RULES: dict[str, type[Rules]] = {
    f"{_CLASSIC}.cartpole:CartPoleEnv": CartPole,
}
"""Rules by the entry point of Gymnasium's registered environments."""


@lru_cache(maxsize=64)
def agrees(point: str, options: tuple[tuple[str, Any], ...]) -> bool:
    """Whether the rules of an entry point step as Gymnasium's environment does, bit for bit.

    Compared are hundreds of steps, from states all over its range; once in a process.
    """
    rng = np.random.default_rng(0)
    try:
        rules = RULES[point](load_env_creator(point)(**dict(options)))
        return all(_agree(rules, rng, count) for count in _SIZES)
    except Exception:  # it is not the environment that these rules were written for
        return False


def _agree(rules: Rules, rng: np.random.Generator, count: int) -> bool:
    states, actions = rules.draw(rng, count), _actions(rules.env.action_space, rng, count)
    columns = states.T.copy()
    pairs = zip(columns, actions, strict=True)
    theirs = zip(*(rules.alone(column, action) for column, action in pairs), strict=True)
    rewards, terminated = rules.step(states, actions)
    ours = (states.T, rules.observe(states), rewards, terminated)
    pairs = zip(ours, (columns, *map(np.array, theirs)), strict=True)
    return all(np.array_equal(mine, other) for mine, other in pairs)


def _actions(space: Any, rng: np.random.Generator, count: int) -> Array:
    """Actions (N, *action); real ones also out of their bounds."""
    if isinstance(space, Discrete):
        return rng.integers(space.n, size=count)
    return rng.uniform(1.5 * space.low, 1.5 * space.high, (count, *space.shape)).astype(space.dtype)
