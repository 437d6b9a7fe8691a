"""Best response shaping against a tree search, on finite repeated 2×2 games.

The tree-search detective queries the agent's policy as a black box: it expands the complete tree
of its own n actions, samples the agent's action once per node, and takes the path with its own
largest return. The agent's return is that along this path, and it learns by

    ∇J = E[(R¹ - b) Σ_{all nodes} ∇ log π(a_node | state of node)]

over all nodes, since the agent's answers off the path decide which path is chosen. BRS-SP adds
self-play with reward sharing (`gradients.self_play`).

`TreeSearchLearner` trains several seeds at once, as rows of the same tensors; `TreeSearchBRS` is
the agent made of it. `exact_values` is the expected outcome without any sampling, by dynamic
programming over the joint distribution of both values; it is differentiable and the reference of
the estimator's tests.

Source: T. Cooijmans, PhD thesis 2023, sections 5.5.1, 5.A.1 and 5.E. The thesis leaves open the
hidden width, the batch, the baseline, the steps, and how the detective breaks ties (here: fairly).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from semigradient import optim
from semigradient.domains.games.repeated import PRISONERS
from semigradient.envs.games.iterated import matrix_game_behind, memory_one
from semigradient.envs.games.matrix_games import SEEN_BY_OTHER, MatrixGame
from semigradient.errors import require
from semigradient.gradients.self_play import self_play_return
from semigradient.training.agent import (
    AgentContext,
    Count,
    Policy,
    generator,
)

STATES = 5


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the optimizer of the thesis is SGD at 3e-4 for both terms."""

    rounds: int = 6
    """Rounds of the game, in [1, 8]; in an environment with a horizon, that many."""
    trees: int = 256
    """Trees, and games of self-play, for an update."""
    hidden: int = 32
    """Width of the hidden tanh layer; 0: five free logits."""
    self_play: float = 0.0
    """Weight of self-play with reward sharing: 0 for BRS, 1 for BRS-SP."""
    agents: int = 1
    """Agents trained side by side."""

    def __post_init__(self) -> None:
        require(1 <= self.rounds <= 8, f"rounds={self.rounds}: must be in [1, 8]")
        require(self.trees >= 2, f"trees={self.trees}: must be ≥ 2, one is its own baseline")
        require(self.hidden >= 0, f"hidden={self.hidden}: must be ≥ 0")
        require(self.self_play >= 0, f"self_play={self.self_play}: must be ≥ 0")
        require(self.agents >= 1, f"agents={self.agents}: must be ≥ 1")


class Trees(NamedTuple):
    """B searches for each of S agents."""

    values: Tensor  # (2, S, B): what agent and detective earn
    counts: Tensor  # (S, B, 5, 2): how often each state was answered with A and with B
    on_path: Tensor  # (S, B, 5, 2): the same, only at the nodes of the chosen path


def search(
    probabilities: Tensor, payoff: Tensor, rounds: int, count: int, random: torch.Generator
) -> Trees:
    """Grow trees for agents with probabilities of A (S, 5), payoff (2, 4), the agent first."""
    agents = len(probabilities)
    state = torch.zeros(agents, count, 1, dtype=torch.int64)
    levels = []
    for _ in range(rounds):
        drawn = torch.rand(state.shape, generator=random, dtype=probabilities.dtype)
        likely = probabilities.gather(1, state.flatten(1)).view_as(state)
        acted = (drawn >= likely).long()
        levels.append(2 * state + acted)
        state = (1 + 2 * acted[..., None] + torch.arange(2)).flatten(2)
    values = torch.zeros(2, agents, count, 2**rounds, dtype=payoff.dtype)
    choices = []
    for depth in reversed(range(rounds)):
        joint = 2 * (levels[depth] % 2)[..., None] + torch.arange(2)
        values = payoff[:, joint] + values.unflatten(-1, (-1, 2))
        # A difference of two integers is decided by less than half; equal ones by a toss.
        toss = torch.rand(joint.shape[:-1], generator=random, dtype=payoff.dtype) * 1e-3 - 5e-4
        choice = (values[1, ..., 1] - values[1, ..., 0] + toss > 0).long()
        values = values.gather(-1, choice.expand(2, -1, -1, -1)[..., None]).squeeze(-1)
        choices.append(choice)
    node, path = torch.zeros(agents, count, 1, dtype=torch.int64), []
    for answers, choice in zip(levels, reversed(choices), strict=True):
        path.append(answers.gather(2, node))
        node = 2 * node + choice.gather(2, node)
    kept = values.squeeze(-1)
    return Trees(kept, _tally(torch.cat(levels, 2), payoff), _tally(torch.cat(path, 2), payoff))


def _tally(answers: Tensor, like: Tensor) -> Tensor:
    """(S, B, 5, 2) counts of answers (S, B, nodes) = 2 · state + action."""
    counts = torch.zeros(*answers.shape[:2], 2 * STATES, dtype=like.dtype)
    counts.scatter_add_(2, answers, torch.ones_like(answers, dtype=like.dtype))
    return counts.unflatten(2, (STATES, 2))


def tree_objective(logits: Tensor, values: Tensor, counts: Tensor) -> Tensor:
    """REINFORCE on whole trees, to be maximised: (S,), the batch mean as baseline.

    Args:
        logits: (S, 5) of action A.
        values: (S, B), the agent's.
        counts: (S, B, 5, 2) as in `Trees`.
    """
    # A mean of all but one's own is a baseline without bias: that is this factor.
    count = values.shape[1]
    advantage = (values - values.mean(1, keepdim=True)) * (count / (count - 1))
    weighted = torch.einsum("sb,sbka->ska", advantage, counts) / count
    return (weighted * _log_probs(logits)).sum((1, 2))


def shared_objective(
    logits: Tensor, payoff: Tensor, rounds: int, count: int, random: torch.Generator
) -> Tensor:
    """Self-play with reward sharing, to be maximised: (S,), on sampled games."""
    probabilities, log_probs = logits.detach().sigmoid(), _log_probs(logits).flatten(1)
    state = torch.zeros(len(logits), 2, count, dtype=torch.int64)
    swapped = torch.tensor(SEEN_BY_OTHER)
    total, seats = torch.zeros(len(logits), count, dtype=payoff.dtype), []
    for _ in range(rounds):
        drawn = torch.rand(state.shape, generator=random, dtype=probabilities.dtype)
        acted = (drawn >= probabilities.gather(1, state.flatten(1)).view_as(state)).long()
        seats.append(log_probs.gather(1, (2 * state + acted).flatten(1)).view_as(state))
        joint = 2 * acted[:, 0] + acted[:, 1]
        total = total + payoff[0, joint]
        state = torch.stack((1 + joint, swapped[1 + joint]), 1)
    advantage = (total - total.mean(1, keepdim=True)) * (count / (count - 1))
    own, other = torch.stack(seats).unbind(2)  # (T, S, B)
    return self_play_return(own, other, advantage.expand_as(own))


def _log_probs(logits: Tensor) -> Tensor:
    """(S, 5, 2): log-probabilities of A and B."""
    return torch.stack((F.logsigmoid(logits), F.logsigmoid(-logits)), 2)


def exact_values(probabilities: Tensor, payoff: Tensor, rounds: int) -> Tensor:
    """Expected values (2,) of agent and detective, for probabilities of A (5,); differentiable.

    Payoffs must be integers that are not positive. The distribution of (detective's, agent's)
    value below a node depends only on the node's state and the rounds left.
    """
    worst = int(-payoff.min()) * rounds + 1
    below = torch.zeros(STATES, worst, worst, dtype=probabilities.dtype)
    below[:, 0, 0] = 1.0  # minus the values are the indices
    for _ in range(rounds):
        answers = [
            _better(*(_shifted(below[1 + 2 * a + b], payoff[:, 2 * a + b]) for b in (0, 1)))
            for a in (0, 1)
        ]
        here = probabilities.view(-1, 1, 1)
        below = here * answers[0] + (1 - here) * answers[1]
    losses = -torch.arange(worst, dtype=probabilities.dtype)
    return torch.stack(((below[0].sum(0) * losses).sum(), (below[0].sum(1) * losses).sum()))


def _shifted(distribution: Tensor, reward: Tensor) -> Tensor:
    """The distribution after adding a reward to (agent, detective)."""
    agent, detective = (int(-amount) for amount in reward)
    size = len(distribution)
    return F.pad(distribution, (agent, 0, detective, 0))[:size, :size]


def _better(one: Tensor, two: Tensor) -> Tensor:
    """The distribution of the pair that is better for the detective; ties are broken fairly."""

    def wins(own: Tensor, other: Tensor) -> Tensor:
        by_loss = other.sum(1)
        worse = by_loss.flip(0).cumsum(0).flip(0) - by_loss / 2
        return own * worse[:, None]

    return wins(one, two) + wins(two, one)


class TreeSearchLearner:
    """BRS, or with `self_play` BRS-SP, of several seeds at once.

    Args:
        config: hyperparameters.
        seeds: S.
        seed: root of all randomness.
        payoff: (2, 4), the agent first; the default is the prisoner's dilemma.
        make_optimizer: default: Adam at 0.01.

    Attributes:
        progress: steps are questions to an agent and rounds of self-play, for each.
    """

    STATE = ("parameters", "optimizer", "random", "progress")
    POLICY = ("parameters",)

    def __init__(
        self,
        config: Config,
        seeds: int,
        seed: int = 0,
        payoff: Tensor = PRISONERS,
        make_optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer] | None = None,
    ) -> None:
        self.config, self.payoff = config, payoff.double()
        self.random = torch.Generator().manual_seed(seed)
        width = config.hidden
        shapes = [(STATES, width), (width,), (width,), ()] if width else [(STATES,)]
        # As torch initialises layers: uniform within one over the root of the inputs.
        bounds = [STATES**-0.5] * 2 + [max(width, 1) ** -0.5] * 2 if width else [0.0]
        self.parameters = [
            (
                (torch.rand(seeds, *shape, generator=self.random, dtype=torch.float64) * 2 - 1)
                * bound
            ).requires_grad_()
            for shape, bound in zip(shapes, bounds, strict=True)
        ]
        make_config: Any = optim.config_class("adam")
        usual = partial(optim.make, make_config(lr=1e-2))
        self.optimizer = (make_optimizer or usual)(self.parameters)
        self.progress = Count()

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.random, dtype=torch.float64)

    def logits(self) -> Tensor:
        """(S, 5) of action A in each state."""
        if not self.config.hidden:
            return self.parameters[0]
        first, bias, second, offset = self.parameters
        hidden = (first + bias[:, None]).tanh()  # states are one-hot: rows of the first layer
        return torch.einsum("skh,sh->sk", hidden, second) + offset[:, None]

    def iterate(self) -> Tensor:
        """One update; the mean value (S,) of the agents against the detective."""
        config, logits = self.config, self.logits()
        play = self.payoff, config.rounds, config.trees, self.random
        trees = search(logits.detach().sigmoid(), *play)
        self.progress.steps += config.trees * (2**config.rounds - 1)
        objective = tree_objective(logits, trees.values[0], trees.counts)
        if config.self_play:
            objective = objective + config.self_play * shared_objective(logits, *play)
            self.progress.steps += config.trees * config.rounds
        self.optimizer.zero_grad()
        (-objective.sum()).backward()
        self.optimizer.step()
        return trees.values[0].mean(1)


class TreeSearchBRS:
    """`TreeSearchLearner` on the 2×2 game behind an environment: few rounds, no discount."""

    STATE = ("learner",)
    POLICY = ("learner",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.setup, self.timers = setup, setup.timers
        require(not setup.compile, "compile=True: brs-ipd is not compiled")
        require(setup.device.type == "cpu", f"device={setup.device}: brs-ipd runs on the cpu")
        game = matrix_game_behind(setup.envs)
        _check(game, config)
        self.config = replace(config, rounds=game.horizon or config.rounds)
        self.learner = TreeSearchLearner(
            self.config, config.agents, setup.seed, game.payoff, setup.make_optimizer
        )
        self.progress = self.learner.progress

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One update; the mean return against the detective."""
        with self.timers("learn"):
            values = self.learner.iterate()
        return {"return": values.mean(), "best_return": values.max()}

    def policy(self, deterministic: bool = True) -> Policy:
        """How the first agent plays."""
        own = None if deterministic else generator(self.setup.seed, 3)
        return memory_one(self.learner.logits().detach()[0].sigmoid(), own)


def _check(game: MatrixGame, config: Config) -> None:
    """Refuse games that the search cannot solve."""
    require(game.horizon <= 8, f"horizon={game.horizon}: must be ≤ 8 for brs-ipd's trees")
    is_integer = bool((game.payoff == game.payoff.round()).all())
    payoff = game.payoff.tolist()
    require(is_integer, f"payoff={payoff}: must be integers for brs-ipd, which tells ties")
    alike = game.symmetric or not config.self_play
    require(alike, f"self_play={config.self_play}: needs a game that is alike from both seats")
