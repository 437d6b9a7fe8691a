"""Recorded episodes, learners on them, and the gains of their updates, against closed forms."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from semigradient.diagnostics.coherence import sign_variance
from semigradient.diagnostics.derivatives import errors
from semigradient.errors import UserError
from semigradient.nets.padded import padded_cnn, small_cnn
from semigradient.optim.configs import AdamConfig, CorrectedAdamConfig, SGDConfig
from semigradient.reproductions.td import mountain_car, recorded, replayed
from semigradient.reproductions.td.recorded import Recorded
from semigradient.reproductions.td.replayed import (
    OneStep,
    ReplayedLearner,
    TargetTable,
    nearby_gain,
    q_learning,
)
from semigradient.reproductions.td.td_lambda import targets
from semigradient.training.replay import Replay
from support.recordings import run_folder

GAMMA = 0.9


def chain(lengths, rewards=None, actions=1, gamma=GAMMA):
    """Episodes of these lengths through states that are all distinct, one-hot: (T, T)."""
    total = sum(lengths)
    observation = spaces.Box(0, 1, (total,), np.float32)
    memory = Replay(total, 1, observation, spaces.Discrete(actions), torch.device("cpu"))
    ends = set(np.cumsum(lengths) - 1)
    rewards = np.ones(total) if rewards is None else np.asarray(rewards)
    states = np.eye(total, dtype=np.float32)
    taken = np.arange(total) % actions
    for t in range(total):
        following = np.zeros(total, np.float32) if t in ends else states[t + 1]
        memory.add(
            states[t][None],
            taken[t : t + 1],
            rewards[t : t + 1],
            np.array([t in ends]),
            np.zeros(1, bool),
            following[None],
        )
    return Recorded(
        memory,
        torch.from_numpy(taken),
        torch.from_numpy(rewards).float(),
        torch.tensor([t in ends for t in range(total)]),
        gamma,
        observation,
        actions,
    )


def tabular(record, outputs=1):
    torch.manual_seed(0)
    return nn.Linear(record.size, outputs, bias=False)


def test_returns_and_what_follows_stop_at_the_ends_of_episodes():
    record = chain([3, 2], [1.0, 2, 3, 4, 5], actions=2)
    g = GAMMA
    expected = [1 + g * (2 + g * 3), 2 + g * 3, 3, 4 + g * 5, 5]
    assert record.returns().tolist() == pytest.approx(expected)
    assert record.action.tolist() == [0, 1, 0, 1, 0]
    assert record.next_action.tolist() == [1, 0, 0, 0, 0]
    assert record.discount.tolist() == pytest.approx([g, g, 0, g, 0])


def test_lambda_returns_reach_from_one_step_to_the_whole_return():
    record = chain([6, 4], np.random.default_rng(0).normal(size=10))
    network = tabular(record)
    following = record.evaluate(network, successors=True)[:, 0]
    one_step = record.reward + record.discount * following
    torch.testing.assert_close(targets(record, 0.0)(network), one_step)
    torch.testing.assert_close(targets(record, 1.0)(network), record.returns())
    # The forward sum, with the whole return for what is left of the weights.
    lam, values = 0.7, network.weight[0].detach()
    found = targets(record, lam)(network)
    for start in range(6):
        total = 0.0
        for n in range(1, 6 - start + 1):
            last = start + n == 6
            rewards = sum(GAMMA**j * record.reward[start + j] for j in range(n))
            step = rewards if last else rewards + GAMMA**n * values[start + n]
            total += (lam ** (n - 1) if last else (1 - lam) * lam ** (n - 1)) * step
        assert found[start].item() == pytest.approx(float(total), rel=1e-5)


def test_weights_of_lambda_returns_add_up_to_one():
    # With rewards (1 - gamma) c and values c all n-step returns are c, but for the end's.
    record = chain([400], np.full(400, (1 - GAMMA) * 3.0))
    constant = torch.full((400,), 3.0)
    for lam in (0.0, 0.5, 0.9, 1.0):
        assert record.lambda_returns(constant, lam)[:100] == pytest.approx(3.0, rel=1e-4)


def test_mountain_car_is_recorded_as_gymnasium_plays_it():
    record = recorded.mountain_car_record(300, seed=0)
    assert record.size >= 300
    assert record.terminated[-1]
    everything = record.at(torch.arange(record.size))
    assert torch.equal(record.reward, torch.full_like(record.reward, -0.1))
    going_on = ~record.terminated[:-1]
    assert torch.equal(everything.next_obs[:-1][going_on], everything.obs[1:][going_on])
    push = (record.action - 1).double()
    following, arrived = mountain_car.step(everything.obs.double(), push)
    torch.testing.assert_close(following.float(), everything.next_obs, atol=1e-6, rtol=0)
    assert torch.equal(arrived, record.terminated)
    greedy = torch.where(everything.obs[:, 1] < 0, 0, 2)
    assert 0.9 < (greedy == record.action).float().mean() < 1
    assert not torch.equal(
        record.action, recorded.mountain_car_record(300, 1).action[: record.size]
    )


def test_exact_action_values_are_those_of_played_episodes():
    record = recorded.mountain_car_record(100, seed=0)
    here, there = recorded.mountain_car_values(record)
    env = gymnasium.make("MountainCar-v0", max_episode_steps=1000).unwrapped
    env.reset(seed=0)
    for index in (0, 40, record.size - 2):
        for action in range(3):
            env.state = record.at(torch.tensor([index])).obs[0].double().numpy()
            total, factor, taken, done = 0.0, 1.0, action, False
            while not done:
                obs, reward, done, *_ = env.step(taken)
                total, factor = total + factor * 0.1 * reward, factor * mountain_car.GAMMA
                taken = 0 if obs[1] < 0 else 2
            assert here[index, action].item() == pytest.approx(total, abs=1e-4)
    going_on = ~record.terminated[:-1]
    torch.testing.assert_close(there[:-1][going_on], here[1:][going_on], atol=1e-4, rtol=0)


def test_a_regression_of_distinct_states_gains_at_the_updated_one_only():
    record, lr = chain([20, 20]), 0.3
    truth = record.returns()
    network = tabular(record)
    before = truth - network.weight[0].detach()
    made = ReplayedLearner(network, record, TargetTable(lambda _: truth), SGDConfig(lr=lr), 0)
    total, count = nearby_gain(made, torch.tensor([7]))
    # Half a square, so a step of lr takes the share lr of the error.
    gain = 0.5 * before[7] ** 2 * (1 - (1 - lr) ** 2)
    assert total[30].item() == pytest.approx(gain.item(), rel=1e-5)
    others = torch.arange(61) != 30
    assert (total[others] == 0).all()
    # Offsets do not reach into the next episode, nor before the first.
    assert count.nonzero()[:, 0].tolist() == list(range(23, 43))


def test_gains_of_steps_that_are_not_there_or_of_another_episode_do_not_count():
    record = chain([20, 20])
    network = nn.Linear(record.size, 1)  # the bias is shared: everything moves
    made = ReplayedLearner(
        network, record, TargetTable(lambda _: record.returns()), SGDConfig(lr=0.3), 0
    )
    total, count = nearby_gain(made, torch.tensor([7]))
    assert torch.equal(total != 0, count > 0)
    assert count.nonzero()[:, 0].tolist() == list(range(23, 43))
    both, counts = nearby_gain(made, torch.tensor([7, 35]))
    assert counts[30] == 2
    assert both[30] != 0
    assert counts.sum() == 40


def test_correcting_optimizers_are_shown_what_moves_the_target():
    record = chain([6], np.arange(6.0), actions=3)
    network, index = tabular(record, 3), torch.arange(6)
    values = torch.cat([network.weight.detach().T[1:], torch.zeros(1, 3)])
    following = {True: record.next_action, False: values.argmax(1)}
    for sarsa in (True, False):
        made = ReplayedLearner(network, record, OneStep(sarsa=sarsa), SGDConfig(), 0)
        shown = made._temporal_difference(record.at(index), index)
        assert torch.equal(shown.discount, record.discount)
        assert torch.equal(shown.bootstrap["action"], following[sarsa])
        assert torch.equal(shown.bootstrap["obs"], record.at(index).next_obs)
    for still in (OneStep(every=5), OneStep(rate=0.1), TargetTable(lambda _: record.returns())):
        made = ReplayedLearner(network, record, still, SGDConfig(), 0)
        assert made._temporal_difference(record.at(index), index).bootstrap is None


def test_bootstrapping_from_the_network_itself_moves_the_predecessors_loss():
    record, lr = chain([20]), 0.3
    network = tabular(record)
    made = ReplayedLearner(network, record, OneStep(), SGDConfig(lr=lr), 0)
    examples, before = made.examples(torch.arange(20)), made.parameters()
    assert examples.moving
    made.learn(torch.tensor([7]))
    gain = replayed.pointwise_gain(examples, before, made.parameters())
    assert gain.nonzero()[:, 0].tolist() == [6, 7]
    # With a table of the frozen network, nothing but the state itself moves.
    frozen = ReplayedLearner(
        network, record, TargetTable(q_learning(record), 1000), SGDConfig(lr=lr), 0
    )
    total, _ = nearby_gain(frozen, torch.tensor([7]))
    assert total.nonzero()[:, 0].tolist() == [30]


def test_copies_follow_the_network_as_they_should():
    record = chain([10])
    hard, slow = OneStep(every=2), OneStep(rate=0.25)
    for kind in (hard, slow):
        network = tabular(record)
        start = network.weight.detach().clone()
        made = ReplayedLearner(network, record, kind, SGDConfig(lr=0.5), 0)
        made.learn(torch.arange(10))
        first = network.weight.detach().clone()
        expected = start if kind is hard else start + 0.25 * (first - start)
        torch.testing.assert_close(kind.network.weight, expected)
        made.learn(torch.arange(10))
        if kind is hard:
            assert torch.equal(kind.network.weight, network.weight)


def test_sarsa_bootstraps_from_the_recorded_action_and_q_learning_from_the_best():
    record = chain([6], np.arange(6.0), actions=3)
    network = tabular(record, 3)
    values = network.weight.detach().T
    for sarsa in (True, False):
        made = ReplayedLearner(network, record, OneStep(sarsa=sarsa), SGDConfig(lr=0.1), 0)
        index = torch.arange(6)
        target = made.targets.at(record.at(index), index, made.next_action)
        following = torch.cat([values[1:], torch.zeros(1, 3)])
        chosen = following.gather(1, record.next_action[:, None])[:, 0]
        expected = record.reward + record.discount * (chosen if sarsa else following.max(1).values)
        torch.testing.assert_close(target, expected)
        delta = errors(made.examples(index))
        prediction = values.gather(1, record.action[:, None])[:, 0]
        torch.testing.assert_close(delta, prediction - expected)


def test_corrected_adam_without_derivatives_is_adam():
    record = chain([12], np.random.default_rng(0).normal(size=12), actions=2)

    def trained(config, weight):
        network = tabular(record, 2)
        made = ReplayedLearner(network, record, OneStep(sarsa=True), config, 3)
        shown = made._temporal_difference
        made._temporal_difference = lambda batch, index: dataclasses.replace(
            shown(batch, index), weight=torch.full((4,), weight)
        )
        for _ in range(20):
            made.learn(made.draw(4))
        return network.weight.detach()

    adam = trained(AdamConfig(lr=0.05, beta1=0.9), 1.0)
    corrected = CorrectedAdamConfig(lr=0.05, beta=0.9)
    torch.testing.assert_close(trained(corrected, 0.0), adam)
    assert not torch.allclose(trained(corrected, 1.0), adam, rtol=1e-3)


def test_alternating_values_have_the_errors_of_rising_ones_but_not_their_signs():
    # V = 1, 2, 3, ... and V = 1, 2, 1, ...: no reward, gamma 1, all errors of size 1.
    for values, variance in (([1, 2, 3, 4, 5, 6], 0.0), ([1, 2, 1, 2, 1, 2], 0.96)):
        v = torch.tensor(values, dtype=torch.float32)
        delta = v[:-1] - v[1:]
        assert delta.abs().tolist() == [1] * 5
        assert sign_variance(delta[:, None]).item() == pytest.approx(variance, abs=1e-6)


def test_published_networks_have_the_published_numbers_of_parameters():
    def count(network):
        return sum(p.numel() for p in network.parameters())

    assert count(padded_cnn(9)) == 4_801_705
    assert count(padded_cnn(9, 64)) == 19_179_849
    assert count(small_cnn(9)) == 12_745
    frames = torch.randint(256, (2, 4, 84, 84), dtype=torch.uint8)
    assert padded_cnn(9, 2)(frames).shape == small_cnn(9, 2)(frames).shape == (2, 9)


def test_episodes_that_never_end_by_themselves_are_an_error(monkeypatch):
    monkeypatch.setattr(recorded, "PATIENCE", (5, 0))
    envs = recorded.make_vector("Pendulum-v1", 1, 0)
    with pytest.raises(UserError, match="Pendulum-v1: hardly any episode terminates"):
        recorded.record(lambda obs, mask: np.zeros((1, 1), np.float32), envs, 100, 0.9)


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_a_folder_without_a_run_is_an_error(folder, tmp_path):
    with pytest.raises(UserError, match="--folder"):
        recorded.expert(folder and str(tmp_path / folder), "name")


def test_a_trained_q_learner_is_recorded_and_another_kind_refused(tmp_path):
    made = run_folder(tmp_path / "dqn", "dqn")
    expert = recorded.expert(str(tmp_path / "dqn"), "name")
    assert (expert.env, expert.gamma) == ("CartPole-v1", 0.99)
    for one, other in zip(expert.network.parameters(), made.network.parameters(), strict=True):
        assert torch.equal(one, other)
    record = expert.record(50, seed=0, num_envs=2)
    assert record.size >= 50
    assert set(record.reward.tolist()) == {1.0}
    assert record.evaluate(expert.network).shape == (record.size, 2)
    run_folder(tmp_path / "reinforce", "reinforce")
    with pytest.raises(UserError, match="accepted is a Q-learner"):
        recorded.expert(str(tmp_path / "reinforce"), "name")
