"""What learners make of scripted opponents, against best responses that are known exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from semigradient.envs import make_vector
from semigradient.envs.games.coin_game import CoinGame
from semigradient.envs.games.coin_players import Oracle, scripted
from semigradient.envs.games.matrix_games import STRATEGIES, MatrixGame
from semigradient.training.agent import Agent
from semigradient.training.build import build_for_process
from semigradient.training.cli import parse
from semigradient.training.evaluation import evaluate


def train(agent: str, env: str, *flags: str) -> Agent:
    words = ["--agent", agent, "--env", f"semigradient/{env}", "--threads", "1", *flags]
    command = parse(words).command
    learner = build_for_process(command)
    while learner.progress.steps < command.run.steps:
        learner.iterate()
    return learner


@pytest.mark.parametrize("agent", ["ppo", "dqn", pytest.param("sb3-ppo", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("opponent", "together"), [("tit-for-tat", (0, 0)), ("always-cooperate", (1, 0))]
)
def test_best_responses_in_the_prisoners_dilemma(
    agent: str, opponent: str, together: tuple[int, int]
) -> None:
    learner = train(agent, "IPD-v0", "--env-options", f"opponent={opponent}")
    actions = learner.policy(True)(np.eye(5, dtype=np.float32), None)
    # Against a policy of memory one nothing beats the best deterministic one of memory one.
    game, theirs = MatrixGame(), torch.tensor(STRATEGIES[opponent], dtype=torch.float64)

    def value(cooperates: tuple[int, ...] | list[int]) -> float:
        own = torch.tensor(cooperates, dtype=torch.float64)
        return float(game.value_of(torch.stack((own, theirs)))[0])

    best = max(value(policy) for policy in itertools.product((0, 1), repeat=5))
    assert value((1 - actions).tolist()) == pytest.approx(best)
    # What both do at first, and so for ever: cooperate, or exploit.
    assert (int(actions[0]), 0) == together


def in_the_coin_game(agent: str, *flags: str) -> float:
    """What `agent` earns against always-cooperate, as a share of the best response's 31.49."""
    met = {"opponent": "always-cooperate"}
    options = ("--env-options", "opponent=always-cooperate")
    learner = train(agent, "CoinGame-v0", *options, *flags)
    game = CoinGame()
    best = Oracle(game).best_response(scripted(game, met["opponent"])).values[0].item()
    envs = make_vector("semigradient/CoinGame-v0", 256, 12345, **met)
    scores = evaluate(learner.policy(True), envs, 512)
    return float(np.mean(scores.returns)) / best


def test_ppo_is_close_to_the_best_response_in_the_coin_game() -> None:
    assert in_the_coin_game("ppo", "--steps", "256000") > 0.93


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "sb3-ppo", "dqn"])
@pytest.mark.parametrize("seed", ["0", "1"])
def test_learners_find_the_best_response_in_the_coin_game(agent: str, seed: str) -> None:
    assert in_the_coin_game(agent, "--seed", seed) > 0.95
