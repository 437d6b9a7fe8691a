"""Near-continuous environments against Gymnasium, closed forms and each other."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from semigradient import envs
from semigradient.envs.adapters import CoreEnv
from semigradient.envs.clock import Clock, clock_of
from semigradient.envs.control.classic_control import CartPoleOptions, PendulumOptions
from semigradient.envs.control.closed_forms import (
    LQ1Options,
    PusherOptions,
    lq_values,
    lqr_optimum,
    pusher_values,
)
from semigradient.envs.control.time_step import TimeStep, time_step
from semigradient.envs.control.time_step import make as refine
from semigradient.errors import UserError

GAMMA = 0.8
TIMED = ("semigradient.envs.control.classic_control", "semigradient.envs.control.closed_forms")

# Time


def test_discount_and_horizon_follow_the_table() -> None:
    table = {
        1: (0.8, 5.0),
        0.05: (0.98890483, 4.50647),
        0.02: (0.99554707, 4.49143),
        0.01: (0.99777105, 4.48642),
        0.005: (0.99888490, 4.48392),
        0.002: (0.99955381, 4.48242),
        0.001: (0.99977688, 4.48192),
        0.0005: (0.99988843, 4.48167),
    }
    for dt, (discount, horizon) in table.items():
        clock = Clock(dt, dt)
        assert clock.discount(GAMMA) == pytest.approx(discount, abs=1e-8)
        assert clock.horizon(GAMMA) == pytest.approx(horizon, abs=1e-5)


def test_the_horizon_converges_to_first_order() -> None:
    values = [Clock(dt, dt).horizon(GAMMA) for dt in (0.1, 0.05, 0.025, 0.0125)]
    steps = np.diff(values)
    np.testing.assert_allclose(steps[:-1] / steps[1:], 2, rtol=0.02)
    assert values[-1] - -1 / math.log(GAMMA) == pytest.approx(0.0125 / 2, rel=0.02)


@pytest.mark.parametrize("dt", [0, -0.1, math.inf, math.nan, "fast"])
def test_a_time_step_must_be_positive(dt: Any) -> None:
    with pytest.raises(UserError, match=r"dt=.*> 0"):
        envs.make_vector("semigradient/Pendulum-v0", 1, 0, dt=dt)


@pytest.mark.parametrize("base", ["LunarLander-v3", "CarRacing-v3"])
def test_environments_whose_impulses_are_per_step_are_refused(base: str) -> None:
    pytest.importorskip("Box2D")
    with pytest.raises(UserError, match=f"'{base}': its forces or rewards may come per step"):
        gymnasium.make("semigradient/TimeStep-v0", base=base, dt=0.01)


def test_heights_over_time_steps_are_refused() -> None:
    pytest.importorskip("mujoco")
    with pytest.raises(UserError, match="'HumanoidStandup-v5': its forces or rewards"):
        gymnasium.make("semigradient/TimeStep-v0", base="HumanoidStandup-v5", dt=0.01)


def test_an_environment_of_one_s_own_says_that_its_rewards_are_densities() -> None:
    class Own(PendulumEnv):
        pass

    with pytest.raises(UserError, match="'Own': its forces") as caught:
        TimeStep(Own(), 0.01)
    assert "\n" not in str(caught.value)
    Own.reward_per_second = True
    assert TimeStep(Own(), 0.01).clock.dt == 0.01


def test_environments_without_a_time_step_are_refused() -> None:
    with pytest.raises(UserError, match=r"'MountainCar-v0'.*no time step that can be set"):
        clock_of(envs.make_vector("MountainCar-v0", 1, 0))
    with pytest.raises(UserError, match=r"'MountainCar-v0'.*no time step that can be set"):
        envs.make_vector("semigradient/TimeStep-v0", 1, 0, base="MountainCar-v0")


def test_options_are_checked() -> None:
    for options, message in (
        ({"actions": "both"}, "actions='both'"),
        ({"time_limit": -1}, "time_limit=-1"),
        ({"time_limit": 0.01}, "must be ≥ dt"),
        ({"integrator": "rk4"}, "integrator='rk4'"),
        ({"speed": 3}, "'speed'"),
    ):
        with pytest.raises(UserError, match=message):
            envs.make_vector("semigradient/Pendulum-v0", 1, 0, **options)


# Faces


@pytest.mark.parametrize("env_id", ["semigradient/Pendulum-v0", "semigradient/CartPole-v0"])
def test_the_usual_step_is_gymnasiums(env_id: str) -> None:
    core = (
        PendulumOptions(time_limit=0).make()
        if "Pendulum" in env_id
        else CartPoleOptions(time_limit=0).make()
    )
    theirs: Any = gymnasium.make(env_id.split("/")[1].replace("v0", "v1")).unwrapped
    rng = np.random.default_rng(0)
    for seed in range(5):
        obs, _ = theirs.reset(seed=seed)
        state = core.reset(1, state=theirs.state)
        for _ in range(200):
            np.testing.assert_allclose(core.observe(state)[0], obs, atol=1e-6)
            action = rng.uniform(-1.2, 1.2, 1) if "Pendulum" in env_id else rng.integers(2)
            theirs_action = 2 * action if "Pendulum" in env_id else action
            obs, reward, ended, *_ = theirs.step(theirs_action)
            state, ours, over, _ = core.step(state, torch.as_tensor(action)[None])
            assert ours.item() == pytest.approx(reward, abs=1e-6)
            assert bool(over) == ended
            if ended:
                break


@pytest.mark.parametrize("options", [{}, {"actions": "discrete"}, {"integrator": "published"}])
def test_torque_costs_a_thousandth_of_its_square(options: dict[str, str]) -> None:
    core = PendulumOptions(**options).make()
    state = core.reset(1, torch.Generator().manual_seed(0))
    rewards = []
    for torque in (2.0, 0.0) if not options.get("actions") else (2.0,):
        action = torch.tensor([1]) if options.get("actions") else torch.tensor([[torque / 2]])
        rewards.append(core.step(state, action).reward.item())
    angle, speed = state[0][0].tolist()[:2]
    wrapped = (angle + math.pi) % (2 * math.pi) - math.pi
    still = -(wrapped**2 + 0.1 * speed**2)
    assert rewards[0] == pytest.approx(still - 0.004, abs=1e-6)
    assert rewards[1:] == pytest.approx([still] * len(rewards[1:]), abs=1e-6)


def test_published_pendulum_moves_by_the_unclipped_speed() -> None:
    state = [1.0, 7.9]
    core = PendulumOptions(integrator="published").make()
    moved = core.step(core.reset(1, state=state), torch.ones(1, 1)).state.x[0]
    faster = 7.9 + (15 * math.sin(1.0) + 6) * 0.05
    assert moved.tolist() == pytest.approx([1.0 + faster * 0.05, 8.0])


# Physics


def test_discretisation_errors_are_of_first_order() -> None:
    # Lemma 1: under a smooth policy, halving the step halves the distance to the limit.
    def end(dt: float) -> torch.Tensor:
        core = PendulumOptions(dt, time_limit=0).make()
        state = core.reset(1, state=[2.0, 0.5])
        for _ in range(round(2 / dt)):
            obs = core.observe(state).double()
            state = core.step(state, torch.tanh(obs[:, 1:2] - 0.3 * obs[:, 2:])).state
        return state.x[0]

    ends = [end(dt) for dt in (0.02, 0.01, 0.005, 0.0025)]
    steps = [float((one - two).norm()) for one, two in pairwise(ends)]
    assert [one / two for one, two in pairwise(steps)] == pytest.approx([2, 2], abs=0.2)


def test_pusher_values_satisfy_the_equation_of_hamilton_jacobi_bellman() -> None:
    x = torch.linspace(0.1, 3, 50, dtype=torch.float64, requires_grad=True)
    value, stay = pusher_values(x, GAMMA)
    (slope,) = torch.autograd.grad(value.sum(), x)
    # Moving toward 0 at speed 1: r - dV/dx = λ V, so that A(x, toward) = 0.
    density = torch.exp(-x.square())
    toward = density + math.log(GAMMA) * value - slope
    torch.testing.assert_close(toward, torch.zeros_like(toward), atol=1e-12, rtol=0)
    away = density + math.log(GAMMA) * value + slope
    torch.testing.assert_close(away, 2 * stay, atol=1e-12, rtol=0)


def test_pusher_values_are_the_published_table() -> None:
    value, stay = pusher_values(torch.tensor([0.0, 0.5, 1.0, 2.0]), GAMMA)
    expected = torch.tensor([4.481420, 4.443783, 4.242995, 3.510052], dtype=torch.float64)
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)
    expected = torch.tensor([0.0, -0.212801, -0.578918, -0.764930], dtype=torch.float64)
    torch.testing.assert_close(stay, expected, atol=1e-6, rtol=0)


def test_pusher_values_are_the_returns_of_the_simulation() -> None:
    dt = 4e-3
    core = PusherOptions(dt, time_limit=0).make()
    starts = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    state, total, discount = core.reset(3, state=starts), torch.zeros(3, dtype=torch.float64), 1.0
    for _ in range(round(4 / dt)):
        toward = (state.x / dt).clamp(-1, 1)
        state, density, *_ = core.step(state, toward)
        total += discount * density * dt
        discount *= core.clock.discount(GAMMA)
    total += discount / -math.log(GAMMA)  # it stays at 0, where the density is 1
    value, _ = pusher_values(starts[:, 0], GAMMA)
    torch.testing.assert_close(total, value, atol=5e-3, rtol=0)


LQ1 = {
    0.1: (-0.48106, (0.79975, 0, -0.89384, -1.88178), (-0.40108, -0.66924)),
    0.05: (-0.46506, (0.85081, 0, -0.89680, -1.83959), (-0.42252, -0.55704)),
    0.01: (-0.45280, (0.89004, 0, -0.89907, -1.80718), (-0.44390, -0.47088)),
    0.001: (-0.45011, (0.89867, 0, -0.89957, -1.80004), (-0.44921, -0.45191)),
    0: (-0.44981, (0.89963, 0, -0.89963, -1.79925), (-0.44981, -0.44981)),
}


@pytest.mark.parametrize("dt", LQ1)
def test_lq1_values_are_the_published_table(dt: float) -> None:
    s, a = torch.tensor(1.0).double(), torch.tensor([-2.0, -1, 0, 1]).double()
    value, advantage = lq_values(s, a, 1, GAMMA, dt)
    expected_value, expected_advantage, (low, high) = LQ1[dt]
    assert value.item() == pytest.approx(expected_value, abs=6e-6)
    assert advantage.tolist() == pytest.approx(list(expected_advantage), abs=6e-6)
    q = value + dt * advantage
    assert [q[0].item(), q[3].item()] == pytest.approx([low, high], abs=6e-6)


@pytest.mark.parametrize("dt", [0.1, 0.01])
def test_lq1_values_are_the_returns_of_the_simulation(dt: float) -> None:
    core = LQ1Options(dt, time_limit=0).make()
    first = torch.tensor([[-2.0], [-1], [0], [1]]).double()
    state, discount = core.reset(4, state=[1.0]), 1.0
    total = torch.zeros(4, dtype=torch.float64)
    for k in range(round(40 / dt)):
        state, density, *_ = core.step(state, first if k == 0 else -state.x)
        total += discount * density * dt
        discount *= core.clock.discount(GAMMA)
    value, advantage = lq_values(torch.tensor(1.0).double(), first[:, 0], 1, GAMMA, dt)
    torch.testing.assert_close(total, value + dt * advantage, atol=1e-10, rtol=0)


def test_lqr_optimum() -> None:
    for cost, expected in ((1.0, (0.894633, 0.894633)), (0.1, (0.305267, 3.052674))):
        p, gain = lqr_optimum(cost, GAMMA)
        assert (p, gain) == pytest.approx(expected, abs=1e-6)
        # Riccati: -1 - c k² + 2 P k = ln γ P of the policy's own value.
        assert -1 - cost * gain**2 + 2 * p * gain + math.log(GAMMA) * -p == pytest.approx(0)


def test_hill_slides_and_ends() -> None:
    core = envs.make_vector("semigradient/Hill-v0", 3, 0, dt=0.1).core  # type: ignore[attr-defined]
    state = core.reset(3, state=[[-0.3], [-0.2], [-0.95]])
    state, density, ended, _ = core.step(state, torch.ones(3, dtype=torch.int64))
    assert state.x[:, 0].tolist() == pytest.approx([-0.4, -0.1, -1.0])
    assert density.tolist() == [1, 1, 1]
    assert ended.tolist() == [False, False, True]


def test_sine_ignores_actions() -> None:
    core = envs.make_vector("semigradient/Sine-v0", 2, 0, dt=0.25).core  # type: ignore[attr-defined]
    state = core.reset(2)
    for _ in range(4):
        state, density, *_ = core.step(state, torch.tensor([0, 1]))
    np.testing.assert_allclose(core.observe(state), math.sin(1.0), rtol=1e-6)
    assert density.tolist() == [0, 0]


# Gymnasium's environments at another step


@pytest.mark.parametrize("dt", [0.05, 0.01])
def test_a_refined_pendulum_is_our_pendulum(dt: float) -> None:
    env: Any = gymnasium.make("semigradient/TimeStep-v0", base="Pendulum-v1", dt=dt, time_limit=1)
    env.reset(seed=0)
    core = PendulumOptions(dt).make()
    state = core.reset(1, state=env.unwrapped.state)
    for k in range(round(1 / dt)):
        action = np.array([math.sin(k * dt)])
        obs, reward, ended, cut, info = env.step(2 * action)
        state, ours, *_ = core.step(state, torch.as_tensor(action)[None])
        np.testing.assert_allclose(core.observe(state)[0], obs, atol=1e-5)
        assert ours.item() == pytest.approx(reward, abs=1e-6)
    assert (ended, cut) == (False, True)
    assert info["time"] == pytest.approx(1)


def test_refined_environments_have_a_clock() -> None:
    options = {"base": "CartPole-v1", "dt": 0.005, "time_limit": 2.0}
    vector = envs.make_vector("semigradient/TimeStep-v0", 2, 0, **options)
    assert clock_of(vector) == Clock(0.005, 0.02, 2.0)
    assert vector.protocol["dt"] == 0.005
    assert vector.envs[0].env.unwrapped.tau == 0.005  # type: ignore[attr-defined]


def test_impulses_become_densities() -> None:
    env = refine(base="CartPole-v1", dt=0.005, impulse=True)
    env.reset(seed=0)
    assert env.step(0)[1] == pytest.approx(0.02 / 0.005)


@pytest.mark.parametrize("base", ["HalfCheetah-v5", "Ant-v5"])
def test_mujoco_refines_its_integrator(base: str) -> None:
    pytest.importorskip("mujoco")
    env: Any = refine(base=base, dt=0.01, time_limit=0.1)
    assert env.unwrapped.dt == pytest.approx(0.01)
    assert env.unwrapped.model.opt.timestep == pytest.approx(0.002)
    env.reset(seed=0)
    for _ in range(10):
        *_, cut, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert cut
    assert info["time"] == pytest.approx(0.1)


def test_the_walker_is_refined_alone() -> None:
    pytest.importorskip("Box2D")
    coarse: Any = gymnasium.make("BipedalWalker-v3").unwrapped
    fine: Any = refine(base="BipedalWalker-v3", dt=0.01)
    assert time_step(fine) == pytest.approx(0.01)
    assert time_step(coarse) == pytest.approx(0.02)
    heights = []
    for env, steps in ((coarse, 10), (fine, 20)):
        env.reset(seed=0)
        for _ in range(steps):
            env.step(np.zeros(4, np.float32))
        heights.append(env.unwrapped.hull.position.y)
    assert heights[0] == pytest.approx(heights[1], abs=0.02)


def test_the_walkers_reward_is_a_density() -> None:
    pytest.importorskip("Box2D")

    def rewards(dt: float, **options: Any) -> list[float]:
        env: Any = refine(base="BipedalWalker-v3", dt=dt, **options)
        env.reset(seed=0)
        found = []
        while True:
            _, reward, ended, _, _ = env.step(np.zeros(4, np.float32))
            found.append(reward * env.clock.return_scale)
            if ended:
                return found

    coarse, fine = rewards(0.02), rewards(0.005)
    assert sum(coarse[:-1]) == pytest.approx(sum(fine[:-1]), abs=3)
    assert coarse[-1] == -100
    assert fine[-1] == pytest.approx(-25)
    assert rewards(0.005, fall_penalty="impulse_consistent")[-1] == pytest.approx(-100)


def test_faces_of_a_core_agree_on_time() -> None:
    env: Any = CoreEnv(
        "semigradient.envs.control.closed_forms:PusherOptions", dt=0.2, time_limit=1.0
    )
    env.reset(seed=0)
    times = [env.step(np.zeros(1, np.float32))[4]["time"] for _ in range(5)]
    assert times == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_gymnasium_makes_vectors_of_cores() -> None:
    made: Any = gymnasium.make_vec(
        "semigradient/Pendulum-v0", 256, vectorization_mode="vector_entry_point", dt=0.01
    )
    obs, _ = made.reset(seed=1)
    assert obs.shape == (256, 3)
    assert made.clock == Clock(0.01, 0.05, 10.0)


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("semigradient/TimeStep-v0", {}, "base"),
        ("semigradient/TimeStep-v0", {"base": "Nope-v3"}, "'Nope-v3'"),
        ("semigradient/TimeStep-v0", {"base": "CartPole-v1", "speed": 1}, "speed"),
        ("semigradient/TimeStep-v0", {"base": "CartPole-v1", "dt": -1}, r"dt=-1.*> 0"),
    ],
)
def test_mistakes_about_simulators_are_told(
    env_id: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        envs.make_vector(env_id, 1, 0, **options)
