"""Losses, targets and schedules of the agents against numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gymnasium import spaces

from semigradient.agents import a2c, dqn, ppo
from semigradient.agents.q_exploration import Falling
from semigradient.agents.q_losses import td_loss
from semigradient.agents.q_parts import phase
from semigradient.nets.q_network import QNetwork
from semigradient.training.agent import LearningRate
from semigradient.training.replay import Batch
from support.problems import A2C, DQN, PPO, build, parameters

CLIPPED_DQN = {**DQN, "train_every": 4}


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


def test_ppo_policy_loss_by_hand() -> None:
    ratio, advantage = tensor(1.5, 1.5, 0.5, 0.5, 1.1), tensor(2.0, -2.0, 2.0, -2.0, 3.0)
    # min(ratio A, clip(ratio) A): 2.4, -3, 1, -1.6, 3.3
    old = tensor(-1.0, -2.0, -0.5, -3.0, 0.0)
    for clip in (0.2, torch.tensor(0.2)):
        loss = ppo.policy_loss(old + ratio.log(), old, advantage, clip)
        assert loss.item() == pytest.approx(-(2.4 - 3 + 1 - 1.6 + 3.3) / 5)


def test_ppo_clips_gradients_only_where_the_ratio_gains() -> None:
    log_prob = tensor(1.5, 1.5, 0.5, 0.5).log().requires_grad_()
    ppo.policy_loss(
        log_prob, torch.zeros(4), tensor(1.0, -1.0, 1.0, -1.0), torch.tensor(0.2)
    ).backward()
    torch.testing.assert_close(log_prob.grad, tensor(0.0, 1.5, -0.5, 0.0) / 4)


def test_ppo_value_loss_by_hand() -> None:
    value, old, return_ = tensor(1.0, 3.0), tensor(0.0, 3.0), tensor(2.0, 1.0)
    assert ppo.value_loss(value, old, return_, 0.0).item() == pytest.approx((1 + 4) / 2)
    # Clipped to 0.5 from 0: error 1.5² instead of 1²; the second has not moved.
    assert ppo.value_loss(value, old, return_, 0.5).item() == pytest.approx((2.25 + 4) / 2)


def test_ppo_measures_how_far_the_policy_moved() -> None:
    log_ratio = tensor(0.9, 1.0, 1.3).log()
    expected = sum(r - 1 - math.log(r) for r in (0.9, 1.0, 1.3)) / 3
    assert ppo.approximate_kl(log_ratio).item() == pytest.approx(expected)
    assert ppo.clip_fraction(log_ratio, tensor(0.2)).item() == pytest.approx(1 / 3)
    assert ppo.clip_fraction(log_ratio, tensor(0.05)).item() == pytest.approx(2 / 3)


def test_ppo_logs_means_over_all_minibatches_and_stops_where_the_policy_moved_far() -> None:
    config = {"rollout_steps": 16, "batch_size": 16, "epochs": 3}
    for target_kl, updates in ((0.0, 12), (1e-9, 1)):
        agent = build("ppo", "CartPole-v1", {**config, "target_kl": target_kl})
        seen, losses = [], agent._loss

        def spy(batch: Any, clip: Any, seen: Any = seen, losses: Any = losses) -> Any:
            loss, scalars = losses(batch, clip)
            seen.append(scalars)
            return loss, scalars

        agent._loss = spy
        scalars = agent.iterate()
        assert scalars["updates"] == updates
        assert len(seen) == updates + (target_kl > 0)
        for index, name in enumerate(ppo._SCALARS):
            mean = sum(row[index].item() for row in seen) / len(seen)
            assert scalars[name].item() == pytest.approx(mean, rel=1e-5)


def test_ppo_normalises_advantages() -> None:
    normal = ppo.normalise(tensor(1.0, 2.0, 6.0))
    torch.testing.assert_close(normal, tensor(-2.0, -1.0, 3.0) / math.sqrt(7))


def test_a2c_loss_by_hand() -> None:
    config = a2c.Config(value_coefficient=0.5, entropy_coefficient=0.1)
    loss, policy, value = a2c.actor_critic_loss(
        tensor(-1.0, -2.0),
        tensor(0.5, 0.7),
        tensor(1.0, 2.0),
        tensor(3.0, -1.0),
        tensor(2.0, 4.0),
        config,
    )
    assert policy.item() == pytest.approx((3 - 2) / 2)
    assert value.item() == pytest.approx((1 + 4) / 2)
    assert loss.item() == pytest.approx(0.5 + 0.5 * 2.5 - 0.1 * 0.6)


def test_ppo_learns_with_the_masks_that_it_acted_with() -> None:
    config = {**PPO, "epochs": 1, "rollout_steps": 16, "batch_size": 64}
    agent = build("ppo", "test/Minefield-v0", config)
    # One step over all samples: the policy that is differentiated is the one that acted.
    scalars = agent.iterate()
    assert scalars["kl"].item() == pytest.approx(0, abs=1e-6)
    assert scalars["clip_fraction"].item() == 0
    assert scalars["entropy"].item() < math.log(3)  # of one to three legal actions out of four


def test_a2c_learns_with_the_masks_that_it_acted_with() -> None:
    agent = build("a2c", "test/Minefield-v0", A2C)
    assert agent.iterate()["entropy"].item() < math.log(3)


def test_ppo_s_loss_is_the_sum_of_its_terms() -> None:
    config = {**PPO, "value_coefficient": 0.3, "entropy_coefficient": 0.2}
    agent = build("ppo", "CartPole-v1", config)
    losses, seen = agent._loss, []
    agent._loss = lambda batch, clip: seen.append(losses(batch, clip)) or seen[-1]
    agent.iterate()
    for loss, scalars in seen:
        surrogate, squared, entropy = scalars[:3].tolist()
        assert entropy > 0.1
        assert loss.item() == pytest.approx(surrogate + 0.3 * squared - 0.2 * entropy, rel=1e-5)


def test_ppo_s_clip_and_learning_rate_fall_over_the_run() -> None:
    config = {**PPO, "clip": 0.4, "clip_schedule": "linear", "schedule": "linear"}
    agent = build("ppo", "CartPole-v1", config, total=512, rates={"lr": 0.08})
    clips, losses = [], agent._loss
    agent._loss = lambda batch, clip: clips.append(clip.item()) or losses(batch, clip)
    for left in (1.0, 0.75, 0.5):
        clips.clear()
        scalars = agent.iterate()
        assert clips == pytest.approx([0.4 * left] * len(clips))
        assert scalars["clip"] == pytest.approx(0.4 * left)
        assert scalars["lr"] == agent.optimizer.param_groups[0]["lr"] == pytest.approx(0.08 * left)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_learning_rates_fall_to_zero_in_every_group(schedule: str) -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (0.5, 0.1)]
    optimizer = torch.optim.SGD(groups)
    rate = LearningRate(optimizer, schedule)
    for step, left in ((0, 1.0), (30, 0.7), (100, 0.0), (120, 0.0), (50, 0.5)):
        factor = left if schedule == "linear" else 1.0
        assert rate.set(step, 100) == pytest.approx(0.5 * factor)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.5 * factor, 0.1 * factor])


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    # Plain gradient descent at rate 1 moves by the gradient itself.
    for name, config in (("a2c", A2C), ("ppo", {**PPO, "epochs": 1}), ("dqn", CLIPPED_DQN)):
        chosen = {**config, "max_grad_norm": 1e-3}
        agent = build(name, "CartPole-v1", chosen, optimizer="sgd", rates={"lr": 1.0})
        norms = []
        for _ in range(12 if name == "dqn" else 2):
            before = parameters(agent.network)
            agent.iterate()
            norms.append((parameters(agent.network) - before).norm().item())
        assert max(norms) == pytest.approx(1e-3, rel=1e-3), name


def test_gradient_steps_grow_with_the_number_of_environments() -> None:
    # A gradient step for every four environment steps, whatever the number of environments.
    for num_envs, steps in ((1, (1, 4)), (2, (1, 2)), (4, (1, 1)), (8, (2, 1)), (16, (4, 1))):
        assert phase(dqn.Config(train_every=4), num_envs) == steps
    agent = build("dqn", "test/Clock-v0", {**DQN, "train_every": 2}, num_envs=8)
    for _ in range(20):
        agent.iterate()
    assert agent.progress.steps == 160
    assert agent.updates == (160 - 40) // 2


def test_td_loss_by_hand() -> None:
    prediction, target = tensor(0.0, 0.0).requires_grad_(), tensor(0.5, -3.0)
    mse = td_loss(prediction, target, "mse")
    assert mse.item() == pytest.approx((0.125 + 4.5) / 2)
    huber = td_loss(prediction, target, "huber")
    assert huber.item() == pytest.approx((0.125 + 2.5) / 2)
    torch.testing.assert_close(torch.autograd.grad(mse, prediction)[0], tensor(-0.25, 1.5))
    torch.testing.assert_close(torch.autograd.grad(huber, prediction)[0], tensor(-0.25, 0.5))


def test_epsilon_schedule() -> None:
    epsilon = Falling(1.0, 0.2, span=50)
    rates = [epsilon(step) for step in (0, 25, 50, 75, 100)]
    assert rates == pytest.approx([1.0, 0.6, 0.2, 0.2, 0.2])
    assert Falling(1.0, 0.3, span=0)(0) == pytest.approx(0.3)
    config = {"epsilon_start": 0.9, "epsilon_end": 0.1, "epsilon_fraction": 0.5}
    agent = build("dqn", "CartPole-v1", {**DQN, **config}, total=400)
    rates = [agent.exploration.epsilon(step) for step in (0, 100, 200)]
    assert rates == pytest.approx([0.9, 0.5, 0.1])


def set_bias(network: QNetwork, *bias: float) -> None:
    """Make a network say the same everywhere."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.advantage[-1].bias.copy_(tensor(*bias))


@pytest.mark.parametrize(
    ("config", "expected"),
    [({}, 5.0), ({"double": True}, 3.0), ({"double": True, "target": "none"}, 9.0)],
)
def test_targets_by_hand(config: dict[str, Any], expected: float) -> None:
    agent = build("dqn", "test/Clock-v0", {**DQN, **config})
    set_bias(agent.target, 5.0, 3.0)
    set_bias(agent.network, 7.0, 9.0)
    obs = torch.zeros(3, 6)
    legal = torch.tensor([[True, True], [True, True], [True, False]])
    batch = Batch(
        obs,
        torch.zeros(3, dtype=torch.int64),
        tensor(1.0, 2.0, 3.0),
        tensor(0.9, 0.0, 0.5),
        obs,
        None,
    )
    targets = agent._td_target(batch)
    torch.testing.assert_close(targets, tensor(1 + 0.9 * expected, 2.0, 3 + 0.5 * expected))
    masked = agent._td_target(batch._replace(next_mask=legal))
    only = 7.0 if config.get("target") == "none" else 5.0
    assert masked[2].item() == pytest.approx(3 + 0.5 * only)


def test_dueling_values_are_the_mean_over_actions() -> None:
    torch.manual_seed(0)
    network = QNetwork(spaces.Box(-1, 1, (3,)), 4, (8, 8), "relu", dueling=True)
    obs = torch.randn(5, 3)
    q = network(obs)
    features = network.shared(obs)
    value, advantage = network.value(features), network.advantage(features)
    torch.testing.assert_close(q.mean(1, keepdim=True), value)
    torch.testing.assert_close(
        q - q.mean(1, keepdim=True), advantage - advantage.mean(1, keepdim=True)
    )
    assert q.std() > 0


def test_an_averaged_target_follows_slowly() -> None:
    agent = build("dqn", "test/Clock-v0", {**DQN, "target": "ema", "target_rate": 0.25})
    while agent.updates < 3:
        before, count = parameters(agent.target), agent.updates
        agent.iterate()
        if agent.updates > count:
            expected = 0.75 * before + 0.25 * parameters(agent.network)
            torch.testing.assert_close(parameters(agent.target), expected)


def test_a_hard_target_is_copied_at_multiples_of_its_period() -> None:
    agent = build("dqn", "test/Clock-v0", {**DQN, "target_update_every": 40, "learning_starts": 0})
    copied = []
    for _ in range(30):
        before, online = parameters(agent.target), parameters(agent.network)
        agent.iterate()
        if not torch.equal(before, parameters(agent.target)):
            copied.append(agent.progress.steps)
            # The copy comes first, then the updates of that phase.
            assert torch.equal(parameters(agent.target), online)
    assert copied == [40, 80, 120]
