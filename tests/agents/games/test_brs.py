"""Best response shaping on the coin game: the network, the questions, the gradients, resuming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semigradient import agents, envs, optim
from semigradient.agents.games.brs import BRS
from semigradient.agents.games.detective import ACTIONS, BRSNetworks, Questions
from semigradient.envs.games.coin_game import CoinGame, CoinGameState
from semigradient.errors import UserError
from semigradient.nets.recurrent import Recurrent
from semigradient.training.agent import AgentContext

ID = "semigradient/CoinGame-v0"
SMALL: dict[str, Any] = {"hidden": 6, "question_samples": 2, "question_steps": 2, "buffer_size": 5}


def build(
    name: str = "brs", num_envs: int = 4, env: str = ID, lr: float = 1e-2, **config: Any
) -> Any:
    options = {"horizon": 6} if env == ID else {}
    chosen = optim.config_class("adam")(lr=lr)
    setup = AgentContext(
        envs=envs.make_vector(env, num_envs, 0, **options),
        device=torch.device("cpu"),
        seed=0,
        total_steps=1000,
        optimizer=chosen,
    )
    overrides = {**agents.entry(name).overrides, **SMALL, **config}
    return agents.agent_class(name)(agents.config_class(name)(**overrides), setup)


# The network


def test_the_recurrent_network_is_torch_s_own_for_every_vector() -> None:
    net = Recurrent(inputs=7, hidden=5, outputs=3, before=2, after=2, extra=4)
    random = torch.Generator().manual_seed(0)
    vectors = torch.stack([net.initial(random, 1.0) for _ in range(3)])
    weights = net.weights(vectors)
    obs, state = torch.randn(3, 6, 7, generator=random), torch.randn(3, 6, 5, generator=random)
    extra = torch.randn(3, 6, 4, generator=random)
    outputs, after = net(weights, obs, state, extra)
    for index in range(3):
        rows = [part[index] for part in weights]
        linear = [
            lambda x, m=matrix, b=bias: x @ m + b
            for matrix, bias in zip(rows[::2], rows[1::2], strict=True)
        ]
        cell = nn.GRUCell(5, 5)
        with torch.no_grad():
            cell.weight_ih.copy_(rows[4].T)
            cell.bias_ih.copy_(rows[5][0])
            cell.weight_hh.copy_(rows[6].T)
            cell.bias_hh.copy_(rows[7][0])
        hidden = cell(linear[1](linear[0](obs[index]).relu()).relu(), state[index])
        features = torch.cat((hidden, extra[index]), 1)
        expected = linear[6](linear[5](linear[4](features).relu()).relu())
        torch.testing.assert_close(after[index], hidden)
        torch.testing.assert_close(outputs[index], expected)


# The detective's questions


def exact_answers(
    net: BRSNetworks,
    weights: list[Tensor],
    state: CoinGameState,
    memory: Tensor,
    left: int,
    first: bool = True,
) -> Tensor:
    """δ (4,), or without `first` their mean, by recursion over everything that can happen."""
    if left == 0:
        return torch.zeros((), dtype=torch.float64)
    game = net.game
    outputs, after = net.agent(weights, game.observe(state)[:1, 0][None], memory)
    probabilities = outputs[0, 0, :ACTIONS].softmax(0)
    answers = []
    for theirs in range(ACTIONS):
        total = torch.zeros((), dtype=torch.float64)
        for ours in range(ACTIONS):
            pair = torch.tensor([[ours, theirs]])
            probe = game.step(state, pair, uniform=torch.zeros(1))
            places = 1
            if bool((probe.state.picked > 0).any()):
                places = game.count - len(set(probe.state.cells[0].tolist()))
            for place in range(places):
                step = game.step(state, pair, uniform=torch.full((1,), (place + 0.5) / places))
                below = exact_answers(net, weights, step.state, after, left - 1, False)
                value = step.reward[0, 1] + net.questions.discount * below
                total = total + probabilities[ours] * value / places
        answers.append(total)
    return torch.stack(answers) if first else torch.stack(answers).mean()


@pytest.mark.parametrize(("steps", "shared"), [(1, False), (2, False), (2, True)])
def test_answers_and_their_gradients_are_those_of_the_exact_expectation(
    steps: int, shared: bool
) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        game = CoinGame()
        net = BRSNetworks(game, 4, Questions(40, steps, 0.9, shared))
        random = torch.Generator().manual_seed(1)
        vector = 3 * net.agent.initial(random, 1.0)
        direction = torch.randn(vector.shape, generator=random) * 0.1
        # Red is one step above the coin, blue one to its left: everything happens at once.
        cells, coin, zero = torch.tensor([[1, 3]]), torch.tensor([4]), torch.zeros(1).long()
        state = CoinGameState(
            cells, coin, zero + 1, zero, torch.zeros(1, 2).long(), torch.zeros(1, 2)
        )
        memory = torch.randn(1, 1, 4, generator=random)
        along = torch.zeros((), requires_grad=True)
        weights = net.agent.weights((vector + along * direction)[None])
        exact = exact_answers(net, weights, state, memory, steps)
        slope = torch.stack([torch.autograd.grad(e, along, retain_graph=True)[0] for e in exact])
        copies = 200
        many = CoinGameState(*(field.repeat_interleave(copies, 0) for field in state))
        estimates = net.answers(weights, many, memory.expand(1, copies, 4), random)
        assert estimates.shape == (copies, 4)
        error = estimates.std(0) / copies**0.5
        assert ((estimates.mean(0) - exact).abs() < 4 * error + 1e-9).all()
        groups = estimates.view(20, -1, 4).mean(1).sum(1)
        per_group = [torch.autograd.grad(group, along, retain_graph=True)[0] for group in groups]
        slopes = torch.stack(per_group)
        spread = slopes.std() / len(slopes) ** 0.5
        assert (slopes.mean() - slope.sum()).abs() < 4 * spread
        assert slope.sum().abs() > 5 * spread  # there is something to see
    finally:
        torch.set_default_dtype(torch.float32)


def test_common_random_numbers_bring_all_coins_of_a_question_back_to_one_place() -> None:
    game = CoinGame()
    for shared, same in ((True, True), (False, False)):
        net = BRSNetworks(game, 4, Questions(200, 1, 1.0, shared))
        draws = net._common_draws(2, 800, torch.Generator().manual_seed(0))
        assert (draws is not None) == same
        if draws is not None:
            assert draws.view(2, -1).unique(dim=1).shape == (2, 1)


# The learner


def test_terms_reach_only_whom_they_are_for() -> None:
    agent: BRS = build()
    count = agent.setup.envs.num_envs
    record = agent.networks.play(agent.agent, agent.detective.detach(), count, agent.random)
    own, shaping = record.log_probs[..., 0].sum(), record.log_probs[..., 1].sum()
    for loss in (own, shaping):  # the second only through the answers
        (gradient,) = torch.autograd.grad(loss, agent.agent, retain_graph=True)
        assert gradient.abs().sum() > 0
    past = agent.past[:1].expand(count, -1)
    record = agent.networks.play(past, agent.detective, count, agent.random)
    for seat, reached in ((1, True), (0, False)):
        total = record.log_probs[..., seat].sum()
        (gradient,) = torch.autograd.grad(total, agent.detective, retain_graph=True)
        assert bool(gradient.abs().sum() > 0) == reached
    before = agent.detective.detach().clone()
    agent._teach_agent()
    assert torch.equal(before, agent.detective)
    before = agent.agent.detach().clone()
    agent._teach_detective()
    assert torch.equal(before, agent.agent)


def test_all_gradients_are_taken_before_any_step() -> None:
    agent: BRS = build()
    vector = agent.agent

    def losses() -> dict[str, Tensor]:
        return {"agent": vector.square().sum(), "shaping": vector.pow(3).sum()}

    expected = {
        name: torch.autograd.grad(loss, vector)[0].clone() for name, loss in losses().items()
    }
    gradients = agent._step(**losses())
    for name, gradient in expected.items():
        assert torch.equal(gradients[name], gradient)


def test_the_detective_hears_nothing_of_the_agent_but_the_answers() -> None:
    """Without questions its first actions are the same for all agents (that play alike so far)."""
    net = BRSNetworks(CoinGame(), 6, Questions(2, 2, 1.0, False))
    random = torch.Generator().manual_seed(0)
    detective = net.detective.initial(random, 1.0)[None]
    state = net.game.reset(8, random)
    weights = net.detective.weights(detective)
    obs = net.game.observe(state)[None, :, 1]
    memory = torch.zeros(1, 8, 6)
    extra = torch.randn(1, 8, 4, generator=random)
    one, _ = net.detective(weights, obs, memory, extra)
    two, _ = net.detective(weights, obs, memory, extra + 1)
    assert not torch.allclose(one, two)


def test_rewards_and_log_probabilities_of_a_record_belong_together() -> None:
    """With one agent for all games and with one for each, equal vectors play equal games."""
    net = BRSNetworks(CoinGame(horizon=5), 6, Questions(2, 2, 1.0, False))
    random = torch.Generator().manual_seed(0)
    one, two = net.agent.initial(random, 1.0)[None], net.detective.initial(random, 1.0)[None]
    plays = [
        net.play(vectors, two, 6, torch.Generator().manual_seed(3))
        for vectors in (one, one.expand(6, -1))
    ]
    for alone, batched in zip(*plays, strict=True):
        torch.testing.assert_close(alone, batched, rtol=1e-4, atol=1e-5)
    assert plays[0].log_probs.shape == (5, 6, 2)


@pytest.mark.parametrize(("name", "played"), [("brs", 2), ("brs-sp", 3)])
def test_steps_are_those_of_all_games_that_are_played(name: str, played: int) -> None:
    agent = build(name)
    for _ in range(2):
        agent.iterate()
    assert agent.progress.steps == 2 * 4 * 6 * played


def test_the_policy_forgets_at_the_end_of_a_game() -> None:
    agent = build()
    policy = agent.policy(True)
    obs = np.random.default_rng(0).random((12, 3, 36)).astype(np.float32)
    obs[6:] = obs[:6]
    actions = [policy(rows) for rows in obs]
    for early, late in zip(actions[:6], actions[6:], strict=True):
        np.testing.assert_array_equal(early, late)
    player, memory = agent.player(True), torch.zeros(3, 6)
    for rows, action in zip(obs[:6], actions, strict=False):
        chosen, memory = player.answer(torch.from_numpy(rows), memory, None)
        np.testing.assert_array_equal(chosen.numpy(), action)


def test_self_play_alone_teaches_to_cooperate() -> None:
    """Of shared rewards nothing but the sum counts, and that is largest where both cooperate."""
    agent = build("brs-sp", num_envs=64, lr=2e-2, hidden=16, entropy_coefficient=0.0)
    returns = [float(agent._teach_sharing()["self_play_return"]) for _ in range(250)]
    assert np.mean(returns[-50:]) > np.mean(returns[:50]) + 0.25


def test_each_term_has_its_rate() -> None:
    def rates(**config: float) -> dict[str, float]:
        optimizers = build("brs-sp", lr=0.02, **config).optimizers
        return {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}

    plain = rates(lr_detective=0.1, lr_value=0.2)
    values = dict.fromkeys(("agent_value", "detective_value"), 0.2)
    policies = dict.fromkeys(("agent", "shaping", "sharing"), 0.02)
    assert plain == {**policies, "detective": 0.1, **values}
    own = rates(lr_shaping=0.3, lr_sharing=0.4)
    assert (own["agent"], own["shaping"], own["sharing"]) == (0.02, 0.3, 0.4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"question_steps": 0}, "question_steps=0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"lr_value": 0.0}, "lr_value=0.0"),
        ({"lr_sharing": -1.0}, "lr_sharing=-1.0"),
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**config)


def test_other_environments_are_refused() -> None:
    with pytest.raises(UserError, match="CartPole-v1: brs plays"):
        build(env="CartPole-v1")
