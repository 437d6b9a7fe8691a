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
        is_finite: whether rewards are, whatever the action.
        shown: which numbers of Gymnasium's observations are observed (`position_only`).
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    BOUNDS: ClassVar[tuple[float, ...]] = ()
    is_finite = True

    def __init__(self, env: Any) -> None:
        self.env = env
        self.shown = getattr(env, "SHOWN", slice(None))

    @classmethod
    def accepts(cls, name: str, value: Any) -> bool:
        """Whether the rules know an option and this value of it."""
        return name in cls.OPTIONS and type(value) in (bool, int, float) and abs(value) < 1e6

    def begin(self, seed: int) -> tuple[Array, Array]:
        """First state (S,) float64 and observation (o,) of the episode with a seed."""
        # What Gymnasium makes of a seed, without its checks.
        self.env.np_random = np.random.Generator(np.random.PCG64(seed))
        obs, _ = self.env.reset()
        return np.array(self.env.state, np.float64), obs

    def step(self, state: Array, actions: Array) -> tuple[Array, Array]:
        """Act on states (S, N), in place.

        Returns:
            Rewards (N,) float64, and whether the episodes terminated (N,).
        """
        raise NotImplementedError

    def observe(self, state: Array) -> Array:
        """Observations (N, o) float32 of states (S, N) that were acted on."""
        return np.array(state[self.shown].T, np.float32, order="C")

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


def _cosines(angles: Array) -> Array:
    """Of Python's `math`, which need not be NumPy's."""
    return np.array([math.cos(angle) for angle in angles.tolist()])


def _squares(values: Array) -> Array:
    """By a power, as of numbers (N,): a product can differ in the last bit."""
    return np.array([value**2 for value in values.tolist()])


def _clip(values: Array, low: Any, high: Any) -> None:
    """In place, and faster than NumPy's `clip`."""
    np.maximum(values, low, out=values)
    np.minimum(values, high, out=values)


def _rolled(env: Any, position: Array, velocity: Array) -> Array:
    """Move cars (N,) in place, within bounds; which of them are at the goal."""
    _clip(velocity, -env.max_speed, env.max_speed)
    position += velocity
    _clip(position, env.min_position, env.max_position)
    velocity[(position == env.min_position) & (velocity < 0)] = 0
    return (position >= env.goal_position) & (velocity >= env.goal_velocity)


class MountainCar(Rules):
    """States are (position, velocity)."""

    OPTIONS = frozenset({"goal_velocity"})
    BOUNDS = (1.2, 0.07)

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.forces = np.array([(action - 1) * env.force for action in range(3)])

    def step(self, state: Array, actions: Array) -> tuple[Array, Array]:
        """In double precision."""
        env, (position, velocity) = self.env, state
        velocity += self.forces[actions] + _cosines(3 * position) * -env.gravity
        return np.full(len(velocity), -1.0), _rolled(env, position, velocity)


class MountainCarContinuous(Rules):
    """States are (position, velocity, whether the episode has just begun).

    Gymnasium takes the first step of an episode in double precision, which is left to it, and all
    others in single precision, except for actions out of their bounds.
    """

    OPTIONS = frozenset({"goal_velocity"})
    BOUNDS = (1.2, 0.07, 1.0)
    is_finite = False

    @classmethod
    def accepts(cls, name: str, value: Any) -> bool:
        """Goals near the highest velocity are compared in two precisions, and left to copies."""
        return super().accepts(name, value) and abs(abs(value) - 0.07) > 1e-6

    def begin(self, seed: int) -> tuple[Array, Array]:
        """First state (3,) and observation (2,) of the episode with a seed."""
        state, obs = super().begin(seed)
        return np.append(state, 1.0), obs

    def step(self, state: Array, actions: Array) -> tuple[Array, Array]:
        """All in single precision; then first steps again, as they are."""
        first = state[2].nonzero()[0].tolist()
        before = [state[:, index].copy() for index in first]
        rewards, terminated = self._step(state, actions[:, 0])
        for index, column in zip(first, before, strict=True):
            _, rewards[index], terminated[index] = self.alone(column, actions[index])
            state[:, index] = column
        return rewards, terminated

    def observe(self, state: Array) -> Array:
        """Position and velocity."""
        return super().observe(state[:2])

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Half of them at the beginning of an episode."""
        state = super().draw(rng, count)
        state[2] = state[2] > 0
        return np.where(state[2] > 0, state, state.astype(np.float32))

    def alone(self, state: Array, action: Any) -> tuple[Any, float, bool]:
        """One step of Gymnasium's environment from a state (3,), written in place."""
        self.env.state = state[:2] if state[2] else state[:2].astype(np.float32)
        obs, reward, terminated, _, _ = self.env.step(action)
        state[:2], state[2] = self.env.state, 0.0
        return obs, reward, terminated

    def _step(self, state: Array, force: Array) -> tuple[Array, Array]:
        env, (position, velocity) = self.env, state[:2].astype(np.float32)
        slope = 0.0025 * _cosines(3 * position)
        inside = force * env.power - slope.astype(np.float32)
        outside = (np.copysign(env.power, force, dtype=float) - slope).astype(np.float32)
        velocity += np.where(abs(force) > env.max_action, outside, inside)
        terminated = _rolled(env, position, velocity)
        state[0], state[1], state[2] = position, velocity, 0.0
        cost = np.square(force.astype(np.float64)) * 0.1
        return np.where(terminated, 100.0, 0.0) - cost, terminated


class Acrobot(Rules):
    """States are (angle of the first joint, of the second, and their velocities)."""

    BOUNDS = (math.pi, math.pi, 4 * math.pi, 9 * math.pi)

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.torques = np.array(env.AVAIL_TORQUE)
        self.speeds = np.array([[env.MAX_VEL_1], [env.MAX_VEL_2]])

    def step(self, state: Array, actions: Array) -> tuple[Array, Array]:
        """The method of Runge and Kutta, of fourth order."""
        dt, torque = self.env.dt, self.torques[actions]
        k1 = self._rates(state, torque)
        k2 = self._rates(state + dt / 2.0 * k1, torque)
        k3 = self._rates(state + dt / 2.0 * k2, torque)
        k4 = self._rates(state + dt * k3, torque)
        state += dt / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        _wrap(state[:2])
        _clip(state[2:], -self.speeds, self.speeds)
        terminated = -np.cos(state[0]) - np.cos(state[1] + state[0]) > 1.0
        return np.where(terminated, 0.0, -1.0), terminated

    def observe(self, state: Array) -> Array:
        """Cosine and sine of both angles, and the velocities."""
        first, second = state[:2]
        angles = np.cos(first), np.sin(first), np.cos(second), np.sin(second)
        return super().observe(np.array([*angles, *state[2:]]))

    def _rates(self, state: Array, torque: Array) -> Array:
        """Derivatives (4, N), by the equations of the book: masses, lengths and inertia are 1."""
        g, (angle1, angle2, speed1, speed2) = 9.8, state
        square1, square2 = _squares(state[2:].ravel()).reshape(2, -1)
        quarter = math.pi / 2.0
        angles = np.array([angle2, angle1 + angle2 - quarter, angle1 - quarter])
        cosine, cosine12, cosine1 = np.cos(angles)
        sine = np.sin(angle2)
        d1 = 0.25 + (1.25 + cosine) + 1.0 + 1.0
        d2 = 0.25 + 0.5 * cosine + 1.0
        phi2 = 0.5 * g * cosine12
        phi1 = -0.5 * square2 * sine - speed2 * speed1 * sine + 1.5 * g * cosine1 + phi2
        turn2 = (torque + d2 / d1 * phi1 - 0.5 * square1 * sine - phi2) / (1.25 - _squares(d2) / d1)
        return np.array([speed1, speed2, -(d2 * turn2 + phi1) / d1, turn2])


def _wrap(angles: Array) -> None:
    """Turn angles into [-π, π], in place."""
    while (above := angles > math.pi).any():
        angles[above] -= 2 * math.pi
    while (below := angles < -math.pi).any():
        angles[below] += 2 * math.pi


class Pendulum(Rules):
    """States are (angle, velocity); torques are of single precision."""

    OPTIONS = frozenset({"g"})
    BOUNDS = (12.0, 8.0)

    def step(self, state: Array, actions: Array) -> tuple[Array, Array]:
        """Nothing terminates."""
        env, (angle, speed) = self.env, state
        torque = np.clip(actions, -env.max_torque, env.max_torque)[:, 0]
        normal = (angle + math.pi) % (2 * math.pi) - math.pi
        effort = np.array([value**2 for value in torque])
        costs = _squares(normal) + 0.1 * _squares(speed) + 0.001 * effort
        weight, lever = 3 * env.g / (2 * env.l), 3.0 / (env.m * env.l**2)
        speed += (weight * np.sin(angle) + lever * torque) * env.dt
        _clip(speed, -env.max_speed, env.max_speed)
        angle += speed * env.dt
        return -costs, np.zeros(len(costs), bool)

    def observe(self, state: Array) -> Array:
        """Cosine and sine of the angle, and the velocity."""
        return super().observe(np.array([np.cos(state[0]), np.sin(state[0]), state[1]]))


_CLASSIC = "gymnasium.envs.classic_control"
_POSITIONS = "semigradient.envs.control.position_only:PositionOnly"
RULES: dict[str, type[Rules]] = {
    f"{_CLASSIC}.cartpole:CartPoleEnv": CartPole,
    f"{_CLASSIC}.mountain_car:MountainCarEnv": MountainCar,
    f"{_CLASSIC}.continuous_mountain_car:Continuous_MountainCarEnv": MountainCarContinuous,
    f"{_CLASSIC}.acrobot:AcrobotEnv": Acrobot,
    f"{_CLASSIC}.pendulum:PendulumEnv": Pendulum,
    f"{_POSITIONS}CartPole": CartPole,
    f"{_POSITIONS}MountainCar": MountainCar,
    f"{_POSITIONS}Acrobot": Acrobot,
    f"{_POSITIONS}Pendulum": Pendulum,
}
"""Rules by the entry point of Gymnasium's registered environments, with velocities or without."""


@lru_cache(maxsize=64)
def agrees(point: str, options: tuple[tuple[str, Any], ...]) -> bool:
    """Whether the rules of an entry point step as Gymnasium's environment does, bit for bit.

    Compared are hundreds of steps, from states all over its range; once in a process.
    """
    rng = np.random.default_rng(0)
    try:
        rules = RULES[point](load_env_creator(point)(**dict(options)))
        return all(_begin(rules, seed) and _agree(rules, rng, seed) for seed in _SIZES)
    except Exception:  # it is not the environment that these rules were written for
        return False


def _begin(rules: Rules, seed: int) -> bool:
    state, obs = rules.begin(seed)
    same = np.array_equal(obs, rules.env.reset(seed=seed)[0])
    return same and np.array_equal(state[: len(rules.env.state)], rules.env.state)


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
