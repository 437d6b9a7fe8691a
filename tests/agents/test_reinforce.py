"""REINFORCE against exact gradients, factored Q-learning by hand, supervised learners, resuming."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from semigradient import agents, optim
from semigradient.agents import dqn, reinforce, supervised
from semigradient.agents.q_exploration import EpsilonGreedy
from semigradient.agents.q_heads import SideBySide
from semigradient.envs import make_vector
from semigradient.errors import UserError
from semigradient.nets.glimpse import GlimpseCNN
from semigradient.nets.q_network import QNetwork
from semigradient.training.agent import AgentContext
from semigradient.training.evaluation import evaluate
from semigradient.training.replay import Batch

CPU = torch.device("cpu")
GLIMPSE = "semigradient/Glimpse-v0"
SMALL = {"dataset": "small-glyphs", "limit": 60}
TINY = {"torso_width": 2, "hidden": (8,)}
TINY_Q = {**TINY, "buffer_size": 100}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(
    name: str, env_id: str, config: dict[str, Any], num_envs: int = 4, lr: float = 1e-2, **env: Any
) -> Any:
    torch.manual_seed(0)
    chosen = optim.config_class("adam")(lr=lr)
    setup = AgentContext(
        envs=make_vector(env_id, num_envs, 0, **env),
        device=CPU,
        seed=0,
        total_steps=10_000,
        optimizer=chosen,
    )
    overrides = agents.entry(name).overrides
    return agents.agent_class(name)(agents.config_class(name)(**{**overrides, **config}), setup)


# The estimator

# A process of two states and three steps: next[s][a], reward[s][a]; action 1 in state 1 ends it.
NEXT, REWARD = ((0, 1), (1, None)), ((0.5, -1.0), (2.0, 3.0))


def trajectories() -> Iterator[list[tuple[int, int, float]]]:
    """Every sequence of (state, action, reward) from state 0."""
    for actions in itertools.product((0, 1), repeat=3):
        state: int | None = 0
        path = []
        for action in actions:
            if state is None:
                break
            path.append((state, action, REWARD[state][action]))
            state = NEXT[state][action]
        if len(path) == 3 or state is None:
            yield path


def distinct() -> list[list[tuple[int, int, float]]]:
    return [list(path) for path in {tuple(path): None for path in map(tuple, trajectories())}]


@pytest.mark.parametrize("kind", ["to-go", "episode"])
@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_expected_estimate_is_the_gradient_of_the_expected_return(
    kind: str, gamma: float
) -> None:
    logits = torch.tensor([[0.3, -0.2], [0.1, 0.7]], dtype=torch.float64, requires_grad=True)
    expected_return = torch.zeros((), dtype=torch.float64)
    expected_estimate = torch.zeros(2, 2, dtype=torch.float64)
    total = 0.0
    for path in distinct():
        log_probs = logits.log_softmax(1)
        chosen = torch.stack([log_probs[s, a] for s, a, _ in path])
        chance = chosen.sum().exp()
        total += chance.item()
        rewards = [r for _, _, r in path]
        if kind == "episode":
            weights = [sum(gamma**k * r for k, r in enumerate(rewards))] * len(path)
        else:  # discounted from the start, of which the agent leaves γ^t away
            weights = [
                sum(gamma**k * r for k, r in enumerate(rewards) if k >= t) for t in range(len(path))
            ]
        expected_return = expected_return + chance * sum(
            gamma**k * r for k, r in enumerate(rewards)
        )
        loss = reinforce.policy_gradient_loss(
            chosen, torch.tensor(weights, dtype=torch.float64), episodes=1
        )
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        expected_estimate -= chance.item() * gradient
    assert total == pytest.approx(1)
    (exact,) = torch.autograd.grad(expected_return, logits)
    torch.testing.assert_close(expected_estimate, exact)


def test_returns_of_whole_episodes() -> None:
    to_go = torch.tensor([[6.0, 1.0], [5.0, 9.0], [3.0, 8.0], [4.0, 7.0]])
    ended = torch.tensor([[False, True], [False, False], [True, False], [False, True]])
    expected = torch.tensor([[6.0, 1.0], [6.0, 9.0], [6.0, 9.0], [4.0, 9.0]])
    torch.testing.assert_close(reinforce.episode_return(to_go, ended), expected)


class Corridor(gymnasium.Env):
    """An episode of as many steps as it says at its start; every step is worth one."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0, 20, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.left = self.length = int(self.np_random.integers(1, 12))
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        return self._see(), 1.0, self.left == 0, False, {}

    def _see(self) -> np.ndarray:
        return np.array([self.length, self.left], dtype=np.float32)


@pytest.fixture
def corridor() -> Iterator[str]:
    gymnasium.register("test/Corridor-v0", Corridor)
    yield "test/Corridor-v0"
    gymnasium.registry.pop("test/Corridor-v0")


def test_episodes_are_whole_and_short_ones_not_preferred(corridor: str) -> None:
    agent = build("reinforce", corridor, {"episodes_per_env": 3}, num_envs=50)
    lengths: list[float] = []
    for _ in range(12):
        batch = agent._play()
        length, left = batch.obs.unbind(1)
        assert int((left == length).sum()) == int((left == 1).sum()) == 150
        torch.testing.assert_close(batch.return_, left)  # undiscounted reward to go
        lengths += length[left == length].tolist()
        assert sorted(map(float, length[left == 1])) == sorted(lengths[-150:])
    ended = agent.progress.pop_episodes()
    assert sorted(length for _, length in ended) == sorted(map(int, lengths))
    assert all(value == length for value, length in ended)
    error = np.std(lengths) / np.sqrt(len(lengths))
    assert abs(np.mean(lengths) - 6) < 3 * error
    assert agent.progress.steps > sum(lengths)


def test_reinforce_learns_to_guess_what_is_always_the_same() -> None:
    agent = build(
        "reinforce", GLIMPSE, TINY, num_envs=16, dataset="small-glyphs", limit=1, max_steps=5
    )
    before = evaluate(agent.policy(False), agent.setup.envs, 100).returns.mean()
    for _ in range(120):
        agent.iterate()
    after = evaluate(agent.policy(True), agent.setup.envs, 100).returns.mean()
    assert before < 0.5
    assert after == 1.0


# Factored Q-learning


def test_factored_values_by_hand() -> None:
    q = torch.tensor([[1.0, 5.0, 2.0, 7.0, 6.0], [4.0, 3.0, 0.0, 1.0, 2.0]])
    other = torch.tensor([[10.0, 20.0, 30.0, 40.0, 50.0], [60.0, 70.0, 80.0, 90.0, 100.0]])
    head = SideBySide((3, 2))
    assert (head.outputs, head.choices, head.is_single) == (5, 2, False)
    assert head.greedy(q).tolist() == [[1, 0], [0, 1]]
    assert head.values(q, torch.tensor([[2, 1], [0, 0]])).tolist() == [[2, 6], [4, 1]]
    assert head.bootstrap(q, other).tolist() == [[20, 40], [60, 100]]
    assert head.bootstrap(q, q).tolist() == [[5, 7], [4, 2]]


@pytest.mark.parametrize("double", [False, True])
def test_every_choice_bootstraps_from_its_own_maximum(double: bool) -> None:
    agent = build("dqn", GLIMPSE, {**TINY_Q, "double": double, "loss": "mse"}, **SMALL)
    target, online = torch.randn(14), torch.randn(14)
    for network, bias in ((agent.target, target), (agent.network, online)):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            network.advantage[-1].bias.copy_(bias)
    obs = torch.zeros((2, 4, 16, 16), dtype=torch.uint8)
    action = torch.tensor([[3, 1], [9, 0]])
    reward, discount = torch.tensor([1.0, -0.1]), torch.tensor([0.9, 0.0])
    batch = Batch(obs, action, reward, discount, obs, None)
    chooser = online if double else target
    best = torch.stack([target[:10][chooser[:10].argmax()], target[10:][chooser[10:].argmax()]])
    expected = reward[:, None] + discount[:, None] * best
    torch.testing.assert_close(agent._td_target(batch), expected)
    said = torch.stack([online[[3, 9]], online[[11, 10]]], 1)
    # The losses of both choices are added, not averaged.
    by_hand = 0.5 * (said - expected).square().mean(0).sum()
    torch.testing.assert_close(agent._loss_and_values(batch)[0], by_hand)


def test_exploration_replaces_both_choices_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    head = SideBySide((10, 4))
    monkeypatch.setattr(head, "greedy", lambda q, mask: torch.full((20_000, 2), -1))
    exploration = EpsilonGreedy(head, lambda step: 0.3, np.random.default_rng(0))
    actions = exploration.act(lambda: torch.zeros(20_000, 14), 20_000, None, 0)
    explored = actions >= 0
    assert (explored[:, 0] == explored[:, 1]).all()
    assert explored[:, 0].mean() == pytest.approx(0.3, abs=0.01)
    drawn = actions[explored[:, 0]]
    for column, count in ((0, 10), (1, 4)):
        shares = np.bincount(drawn[:, column], minlength=count) / len(drawn)
        np.testing.assert_allclose(shares, 1 / count, atol=0.02)


def test_images_that_are_no_stacks_of_frames_are_kept_whole() -> None:
    agent = build("dqn", GLIMPSE, {**TINY, "buffer_size": 100, "learning_starts": 10**6}, **SMALL)
    assert not agent.memory.is_stacked
    for _ in range(3):
        before = agent.stepper.obs.copy()
        agent._collect()
    stored = agent.memory.ring.fields["obs"][2].numpy()
    np.testing.assert_array_equal(stored, before)
    atari = build("dqn", "ALE/Pong-v5", {"buffer_size": 64, "learning_starts": 10**6}, num_envs=1)
    assert atari.memory.is_stacked


def test_what_factored_learning_refuses() -> None:
    with pytest.raises(UserError, match="dueling=True: accepts Discrete"):
        build("dqn", GLIMPSE, {**TINY, "dueling": True}, **SMALL)
    with pytest.raises(UserError, match="unknown torso 'glimps'"):
        dqn.Config(torso="glimps")


# Networks


@pytest.mark.parametrize(
    ("channels", "depth", "inputs", "outputs", "count"),
    [
        (8, 0, 3, 10, 109178),
        (8, 3, 3, 10, 136922),
        (8, 1, 4, 14, 118758),
        (16, 0, 3, 10, 434666),
        (16, 0, 4, 14, 435326),
        (32, 0, 4, 14, 1735918),
        (64, 0, 3, 10, 6930314),
    ],
)
def test_the_published_network(
    channels: int, depth: int, inputs: int, outputs: int, count: int
) -> None:
    space = spaces.Box(0, 255, (inputs, 32, 32), np.uint8)
    config = reinforce.Config(torso_width=channels, torso_depth=depth, hidden=(4 * channels,))
    network = reinforce.PolicyNetwork(space, spaces.Discrete(outputs), config)
    assert sum(p.numel() for p in network.parameters()) == count
    agent = QNetwork(
        space,
        outputs,
        (4 * channels,),
        "leaky_relu",
        False,
        lambda _: GlimpseCNN(space.shape, channels, depth),
    )
    assert sum(p.numel() for p in agent.parameters()) == count
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            assert not layer.bias.any()
            field = layer.weight[0, 0].numel() if layer.weight.dim() == 4 else 1
            bound = (6 / (field * sum(layer.weight.shape[:2]))) ** 0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
    bytes_ = torch.randint(0, 256, (2, inputs, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(network(bytes_), network(bytes_ / 255))


# Supervised


def test_a_classifier_learns_and_is_scored_by_accuracy() -> None:
    options = {"dataset": "small-glyphs", "limit": 200}
    config = {"torso_width": 4, "hidden": (16,)}
    agent = build("classifier", "semigradient/Classification-v0", config, lr=3e-3, **options)
    assert agent.progress.steps == 0
    for _ in range(250):
        agent.iterate()
    assert agent.progress.steps == 250 * 32
    core = agent.setup.envs.core
    scores = evaluate(agent.policy(True), agent.setup.envs, 400).returns
    guessed = agent.policy(True)(core.inputs.numpy(), None)
    accuracy = (guessed == core.targets.numpy()).mean()
    assert accuracy > 0.9
    assert scores.mean() == pytest.approx(accuracy, abs=0.06)


def test_a_regressor_finds_a_line() -> None:
    config = {"hidden": (16,)}
    agent = build("regressor", "semigradient/Regression-v0", config, dataset="diabetes")
    core = agent.setup.envs.core
    weights = torch.randn(10, 1)
    agent.targets = core.targets = core.inputs @ weights
    for _ in range(200):
        agent.iterate()
    assert evaluate(agent.policy(True), agent.setup.envs, 100).returns.mean() > -0.1


def test_supervised_losses_by_hand() -> None:
    outputs = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    loss, score = supervised.loss_and_score(outputs, torch.tensor([1, 1]))
    by_hand = (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(1))) / 2
    assert (loss.item(), score.item()) == pytest.approx((by_hand, 0.5))
    loss, score = supervised.loss_and_score(outputs, torch.tensor([[1.0, 2.0], [1.0, 3.0]]))
    assert (loss.item(), score.item()) == pytest.approx((2.5, -2.5))


def test_supervised_learners_name_the_environment_they_need() -> None:
    with pytest.raises(UserError, match=r"Glimpse-v0: .* accepts semigradient/Classification-v0"):
        build("classifier", GLIMPSE, {})
    with pytest.raises(UserError, match="accepts semigradient/Regression-v0"):
        build("regressor", "semigradient/Classification-v0", {})
