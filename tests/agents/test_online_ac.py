"""Recurrent actor-critic(λ): steps against whole-graph derivatives, memory, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient import make_agent
from semigradient.envs import make_vector
from semigradient.errors import UserError
from semigradient.nets.cells import make_cell
from semigradient.nets.recurrent_actor_critic import RecurrentActorCritic
from semigradient.training.agent import forget
from semigradient.training.evaluation import evaluate

QUEUE = {"delay": 1, "length": 7}


def queue_agent(**settings: Any) -> Any:
    usual = {
        "env_options": QUEUE, "num_envs": 3, "units": 4, "seed": 3, "optim": "sgd",
        "max_grad_norm": 0.0, "optim_options": {"lr": 1e-12}, "threads": 1,
    }  # fmt: skip
    return make_agent("online-ac", "semigradient/Queue-v0", **{**usual, **settings})


class Recorded:
    """Everything that an agent saw and did: observations before and after, actions, rewards."""

    def __init__(self, agent: Any) -> None:
        self.rows: list[tuple[Any, ...]] = []
        own, sample = agent.stepper.step, agent.network.distribution.sample

        def chosen(parameters: Tensor, noise: Tensor) -> Tensor:
            self.action = sample(parameters, noise)
            return self.action

        def step(actions: np.ndarray) -> Any:
            before = agent.stepper.obs.copy()
            made = own(actions)
            self.rows.append((before, self.action, made))
            return made

        agent.stepper.step, agent.network.distribution.sample = step, chosen


def by_whole_graphs(agent: Any, rows: list[tuple[Any, ...]], env: int) -> list[Tensor]:
    """Ascent directions of one environment's steps, from derivatives of unrolled episodes."""
    net, config = agent.network, agent.config
    weights = list(net.parameters())

    def derivative(of: Tensor) -> Tensor:
        parts = torch.autograd.grad(
            of, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in parts])

    directions = []
    state, trace = torch.zeros(net.width), torch.zeros_like(agent.trace[0])
    for before, action, made in rows:
        output, state = net(torch.from_numpy(before[env]), state)
        log_probs, value = output[:-1].log_softmax(-1), output[-1]
        later = net(torch.from_numpy(made.next_obs[env]), state)[0][-1].detach()
        following = 0.0 if made.terminated[env] else later
        error = float(made.reward[env]) + config.gamma * following - value.detach()
        chosen = derivative(log_probs[action[env]])
        trace = config.gamma * config.trace_decay * trace + chosen
        trace = trace + config.value_coefficient * derivative(value)
        entropy = derivative(-(log_probs.exp() * log_probs).sum())
        directions.append(error * trace + config.entropy_coefficient * entropy)
        if made.terminated[env] or made.truncated[env]:
            state, trace = torch.zeros(net.width), torch.zeros_like(trace)
    return directions


def steps_of(agent: Any, count: int) -> tuple[list[Tensor], list[tuple[Any, ...]]]:
    recorded, taken = Recorded(agent), []
    for _ in range(count):
        agent.iterate()
        taken.append(-torch.cat([p.grad.flatten() for p in agent.network.parameters()]))
    return taken, recorded.rows


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_with_exact_gradients_it_is_the_actor_critic_of_unrolled_episodes(cell: str) -> None:
    agent = queue_agent(cell=cell, estimator="rtrl", entropy_coefficient=0.1)
    taken, rows = steps_of(agent, 17)  # two ends of episodes
    assert sum(made.truncated.all() for _, _, made in rows) == 2
    each = [by_whole_graphs(agent, rows, env) for env in range(3)]
    for time, step in enumerate(taken):
        expected = torch.stack([directions[time] for directions in each]).mean(0)
        torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-6)


def test_uoro_takes_the_same_steps_on_average() -> None:
    # One trajectory: actions are drawn from the agent's seed, signs of the traces are not.
    exact, _ = steps_of(queue_agent(estimator="rtrl", cell="rnn", units=2), 4)
    runs = []
    for seed in range(60):
        agent = queue_agent(estimator="uoro", cell="rnn", units=2, rank=8)
        agent.noise.manual_seed(seed)
        runs.append(steps_of(agent, 4)[0][-1])
    estimates = torch.stack(runs)
    deviation = (estimates.mean(0) - exact[-1]).norm()
    noise = (estimates.var(0).sum() / len(estimates)).sqrt()
    assert noise > 0
    assert deviation < 3 * noise + 1e-6


def test_truncation_at_one_step_leaves_something_out() -> None:
    exact, _ = steps_of(queue_agent(estimator="rtrl"), 4)
    cut, _ = steps_of(queue_agent(estimator="tbptt", truncation=1), 4)
    torch.testing.assert_close(exact[0], cut[0])
    assert (exact[3] - cut[3]).abs().max() > 1e-4


def test_a_policy_forgets_where_an_episode_ends() -> None:
    policy = queue_agent().policy(True)
    seen = np.eye(2, dtype=np.float32)[[0, 1]]
    policy(seen)
    first = policy.state.clone()
    policy(seen)
    forget(policy, np.array([True, False]))
    policy(seen)
    torch.testing.assert_close(policy.state[0], first[0])
    assert (policy.state[1] - first[1]).abs().max() > 1e-4
    forget(policy)
    policy(seen)
    torch.testing.assert_close(policy.state, first)


class Delayed:
    """Answers with the bit before, which it remembers: the optimum of a queue of one step."""

    def __init__(self) -> None:
        self.last: np.ndarray | None = None
        self.told: list[Any] = []

    def forget(self, rows: np.ndarray | None = None) -> None:
        self.told.append(rows)
        self.last = None if rows is None or rows.all() else self.last

    def __call__(self, obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        now = obs.argmax(-1)
        answer = np.zeros_like(now) if self.last is None else self.last
        self.last = now
        return answer


def test_an_evaluation_tells_policies_where_episodes_begin() -> None:
    envs, policy = make_vector("semigradient/Queue-v0", 2, 0, **QUEUE), Delayed()
    scores = evaluate(policy, envs, 4)
    assert scores.returns.tolist() == [6.0] * 4
    assert policy.told[0] is None
    assert [rows.all() for rows in policy.told[1:]].count(True) == 2


def test_policies_begin_nearly_uniform_and_values_near_nothing() -> None:
    space = make_vector("semigradient/Queue-v0", 1, 0).single_action_space
    net = RecurrentActorCritic(make_cell("gru", 2, 8), space)
    output, state = net(torch.ones(5, 2), torch.zeros(5, 8))
    parameters, value = net.split(output, torch.tensor([True, False]).expand(5, 2))
    assert output.shape == (5, 3)
    assert state.shape == (5, 8)
    assert output.abs().max() < 0.2
    assert parameters.softmax(-1)[:, 1].max() == 0
    assert value.shape == (5,)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"chrono": 1.0}, "chrono=1.0: must be ≥ 2"),
        ({"chrono": 9.0, "cell": "rnn"}, "chrono=9.0: a plain RNN has no gate"),
        ({"estimator": "preuoro", "cell": "gru"}, "preuoro: GRU is not one layer"),
        ({"estimator": "bptt"}, "num_envs=3: its graph ends where all episodes"),
        ({"units": 0}, "units=0: must be ≥ 1"),
        ({"trace_decay": 1.5}, "trace_decay=1.5: must be in"),
    ],
)
def test_bad_input_has_one_clear_error(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        queue_agent(**settings)
