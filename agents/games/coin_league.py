"""Matches between players of the coin game, and a best response trained against one of them.

    python -m semigradient.agents.games.coin_league runs/…  # a trained run, all rivals

The battery of T. Cooijmans' thesis, sections 5.5.2, 5.C and 5.F: always-defect, always-cooperate,
a tree search and a freshly trained player, both best responses to the agent, and the agent itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semigradient.agents.games.detective import (
    ACTIONS,
    BRSNetworks,
    NetworkPlayer,
    Questions,
    choose,
)
from semigradient.envs.games.coin_game import CoinGame
from semigradient.envs.games.coin_players import scripted
from semigradient.envs.games.coin_search import TreeSearch
from semigradient.envs.games.two_player import Player
from semigradient.errors import UserError
from semigradient.validate import Seed, conform

DISCOUNT = 0.96


@dataclass(frozen=True)
class MatchResult:
    """The result of some games; pairs are (first player, second player).

    Returns are sums over a game with their standard errors; the rest is per step.
    """

    games: int
    returns: tuple[float, float]
    standard_errors: tuple[float, float]
    discounted: tuple[float, float]
    per_step: tuple[float, float]
    own_pickups: tuple[float, float]
    adversarial_pickups: tuple[float, float]
    adversarial_share: tuple[float, float]


@torch.no_grad()
def play(
    game: CoinGame, first: Player, second: Player, games: int, random: torch.Generator
) -> MatchResult:
    """Play `games` games at once."""
    state = game.reset(games, random)
    memories = [torch.zeros(games, player.width, device=game.device) for player in (first, second)]
    picked = torch.zeros(3, 2, dtype=torch.float64, device=game.device)
    discounted = torch.zeros_like(state.score)
    for step in range(game.horizon):
        actions = []
        for seat, player in enumerate((first, second)):
            action, memories[seat] = player.act(state, seat, memories[seat], random)
            actions.append(action)
        state, reward, *_ = game.step(state, torch.stack(actions, 1), random)
        discounted += DISCOUNT**step * reward
        picked += F.one_hot(state.picked, 3).sum(0).T
    _, own, other = picked / (games * game.horizon)
    error = state.score.std(0) / games**0.5 if games > 1 else torch.zeros_like(own)
    columns = (
        state.score.mean(0),
        error,
        discounted.mean(0),
        state.score.mean(0) / game.horizon,
        own,
        other,
        other / (own + other).clamp(min=1e-12),
    )
    return MatchResult(games, *(_pair(column) for column in columns))


def _pair(column: Tensor) -> tuple[float, float]:
    one, two = column.tolist()
    return one, two


def train_against(
    game: CoinGame,
    opponent: Player,
    updates: int,
    random: torch.Generator,
    hidden: int = 32,
    games: int = 128,
    learning_rate: float = 3e-3,
    entropy: float = 0.01,
) -> NetworkPlayer:
    """A fresh GRU actor-critic, trained by policy gradients against a frozen opponent."""
    networks = BRSNetworks(game, hidden, Questions(1, 1, DISCOUNT, False))
    vector = networks.agent.initial(random)[None].to(game.device).requires_grad_()
    optimizer = torch.optim.Adam([vector], lr=learning_rate)
    for _ in range(updates):
        loss = _actor_critic_loss(networks, vector, opponent, games, entropy, random)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return NetworkPlayer(networks, vector[0])


def _actor_critic_loss(
    networks: BRSNetworks,
    vector: Tensor,
    opponent: Player,
    games: int,
    entropy: float,
    random: torch.Generator,
) -> Tensor:
    """Policy gradient of discounted Monte Carlo returns, value loss (Huber), entropy bonus."""
    game, weights = networks.game, networks.agent.weights(vector)
    state = game.reset(games, random)
    memory = torch.zeros(1, games, networks.agent.hidden, device=game.device)
    other = torch.zeros(games, opponent.width, device=game.device)
    rows = []
    for _ in range(game.horizon):
        outputs, memory = networks.agent(weights, game.observe(state)[None, :, 0], memory)
        action, log_prob, spread = choose(outputs[0, :, :ACTIONS], random)
        opponent_action, other = opponent.act(state, 1, other, random)
        state, reward, *_ = game.step(state, torch.stack((action, opponent_action), 1), random)
        rows.append((log_prob, outputs[0, :, ACTIONS], spread, reward[:, 0].float()))
    log_probs, values, spreads, rewards = (
        torch.stack(column) for column in zip(*rows, strict=True)
    )
    to_go, target = torch.zeros_like(rewards[0]), []
    for reward in rewards.flip(0):
        to_go = reward + DISCOUNT * to_go
        target.append(to_go)
    returns = torch.stack(target[::-1])
    advantage = returns - values.detach()
    policy = (advantage * log_probs).mean() + entropy * spreads.mean()
    return F.huber_loss(values, returns) - policy


def battery(
    game: CoinGame,
    agent: Player,
    games: int = 32,
    rollouts: int = 1000,
    updates: int = 3000,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, MatchResult]:
    """The agent against all opponents; 0 rollouts or updates leave that opponent out."""
    random = torch.Generator(game.device).manual_seed(seed)
    opponents: dict[str, Player] = {
        "always-defect": scripted(game, "always-defect"),
        "always-cooperate": scripted(game, "always-cooperate"),
    }
    if rollouts:
        opponents["tree-search"] = TreeSearch(game, agent, rollouts, min(8, rollouts))
    if updates:
        opponents["trained"] = train_against(game, agent, updates, random)
    opponents["itself"] = agent
    results = {}
    for name, opponent in opponents.items():
        results[name] = play(game, agent, opponent, games, random)
        say(line(name, results[name]))
    return results


HEADER = f"{'against':22s} {'return':>15s} {'its return':>15s}   takes the other's coin: agent, it"


def line(name: str, match: MatchResult) -> str:
    """A row of the table: returns with standard errors, and frequencies of defection."""
    (ours, theirs), (error, other_error) = match.returns, match.standard_errors
    shares = match.adversarial_share
    return (
        f"{name:22s} {ours:8.2f} ± {error:4.2f} {theirs:8.2f} ± {other_error:4.2f}   "
        f"{shares[0]:.2f} {shares[1]:.2f}"
    )


def load(player: str, trust: bool = False) -> tuple[CoinGame, Player]:
    """The game and the agent of a run folder; or a scripted player on the published board."""
    if not Path(player).is_dir():
        game = CoinGame()
        return game, scripted(game, player)
    from semigradient.agents.games.brs import BRS
    from semigradient.agents.games.exact_brs import ExactBRS
    from semigradient.training.loaded_run import load_run

    run = load_run(player, "cpu", trust)
    agent = run.agent
    if not isinstance(agent, BRS | ExactBRS):
        raise UserError(
            f"run {player!r} of {run.command.run.agent}: accepted are runs of brs, brs-sp, "
            "brs-exact, brs-sp-exact"
        )
    return agent.game, agent.player()


def main(argv: list[str]) -> int:
    """Play a trained run, or a scripted player, through the battery."""
    from semigradient.training.cli import fail

    parser = argparse.ArgumentParser(
        prog="semigradient.agents.games.coin_league", description=__doc__
    )
    parser.add_argument(
        "player",
        help="a run folder of brs, brs-sp, brs-exact or brs-sp-exact, or a scripted player",
    )
    parser.add_argument("--games", type=int, default=32)
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="also write a JSON file")
    parser.add_argument(
        "--trust", action="store_true", help="take code that the run's files name as module:Name"
    )
    chosen = parser.parse_args(argv)
    try:
        conform("--seed", chosen.seed, Seed)
        game, agent = load(chosen.player, chosen.trust)
    except UserError as problem:
        fail(problem, "semigradient.agents.games.coin_league")
    print(HEADER)
    results = battery(game, agent, chosen.games, chosen.rollouts, chosen.updates, chosen.seed)
    if chosen.out:
        content: dict[str, Any] = {name: asdict(match) for name, match in results.items()}
        Path(chosen.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
