"""Buffers of Acrobot and CartPole: n-step transitions and right values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from semigradient.reproductions.td import control_buffers as buffers
from semigradient.reproductions.td.problems import Buffer, TransitionBatch


def collected(name, count):
    return list(itertools.islice(buffers.episodes(name, seed=3, copies=4), count))


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("n", [1, 3, 9])
def test_n_step_transitions_equal_a_loop(n, ended):
    rng = np.random.default_rng(0)
    episode = buffers.Episode(rng.normal(size=(7, 2)), rng.normal(size=6), ended)
    inputs, rewards, discounts, following = buffers.n_step(episode, n)
    for t in range(6):
        last = min(t + n, 6)
        expected = sum(0.99 ** (k - t) * episode.rewards[k] for k in range(t, last))
        assert rewards[t] == pytest.approx(expected)
        assert discounts[t] == pytest.approx(0 if ended and last == 6 else 0.99 ** (last - t))
        assert np.array_equal(following[t], episode.observations[last])
        assert np.array_equal(inputs[t], episode.observations[t])


def test_right_values_solve_the_n_step_equation_on_acrobot():
    """Everything is deterministic: along an episode the value is the return that follows."""
    for episode in collected("acrobot", 6):
        assert episode.ended
        values = np.append(buffers.discounted(episode.rewards), 0.0)
        _, rewards, discounts, _ = buffers.n_step(episode, 5)
        ahead = np.minimum(np.arange(len(rewards)) + 5, len(rewards))
        np.testing.assert_allclose(values[:-1], rewards + discounts * values[ahead], atol=1e-12)


def test_acrobot_is_deterministic_under_its_policy():
    """The same action in the same state: an episode continues as its observations say."""
    episode = collected("acrobot", 1)[0]
    actions = buffers.acrobot_policy(episode.observations[:-1])
    assert set(actions.tolist()) <= {0, 2}
    assert (episode.rewards[:-1] == -0.1).all()
    assert episode.rewards[-1] == 0


def test_discounted_returns_equal_a_sum():
    rewards = torch.randn(12, 1, dtype=torch.float64)
    rewards_to_go = buffers.discounted(rewards[:, 0].numpy())
    expected = [sum(0.99**k * float(r) for k, r in enumerate(rewards[t:, 0])) for t in range(12)]
    np.testing.assert_allclose(rewards_to_go, expected, atol=1e-12)


def test_cartpole_counts_its_steps():
    for episode in collected("cartpole", 3):
        steps = len(episode.rewards)
        np.testing.assert_allclose(episode.observations[:, 4], np.arange(steps + 1) / 500)
        assert episode.ended
        assert (episode.rewards == 0.1).all()
        assert steps <= 500


def test_cartpole_values_near_the_limit_are_known():
    """Balanced with k steps left: k rewards, whatever happens."""
    for left in (1, 5):
        state = np.array([[0.0, 0.0, 0.0, 0.0, 1 - left / 500]])
        value = buffers.cartpole_values(state, np.random.default_rng(0), repeats=3)
        assert value[0] == pytest.approx(0.1 * (1 - 0.99**left) / 0.01)
    falling = np.array([[0.0, 0.0, 0.2, 3.0, 0.0]])
    assert buffers.cartpole_values(falling, np.random.default_rng(0), 3)[0] == pytest.approx(0.1)


def test_cartpole_values_match_the_returns_of_the_environment_that_made_the_buffer():
    # One copy: of several, the short episodes would be the first to finish.
    played = list(itertools.islice(buffers.episodes("cartpole", seed=5, copies=1), 30))
    returns = np.array([buffers.discounted(e.rewards)[0] for e in played])
    states = np.stack([e.observations[0] for e in played])
    values = buffers.cartpole_values(states, np.random.default_rng(1), repeats=8)
    error = returns.std() / np.sqrt(len(returns))
    assert error < 0.3
    assert abs(returns.mean() - values.mean()) < 3 * error


def test_answers_are_states_with_their_values():
    answer = buffers.answers("acrobot", 40)
    assert answer["inputs"].shape == (40, 6)
    assert (answer["values"] <= 0).all()


def test_a_buffer_is_sampled():
    stored = buffers.buffer("acrobot", 5, 300)
    assert len(stored["inputs"]) >= 300
    parts = [torch.from_numpy(stored[k]).float() for k in stored]
    problem = Buffer("acrobot", TransitionBatch(*(p[None] for p in parts)), (parts[0], parts[1]))
    assert problem.width == 6
    assert repr(problem) == "Buffer(name='acrobot')"
    batch = next(problem.batches([0, 1], 7))
    assert batch.inputs.shape == (2, 7, 6)
    rows = {tuple(row) for row in parts[0].tolist()}
    assert all(tuple(row) in rows for row in batch.inputs.flatten(0, 1).tolist())
