"""Exploration and optimizers in physical time: theorems of the source as numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from semigradient import optim
from semigradient.domains.continuous_time.physical_learning import ActionMap
from semigradient.envs.control.closed_forms import lq_values
from semigradient.errors import UserError
from semigradient.optim.physical_time import per_second
from semigradient.training import parts
from semigradient.training.exploration import Noise, NoiseConfig

GAMMA = 0.8


def noise(dt: float, count: int = 4000, **options: float | str) -> Noise:
    config = NoiseConfig(**options)  # type: ignore[arg-type]
    return Noise(config, (count, 1), dt, torch.Generator().manual_seed(0))


# Exploration


@pytest.mark.parametrize(
    ("dt", "variance"), [(0.05, 0.184615), (0.02, 0.162162), (0.01, 0.155844), (0.005, 0.152866)]
)
def test_variance_and_correlation_of_the_process(dt: float, variance: float) -> None:
    process = noise(dt)
    for _ in range(round(1 / dt)):  # from the law of the limit into that of the step
        process()
    assert 1.5**2 / (2 * 7.5 - 7.5**2 * dt) == pytest.approx(variance, abs=1e-6)
    values = torch.stack([process() for _ in range(400)])[..., 0]
    measured = values.square().mean().item()
    assert measured == pytest.approx(variance, rel=0.03)
    lagged = (values[1:] * values[:-1]).mean().item() / measured
    assert lagged == pytest.approx(1 - 7.5 * dt, abs=0.01)


def test_displacement_does_not_depend_on_the_step() -> None:
    # dx/dt = z for a second: Var = (σ/κ)² (t - (1 - exp(-κ t)) / κ).
    for dt in (0.02, 0.005):
        process = noise(dt, 20_000)
        moved = sum(process()[:, 0] * dt for _ in range(round(1 / dt)))
        assert isinstance(moved, torch.Tensor)
        assert moved.var().item() == pytest.approx(0.0346696, rel=0.06)


def test_white_noise_stops_exploring() -> None:
    spread = []
    for dt in (0.02, 0.005):
        process = noise(dt, 20_000, kind="white")
        moved = sum(process()[:, 0] * dt for _ in range(round(1 / dt)))
        assert isinstance(moved, torch.Tensor)
        assert process.std == pytest.approx(0.387298, abs=1e-6)
        spread.append(moved.var().item())
    assert spread[0] == pytest.approx(0.15 * 0.02, rel=0.06)
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.08)


@pytest.mark.parametrize("dt", [0.1, 0.01])
def test_random_actions_become_deterministic(dt: float) -> None:
    # Theorem 4, ε = 1 on ds/dt = a in {-1, 1}: Var(s after a second) = dt.
    process = noise(dt, 20_000, kind="epsilon", epsilon=1.0)
    process.shape = (20_000, 2)
    values, s = torch.zeros(20_000, 2), torch.zeros(20_000)
    for _ in range(round(1 / dt)):
        s += (2 * process.discrete(values) - 1) * dt
    assert s.var().item() == pytest.approx(dt, rel=0.05)


def test_epsilon_greedy_follows_the_mean_field() -> None:
    # ds/dt = (1 - ε) F(π) + ε E F: greedy action 1, uniform mean 0.
    process = noise(1e-3, 2000, kind="epsilon", epsilon=0.3)
    process.shape = (2000, 2)
    values, s = torch.tensor([[0.0, 1.0]]).expand(2000, 2), torch.zeros(2000)
    for _ in range(1000):
        s += (2 * process.discrete(values) - 1) * 1e-3
    assert s.mean().item() == pytest.approx(0.7, abs=0.005)
    assert s.std().item() < 0.03


def test_actions_are_clipped_and_perturbed() -> None:
    process = noise(0.01, 1000, sigma=3.0)
    now = process.value.clone()
    actions = process.continuous(torch.full((1000, 1), 0.5))
    torch.testing.assert_close(actions, (0.5 + now).clamp(-1, 1))
    assert actions.max() == 1
    assert actions.min() == -1


def test_discrete_actions_are_perturbed_advantages() -> None:
    process = Noise(NoiseConfig(), (500, 3), 0.01, torch.Generator().manual_seed(1))
    now, values = process.value.clone(), torch.tensor([[0.0, -0.2, 0.1]]).expand(500, 3)
    assert torch.equal(process.discrete(values), (values + now).argmax(1))


def test_noise_resumes() -> None:
    first = noise(0.01, 5)
    first()
    state = {k: v.clone() for k, v in parts.state(first).items()}
    expected = [first() for _ in range(3)]
    second = noise(0.01, 5)
    parts.load(second, state)
    for value in expected:
        assert torch.equal(second(), value)


@pytest.mark.parametrize(("dt", "kappa"), [(0.2, 7.5), (0.1, 10.0)])
def test_a_process_that_overshoots_is_refused(dt: float, kappa: float) -> None:
    with pytest.raises(UserError, match=r"kappa=.*must be < 1"):
        noise(dt, kappa=kappa)
    noise(dt, kappa=kappa, kind="white")


@pytest.mark.parametrize("options", [{"kappa": 0.0}, {"sigma": -1.0}, {"epsilon": 1.5}])
def test_noise_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        NoiseConfig(**options)  # type: ignore[arg-type]


# Optimizers


def test_rmsprop_per_second_is_the_published_one() -> None:
    parameter, reference = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    config = optim.config_class("rmsprop")(lr=0.1, alpha=0.0, eps=1e-8)  # type: ignore[call-arg]
    ours = per_second(optim.make(config, [parameter]), 0.01)
    theirs = torch.optim.RMSprop([reference], lr=0.001, alpha=0.99, eps=1e-8)
    for step in range(20):
        for p, optimizer in ((parameter, ours), (reference, theirs)):
            p.grad = torch.tensor([1.0, -2.0, math.sin(step)])
            optimizer.step()
    torch.testing.assert_close(parameter, reference)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"])
def test_every_average_forgets_in_physical_time(name: str) -> None:
    parameter = torch.zeros(1, requires_grad=True)
    made = optim.make(optim.config_class(name)(), [parameter])
    before = dict(made.param_groups[0])
    after = per_second(made, 0.1).param_groups[0]
    assert after["lr"] == pytest.approx(0.1 * before["lr"])
    if name in ("adam", "adamw"):
        assert after["betas"] == pytest.approx((0.99, 0.9999))
    if name == "rmsprop":
        assert after["alpha"] == pytest.approx(0.999)
        assert after["momentum"] == 0
    parameter.grad = torch.ones(1)
    made.step()


@pytest.mark.parametrize("dt", [0, -0.1, 2.0])
def test_steps_of_optimizers_are_checked(dt: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(UserError, match="dt="):
        per_second(optimizer, dt)


SINE = {
    0.0: (2.1159, 1.0100e4, 6.2160e40),
    0.5: (1.28994, 2.78546, 28.0285),
    1.0: (1.086032, 1.109218, 1.111641),
    1.5: (1.02666, 1.01043, 1.00335),
    2.0: (1.00838, 1.00104, 1.000106),
}


@pytest.mark.parametrize("beta", SINE)
def test_learning_rates_must_be_proportional_to_the_step(beta: float) -> None:
    # Theorem 5: V = θ s on s = sin t without reward; δ/dt ∂V through the optimizer itself.
    for dt, published in zip((0.1, 0.01, 0.001), SINE[beta], strict=True):
        theta = torch.ones((), dtype=torch.float64, requires_grad=True)
        optimizer = per_second(torch.optim.SGD([theta], lr=1.0), dt, beta)
        for k in range(round(0.5 / dt)):
            now, then = math.sin(k * dt), math.sin((k + 1) * dt)
            error = (theta.item() * now - GAMMA**dt * theta.item() * then) / dt
            theta.grad = torch.tensor(error * now, dtype=torch.float64)
            optimizer.step()
        assert theta.item() == pytest.approx(published, rel=2e-4)
    if beta == 1:
        grid = np.linspace(0, 0.5, 100_001)
        rate = (np.cos(grid) + math.log(GAMMA) * np.sin(grid)) * np.sin(grid)
        assert math.exp(np.trapezoid(rate, grid)) == pytest.approx(1.111912, abs=1e-6)


# Values


def test_action_values_collapse_and_advantages_do_not() -> None:
    # Theorem 2: max |Q - V| = O(dt); theorem 3: A = r + ln γ V + V' F has a limit.
    s, actions = torch.tensor(1.0).double(), torch.tensor([-2.0, 0, 1]).double()
    gaps = []
    for dt in (0.1, 0.01, 0.001, 0.0001):
        _, advantage = lq_values(s, actions, 1, GAMMA, dt)
        gaps.append(dt * float(advantage.abs().max()))
    ratios = np.array(gaps[:-1]) / gaps[1:]
    assert ratios == pytest.approx([10, 10, 10], rel=0.06)
    rate = -math.log(GAMMA) + 2
    value, slope = -1 / rate, -2 / rate
    limit = -1 + math.log(GAMMA) * value + slope * actions
    _, found = lq_values(s, actions, 1, GAMMA, 1e-6)
    torch.testing.assert_close(found, limit, atol=1e-5, rtol=0)


def test_a_policy_with_positive_advantage_is_better() -> None:
    # Theorem 8 on LQ1: gain k' > k has A^k(s, -k' s) > 0, and a larger value.
    s = torch.linspace(-2, 2, 9).double()
    for better in (1.5, 3.0):
        value, advantage = lq_values(s, -better * s, 1, GAMMA, 0)
        expected = 2 * s.square() * (better - 1) / (-math.log(GAMMA) + 2)
        torch.testing.assert_close(advantage, expected)
        assert bool((lq_values(s, s, better, GAMMA, 0)[0] >= value).all())


def test_actions_are_mapped_onto_the_whole_box() -> None:
    space = spaces.Box(np.float32([0, 10]), np.float32([4, 30]))
    rows = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [0.5, -0.5], [1.0, 1.0]])
    mapped = ActionMap(space).to_env(rows)
    np.testing.assert_allclose(mapped, [[0, 10], [2, 20], [3, 15], [4, 30]])
