"""Learners head to head: learning rules by name, and trained learners by the folder of their run.

    python -m semigradient.agents.games.tournament naive lola runs/meva --game chicken --alpha 25

prints the mean final return of each row's player against each column's, after both have learned
from random starts. Runs of `meva`, `m-fos` and `m-maml` are players; of several models it is the
first that plays.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from semigradient.agents.games.m_fos import MFOS
from semigradient.agents.games.m_maml import MMAML
from semigradient.agents.games.meva import MeVa
from semigradient.domains.games.head_to_head import Contestant, follower, table
from semigradient.domains.games.rules import NAMES, rule
from semigradient.envs.games.differentiable import Game
from semigradient.envs.games.logistic import LogisticGame
from semigradient.envs.games.matrix_games import PAYOFFS, MatrixGame
from semigradient.errors import UserError, require
from semigradient.training.cli import fail
from semigradient.training.loaded_run import load_run
from semigradient.training.process import prepare
from semigradient.validate import Seed, conform


def trained(folder: str, game: Game, trust: bool = False) -> Contestant:
    """The learner of a run, which must have been trained on the same game."""
    run = load_run(folder, "cpu", trust)
    command, agent = run.command, run.agent
    if not isinstance(agent, (MeVa, MFOS, MMAML)):
        raise UserError(
            f"run {folder!r} of {command.run.agent}: accepted are runs of meva, m-fos, m-maml"
        )
    same = _returns(agent.game) == _returns(game)
    require(same, f"run {folder!r}: was trained on another game, {command.run.env}")
    return agent.contestant()


def _returns(game: Game) -> list[list[float]]:
    """Returns of some fixed policies, as a fingerprint of the game."""
    returns: list[list[float]] = game.value(game.draw(3, torch.Generator().manual_seed(0))).tolist()
    return returns


def contestant(player: str, game: Game, alpha: float, trust: bool = False) -> Contestant:
    """A rule by its name, or a run by its folder."""
    if Path(player).is_dir():
        return trained(player, game, trust)
    return follower(rule(player, alpha), alpha)


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "semigradient.agents.games.tournament",
        None,
        __doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("players", nargs="+", help=f"run folders, or rules: {', '.join(NAMES)}")
    add("--game", default="prisoners-dilemma", help=f"{', '.join(PAYOFFS)} or logistic")
    add("--alpha", type=float, default=25.0, help="step size of rules, also of imagined updates")
    add("--discount", type=float, default=0.96, help="of the repeated game")
    add("--pairs", type=int, default=2048, help="random starts")
    add("--updates", type=int, default=500, help="of both players at once")
    add("--seed", type=int, default=0, help="of the starts")
    text = "take code that the runs' files name as module:Name"
    add("--trust", action="store_true", help=text)
    chosen = parser.parse_args(argv)
    prepare(1)
    try:
        require(chosen.pairs >= 1, f"--pairs {chosen.pairs}: must be ≥ 1")
        require(chosen.updates >= 0, f"--updates {chosen.updates}: must be ≥ 0")
        conform("--seed", chosen.seed, Seed)
        logistic = chosen.game == "logistic"
        game = LogisticGame() if logistic else MatrixGame(chosen.game, chosen.discount)
        players = {
            name: contestant(name, game, chosen.alpha, chosen.trust) for name in chosen.players
        }
        returns = table(game, players, chosen.pairs, chosen.updates, chosen.seed)
    except UserError as problem:
        fail(problem, "semigradient.agents.games.tournament")
    width = max(map(len, players)) + 2
    print(" " * width + "".join(f"{name:>{width + 4}s}" for name in players))
    for first in players:
        cells = (returns[first, second] for second in players)
        print(f"{first:{width}s}" + "".join(f"{cell:{width + 4}.3f}" for cell in cells))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
