"""Deep advantage updating and its baselines: gradients, fixed points, settings, bad input."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from semigradient.agents.continuous_time import dau, ddpg
from semigradient.diagnostics.action_values import fresh_memory
from semigradient.envs import make_vector
from semigradient.errors import UserError
from semigradient.reproductions.continuous_time import lq_fixed_point
from semigradient.training import parts
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.replay import Batch
from support.problems import parameters

SMALL = "--hidden 16 16 --batch-size 32 --gradient-steps 5 --buffer-size 4000 --threads 1"
CONTINUOUS = ["dt=0.05", "time_limit=1"]
DISCRETE = [*CONTINUOUS, "actions=discrete"]


def agent(name: str, env: str = "Pendulum", flags: str = "", options: Any = CONTINUOUS) -> Any:
    words = f"--agent {name} --env semigradient/{env}-v0 --num-envs 8 {SMALL} {flags}".split()
    return build(parse([*words, "--env-options", *options]).command)


def batch(made: Any, count: int = 32) -> Batch:
    """Random transitions of made's spaces."""
    draw = torch.Generator().manual_seed(5)
    obs, next_obs = torch.randn((2, count, 3), generator=draw)
    outputs = made.explorer.actions.outputs
    action = 2 * torch.rand((count, outputs), generator=draw) - 1
    if made.explorer.actions.discrete:
        action = torch.randint(outputs, (count,), generator=draw)
    reward = torch.randn(count, generator=draw) * 0.05
    discount = torch.full((count,), 0.8**0.05)
    discount[::7] = 0
    return Batch(obs, action, reward, discount, next_obs, None)


# Updates


@pytest.mark.parametrize("options", [CONTINUOUS, DISCRETE])
@pytest.mark.parametrize("scale", ["dt", "one"])
def test_gradients_are_those_of_the_algorithm(options: list[str], scale: str) -> None:
    # Algorithms 4 and 5 in loops over samples and plain autograd, in double precision.
    made = agent("dau", flags=f"--advantage-scale {scale}", options=options)
    made.networks.double()
    rows = Batch(
        *(
            tensor.double() if tensor is not None and tensor.is_floating_point() else tensor
            for tensor in batch(made)
        )
    )
    made._losses(rows)[0].backward()
    computed = {name: p.grad for name, p in made.networks.named_parameters()}
    value, advantage = made.networks["value"], made.networks["advantage"]
    total = {name: torch.zeros_like(p) for name, p in made.networks.named_parameters()}
    factor = 0.05 if scale == "dt" else 1.0
    count = len(rows.obs)
    for i in range(count):
        s, a, then = rows.obs[i : i + 1], rows.action[i : i + 1], rows.next_obs[i : i + 1]
        v = value(s).squeeze()
        if made.discrete:
            q = advantage(s)[0]
            adv = q[a[0]] - q[q.argmax()]
        else:
            pi = made.networks["actor"](s)
            adv = (advantage(s, a) - advantage(s, pi.detach())).squeeze()
        target = rows.reward[i] + rows.discount[i] * value(then).squeeze().item()
        delta = (factor * adv.item() - (target.item() - v.item())) / factor
        parts = [("value", v, delta), ("advantage", adv, delta)]
        if not made.discrete:
            parts.append(("actor", advantage(s, pi).squeeze(), -1.0))
        for name, output, weight in parts:
            module = made.networks[name]
            names = [f"{name}.{key}" for key, _ in module.named_parameters()]
            gradients = torch.autograd.grad(
                output, list(module.parameters()), retain_graph=True, allow_unused=True
            )
            for key, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    total[key] += weight * gradient / count
    for name, gradient in computed.items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, total[name], rtol=1e-9, atol=1e-12)


def test_the_advantage_of_the_policy_is_zero_and_shifts_do_not_matter() -> None:
    made = agent("dau")
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    own = made.actor(torch.from_numpy(obs)).detach().numpy()
    np.testing.assert_allclose(made.advantages(obs, own), 0, atol=1e-6)
    other = np.full((50, 1), 0.3, np.float32)
    before = made.advantages(obs, other)
    made.networks["advantage"].layers[-1].bias.data += 5  # Ā + f(s) is the same A
    np.testing.assert_allclose(made.advantages(obs, other), before, atol=1e-5)


def test_the_critic_leaves_the_policy_alone() -> None:
    made = agent("dau")
    rows = batch(made)
    action = made.actor(rows.obs)
    held = action.detach()
    advantage = (made.advantage(rows.obs, rows.action) - made.advantage(rows.obs, held)).squeeze(1)
    value = made.value(rows.obs).squeeze(1)
    error = made._residual(rows, value, advantage)
    dau.critic_loss(error, value, advantage).backward()
    assert all(p.grad is None for p in made.actor.parameters())
    expected = {
        n: p.grad.clone() for n, p in made.networks.named_parameters() if p.grad is not None
    }
    made.networks.zero_grad()
    made._losses(rows)[0].backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(made.networks.named_parameters())[name].grad, gradient)


def test_a_small_step_of_the_policy_raises_the_advantage() -> None:
    made = agent("dau", flags="--lr-policy 0.05")
    rows = batch(made)
    made._losses(rows)[0].backward()
    before = made.advantage(rows.obs, made.actor(rows.obs)).mean()
    made.optimizers["actor"].step()
    assert made.advantage(rows.obs, made.actor(rows.obs)).mean() > before


def test_greedy_actions_teach_the_value_alone() -> None:
    made = agent("dau", options=DISCRETE)
    rows = batch(made)
    rows = rows._replace(action=made.advantage(rows.obs).argmax(1))
    made._losses(rows)[0].backward()
    assert all(p.grad.abs().max() == 0 for p in made.advantage.parameters())
    assert any(p.grad.abs().max() > 0 for p in made.value.parameters())


@pytest.mark.parametrize(
    ("dt", "published"),
    [
        (0.1, (0.481059584, 0.940887861, 0.047044393)),
        (0.01, (0.452804388, 0.903590221, 0.004517951)),
    ],
)
def test_the_fixed_point_on_lq1(dt: float, published: tuple[float, ...]) -> None:
    assert lq_fixed_point.exact(dt).tolist() == pytest.approx(published, abs=1e-9)
    values = lq_fixed_point.iterate(dt, steps=500)
    torch.testing.assert_close(values, lq_fixed_point.exact(dt), atol=1e-8, rtol=0)


def test_ddpg_targets_and_gradients() -> None:
    made = agent("ddpg", flags="--target-rate 0.1 --time scaled")
    for p in made.targets.parameters():
        p.data += 0.1
    rows = batch(made)
    then = made.targets["actor"](rows.next_obs)
    bootstrap = made.targets["critic"](rows.next_obs, then).squeeze(1)
    torch.testing.assert_close(made._target(rows), rows.reward + rows.discount * bootstrap)
    old = copy.deepcopy(made.targets)
    made._learn(rows)
    for before, after, online in zip(
        old.parameters(), made.targets.parameters(), made.networks.parameters(), strict=True
    ):
        torch.testing.assert_close(after, 0.9 * before + 0.1 * online)
    loss = ddpg.critic_loss(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 2.0]))
    assert loss.item() == pytest.approx(1.25)


def test_without_target_networks_there_are_none() -> None:
    made = agent("ddpg", flags="--target-rate 1")
    assert made.targets is made.networks


# Settings


@pytest.mark.parametrize(("time", "step"), [("scaled", 0.05), ("unscaled", 0.02)])
def test_rewards_rates_and_averages_follow_the_setting(time: str, step: float) -> None:
    made = agent("ddpg", flags=f"--time {time} --reference-step 0.02 --lr-policy 0.03")
    assert made.explorer.scale == pytest.approx((0.8**0.05, step))
    critic, actor = (made.optimizers[name].param_groups[0] for name in ("critic", "actor"))
    assert critic["lr"] == pytest.approx(0.1 * step)
    assert actor["lr"] == pytest.approx(0.03 * step)
    assert critic["alpha"] == actor["alpha"] == pytest.approx(1 - step)
    made.iterate()
    raw = made.explorer.memory.ring.fields["reward"][:10].flatten()
    drawn = next(iter(made.explorer.minibatches())).reward
    nearest = (drawn[:, None] / step - raw).abs().min(1).values
    assert nearest.max().item() == pytest.approx(0, abs=1e-4)


def test_the_policy_has_a_learning_rate_of_its_own() -> None:
    made = agent("dau", flags="--lr-policy 0.03 --optim.lr 0.2")
    critic, actor = (made.optimizers[name].param_groups[0] for name in ("critic", "actor"))
    assert (critic["lr"], actor["lr"]) == pytest.approx((0.2 * 0.05, 0.03 * 0.05))
    learned = {id(p) for p in actor["params"]}
    assert learned == {id(p) for p in made.actor.parameters()}
    assert not learned & {id(p) for p in critic["params"]}


def test_dqn_counts_in_seconds() -> None:
    flags = "--time scaled --gamma 0.8 --optim rmsprop --exploration ou --train-every 8"
    flags = f"{flags} --target none --learning-starts 0"
    made = agent("dqn", flags=flags, options=DISCRETE)
    assert made.discount == pytest.approx(0.8**0.05)
    assert made.learned_reward(np.ones(2)).tolist() == pytest.approx([0.05, 0.05])
    made.iterate()
    stored = made.memory.at(torch.arange(8), made.discount)
    assert stored.discount.unique().tolist() == pytest.approx([0.8**0.05])
    # Observers see the same temporal differences.
    envs = make_vector("semigradient/Pendulum-v0", 8, 1, dt=0.05, actions="discrete")
    memory = fresh_memory(made.policy(False), envs, 4, made)
    assert memory.ring.fields["reward"].min() > -1


def test_dqn_explores_with_coherent_noise() -> None:
    flags = "--time scaled --exploration ou --sigma 100 --target none --learning-starts 100000"
    made = agent("dqn", "Pusher", f"{flags} --train-every 8", DISCRETE)
    before = made.exploration.noise.value.clone()
    made.iterate()
    actions = made.memory.ring.fields["action"][0]
    assert torch.equal(actions, before.argmax(1))


@pytest.mark.parametrize("flag", [True, False])
def test_time_limits_are_no_ends_unless_asked(flag: bool) -> None:
    word = "--truncation-as-terminal" if flag else ""
    made = agent("dau", flags=word, options=["dt=0.05", "time_limit=0.25"])
    made.iterate()
    terminated = made.explorer.memory.ring.fields["terminated"][:10].any(1)
    assert terminated.tolist() == [flag and k % 5 == 4 for k in range(10)]


def test_a_physical_memory_holds_the_same_seconds() -> None:
    fixed, physical = (
        agent("dau", flags=f"--buffer-scaling {kind}").explorer.memory.ring.length
        for kind in ("fixed", "physical")
    )
    assert (fixed, physical) == (500, 100)


def test_noise_of_unscaled_learners_may_keep_the_reference_step() -> None:
    made = agent("ddpg", flags="--noise-dt reference --reference-step 0.02")
    assert made.explorer.noise.dt == 0.02
    assert agent("ddpg").explorer.noise.dt == 0.05


def test_the_misprint_bootstraps_from_the_state() -> None:
    rows = batch(right := agent("dau"))
    wrong = agent("dau", flags="--bootstrap-at state")
    parts.load_policy_state(wrong, parts.policy_state(right))
    value, advantage = torch.zeros(32), torch.zeros(32)
    at_next = rows.discount * right.value(rows.next_obs).squeeze(1)
    error = right._residual(rows, value, advantage)
    torch.testing.assert_close(error, (-rows.reward - at_next).detach() / 0.05)
    value = wrong.value(rows.obs).squeeze(1).detach()
    error = wrong._residual(rows, value, advantage)
    expected = (value - rows.reward - rows.discount * value) / 0.05
    torch.testing.assert_close(error, expected)


def test_statistics_normalise_states_and_travel_with_the_policy() -> None:
    made = agent("dau", "Pusher", "--normalise-observations")
    for _ in range(4):
        made.iterate()
    seen = made.explorer.memory.ring.fields["obs"][:40]
    moments = made.explorer.normaliser.moments
    assert moments.mean == pytest.approx(seen.mean().item(), abs=1e-4)
    assert moments.var == pytest.approx(seen.var(correction=0).item(), rel=1e-3)
    drawn = next(iter(made.explorer.minibatches()))
    assert abs(drawn.obs.mean().item()) < 0.8
    other = agent("dau", "Pusher", "--normalise-observations --seed 3")
    parts.load_policy_state(other, parts.policy_state(made))
    obs = np.linspace(-2, 2, 9, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(made.policy(True)(obs, None), other.policy(True)(obs, None))
    np.testing.assert_array_equal(made.values(obs), other.values(obs))


def test_actions_fill_the_box_of_the_environment() -> None:
    made = agent("dau", "LQR1", "--sigma 20")
    made.iterate()
    stored = made.explorer.memory.ring.fields["action"][:10]
    assert (stored.min().item(), stored.max().item()) == (-1, 1)
    chosen = made.policy(False)(np.zeros((64, 1), np.float32), None)
    assert chosen.min() == -4
    assert chosen.max() == 4


# Learning, and bad input


@pytest.mark.parametrize("actions", ["continuous", "discrete"])
def test_the_pusher_is_learned_at_a_tenth_of_a_second(actions: str) -> None:
    words = "--sigma 3 --optim.lr 0.1 --lr-policy 0.1 --gradient-steps 20 --batch-size 64"
    options = ["dt=0.1", "time_limit=2", f"actions={actions}"]
    made = agent("dau", "Pusher", f"{words} --num-envs 32", options)
    while made.progress.steps < 200 * 32:
        made.iterate()
    x = np.array([-1.5, -1, -0.5, 0.5, 1, 1.5], np.float32)
    chosen = made.policy(True)(x[:, None], None)
    chosen = chosen - 1 if actions == "discrete" else chosen[:, 0]
    assert (chosen * np.sign(x)).min() > 0.7
    assert made.values(np.ones((1, 1), np.float32)) == pytest.approx(4.24, abs=0.6)


@pytest.mark.parametrize(
    ("name", "env", "flags", "options", "message"),
    [
        ("dau", "Pendulum", "", ["dt=0"], r"dt=0.*> 0"),
        ("dau", "Pendulum", "", ["dt=0.2"], r"kappa=7.5: kappa × dt = 1.5 must be < 1"),
        ("ddpg", "Pendulum", "--kappa 50", CONTINUOUS, r"kappa=50.0.*must be < 1"),
        ("ddpg", "Pusher", "", DISCRETE, r"ddpg accepts Box"),
        ("ddpg", "Pendulum", "--target-rate 0", CONTINUOUS, r"target_rate=0.0: must be in \(0, 1"),
        ("dau", "Pendulum", "--gamma 0", CONTINUOUS, r"gamma=0.0"),
        ("dau", "Pendulum", "--batch-size 5000", CONTINUOUS, r"buffer_size=4000"),
        (
            "dqn",
            "Pusher",
            "--time scaled --train-every 8 --reference-step 0",
            DISCRETE,
            "reference",
        ),
    ],
)
def test_mistakes_are_told_before_training(
    name: str, env: str, flags: str, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        agent(name, env, flags, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flags", ["--agent dau", "--agent ddpg", "--agent dqn --time scaled"])
def test_an_environment_without_a_time_step_is_refused(flags: str) -> None:
    words = f"{flags} --env MountainCarContinuous-v0".split()
    if "dqn" in flags:
        words[-1] = "MountainCar-v0"
    with pytest.raises(UserError, match="has no time step that can be set"):
        build(parse(words).command)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "momentum", "adamw"])
def test_any_optimizer_may_be_chosen(optimizer: str) -> None:
    made = agent("dau", flags=f"--optim {optimizer}")
    before = {key: parameters(net) for key, net in made.networks.items()}
    made.iterate()
    made.iterate()
    assert made.updates == 5
    for key, network in made.networks.items():
        assert not torch.equal(before[key], parameters(network))
