"""Any Gymnasium environment whose simulator's time step can be set, as a near-continuous one.

    gymnasium.make("semigradient/TimeStep-v0", base="HalfCheetah-v5", dt=0.01)

The simulator itself is refined, not only the control. The time step is one of:

- MuJoCo: `model.opt.timestep`; the frame skip stays, so a step lasts `dt` seconds;
- Box2D's walker: the module's constant FPS, replaced in this instance's methods only;
- `tau` (Gymnasium's CartPole) or `dt` (Pendulum, Acrobot): the attribute.

Only environments are accepted whose dynamics and rewards are known to mean the same at every step:
forces act for as long as a step lasts, and rewards are densities (`_DENSITIES`). LunarLander's
engines give an impulse per step, CarRacing counts tiles and steps, HumanoidStandup divides a height
by the time step. An environment of one's own says so by a class attribute `reward_per_second`.

C. Tallec, PhD thesis, 2019, appendix A; `reference_dt` is the step the environment came with.
"""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np

from semigradient.envs.clock import Clock
from semigradient.envs.options import Options
from semigradient.envs.single import make_single
from semigradient.errors import UserError, require
from semigradient.validate import NonNegative, Positive, build

FallPenalty = Literal["as_published", "impulse_consistent"]


class TimeStep(gymnasium.Wrapper):
    """An environment with a time step of `dt` seconds and a limit in seconds.

    Rewards are densities if those of the environment are. `impulse=True` says that they come per
    step instead: they are then divided by `dt`, in units of the reference step, so that the scaled
    return stays their sum.

    Args:
        env: an environment without Gymnasium's own limit of steps.
        dt: seconds of one step; None keeps it.
        time_limit: seconds after which an episode is truncated; 0: never.
        impulse: whether rewards come per step and not per second.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        dt: float | None = None,
        time_limit: float = 10.0,
        impulse: bool = False,
    ) -> None:
        super().__init__(env)
        reference = time_step(env)
        _require_density(env)
        chosen = reference if dt is None else dt
        self.clock = Clock(chosen, reference, time_limit)
        set_time_step(env, chosen)
        self._factor = 1 / self.clock.return_scale if impulse else 1.0
        self._steps = 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._steps = 0
        obs, info = self.env.reset(**options)
        return obs, {**info, "time": 0.0}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Hold the action for `dt` seconds."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        late = self.clock.limit > 0 and self._steps >= self.clock.limit
        truncated = bool(truncated or late) and not terminated
        info = {**info, "time": self._steps * self.clock.dt}
        return obs, float(reward) * self._factor, bool(terminated), truncated, info


class WalkerReward(gymnasium.Wrapper):
    """The walker's reward as a density, which in Gymnasium scales with the time step.

    Gymnasium rewards progress per step and subtracts the cost of torque once per step. As
    published, progress is multiplied by FPS / 50 and the cost is unchanged; the penalty of -100
    for a fall is unchanged too, so that its weight in the return vanishes like dt.
    `impulse_consistent` multiplies it by 0.02 / dt, which gives it the same weight at every step.
    """

    def __init__(self, env: gymnasium.Env, fall_penalty: FallPenalty = "as_published") -> None:
        super().__init__(env)
        self._consistent = fall_penalty == "impulse_consistent"

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act; only the reward differs."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        factor = _WALKER_STEP / time_step(self.env)
        if terminated and reward == -100:
            density = -100 * (factor if self._consistent else 1.0)
        else:
            cost = _TORQUE_COST * float(np.clip(np.abs(action), 0, 1).sum())
            density = (float(reward) + cost) * factor - cost
        return obs, density, terminated, truncated, info


_DENSITIES = (
    *("CartPoleEnv", "PendulumEnv", "AcrobotEnv", "BipedalWalker"),
    *("AntEnv", "HalfCheetahEnv", "HopperEnv", "HumanoidEnv", "SwimmerEnv", "Walker2dEnv"),
    *("InvertedPendulumEnv", "InvertedDoublePendulumEnv", "PusherEnv", "ReacherEnv"),
)
"""Gymnasium's classes whose rewards are densities (the walker's by `WalkerReward`)."""


def _require_density(env: gymnasium.Env) -> None:
    """`UserError` unless the environment's rewards are known to be densities."""
    kind = type(env.unwrapped)
    is_known = kind.__module__.startswith("gymnasium.envs.") and kind.__name__ in _DENSITIES
    name = env.spec.id if env.spec is not None else kind.__name__
    accepted = ", ".join(each.removesuffix("Env") for each in _DENSITIES)
    require(
        is_known or getattr(kind, "reward_per_second", False),
        f"environment {name!r}: its forces or rewards may come per step instead of per second; "
        f"accepted are {accepted}, and classes with reward_per_second = True",
    )


_WALKER_STEP = 1 / 50
_TORQUE_COST = 0.00035 * 80


def time_step(env: gymnasium.Env) -> float:
    """Seconds of one step; `UserError` where it cannot be read or set."""
    core = env.unwrapped
    if hasattr(core, "model") and hasattr(core, "frame_skip"):
        return float(core.model.opt.timestep * core.frame_skip)
    if "FPS" in _module_of(core):
        return 1 / float(_module_of(core)["FPS"])
    for name in ("tau", "dt"):
        if isinstance(getattr(core, name, None), float):
            return float(getattr(core, name))
    name = env.spec.id if env.spec is not None else type(core).__name__
    raise UserError(
        f"environment {name!r}: has no time step that can be set; accepted are MuJoCo's, Box2D's "
        "walker, and those with an attribute tau or dt"
    )


def set_time_step(env: gymnasium.Env, dt: float) -> None:
    """Let one step of the simulator behind `env` last `dt` seconds."""
    core: Any = env.unwrapped
    if hasattr(core, "model") and hasattr(core, "frame_skip"):
        core.model.opt.timestep = dt / core.frame_skip
    elif "FPS" in _module_of(core):
        names = {**_module_of(core), "FPS": 1 / dt}
        for name in ("reset", "step"):
            method = getattr(type(core), name)
            own = types.FunctionType(
                method.__code__, names, name, method.__defaults__, method.__closure__
            )
            own.__kwdefaults__ = method.__kwdefaults__
            setattr(core, name, types.MethodType(own, core))
    else:
        setattr(core, "tau" if isinstance(getattr(core, "tau", None), float) else "dt", dt)


def _module_of(core: Any) -> dict[str, Any]:
    """The global names that this environment's own `step` sees."""
    step = getattr(core.step, "__func__", core.step)
    return getattr(step, "__globals__", {})


@dataclass(frozen=True)
class TimeStepOptions(Options):
    """Options of an environment at a chosen time step."""

    base: str = ""
    """Gymnasium id of the environment, such as HalfCheetah-v5."""
    dt: Positive | None = None
    """Seconds of one step; none keeps the original."""
    time_limit: NonNegative = 10.0
    """Seconds after which an episode is cut off; 0: never."""
    impulse: bool = False
    """Rewards come per step, and not per second."""
    fall_penalty: FallPenalty = "as_published"
    """The walker's penalty for a fall: as it was published, or worth the same at every step."""

    def check(self) -> None:
        """An environment is named."""
        is_valid = self.base.strip() != ""
        require(is_valid, f"base={self.base!r}: must be a Gymnasium id, such as HalfCheetah-v5")


def make(render_mode: str | None = None, **options: Any) -> gymnasium.Env:
    """Gymnasium's environment `base` at a time step of `dt` seconds; see `TimeStep`.

    Args:
        render_mode: of the environment.
        options: those of `TimeStepOptions`, and the environment's own.
    """
    own = {field.name for field in dataclasses.fields(TimeStepOptions)} & set(options)
    chosen = build(TimeStepOptions, {name: options.pop(name) for name in own})
    env = make_single(
        chosen.base,
        {
            "render_mode": render_mode,
            "max_episode_steps": -1,  # the limit is one of seconds
            **options,
        },
    )
    if "bipedal_walker" in type(env.unwrapped).__module__:
        env = WalkerReward(env, chosen.fall_penalty)
    else:
        default = chosen.fall_penalty == "as_published"
        require(default, f"fall_penalty={chosen.fall_penalty!r}: is for BipedalWalker")
    return TimeStep(env, chosen.dt, chosen.time_limit, chosen.impulse)
