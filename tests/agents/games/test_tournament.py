"""Learners head to head: rules and trained runs from one command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from semigradient.agents.games import tournament
from semigradient.agents.games.meva import MeVa
from semigradient.commands import train
from semigradient.domains.games.head_to_head import Contestant, contest, follower
from semigradient.domains.games.rules import rule
from semigradient.envs.games.matrix_games import MatrixGame
from semigradient.errors import UserError
from semigradient.training.build import build
from semigradient.training.cli import parse

TINY = "--width 8 --blocks 0 --quantiles 3 --batch-size 4 --trajectory 10 --models 2"


def meva(*flags: str, env: str = "semigradient/IPD-v0") -> MeVa:
    command = parse(["--agent", "meva", "--env", env, *TINY.split(), *flags]).command
    agent = build(command)
    assert isinstance(agent, MeVa)
    agent.iterate()
    return agent


def test_rules_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["naive", "lola", "--game", "chicken", "--alpha", "1", "--pairs", "8", "--updates", "3"]
    assert tournament.main(words) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["naive", "lola"]
    assert [row.split()[0] for row in rows] == ["naive", "lola"]


@pytest.mark.parametrize("opponent", ["naive", "self"])
def test_a_model_in_a_match_does_what_it_did_in_training(opponent: str) -> None:
    agent = meva("--opponent", opponent)
    x = agent.game.draw(5, torch.Generator().manual_seed(0))
    expected = agent.learn_policies(x.expand(2, -1, -1, -1), 3)[1]
    mine = agent.contestant(model=1)
    other = mine if opponent == "self" else follower(rule("naive", 0.0), 25.0)
    torch.testing.assert_close(contest(agent.game, (mine, other), x, 3), expected)
    # A symmetric game is the same from the second seat.
    swapped = contest(agent.game, (other, mine), x.flip(-2), 3)
    torch.testing.assert_close(swapped.flip(-2), expected)


def test_a_model_keeps_its_seat_where_seats_differ() -> None:
    agent = meva("--opponent", "naive", env="semigradient/MatchingPennies-v0")
    x = agent.game.draw(2, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="meva: was trained from the first seat alone"):
        contest(agent.game, (agent.contestant(), agent.contestant()), x, 1)


def test_runs_play_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "meva"
    words = ["--agent", "meva", "--env", "semigradient/IPD-v0", *TINY.split(), "--steps", "80"]
    train([*words, "--wandb", "disabled", "--run-dir", str(run), "--evaluation-updates", "2"])
    capsys.readouterr()
    assert tournament.main(["naive", str(run), "--pairs", "4", "--updates", "2"]) == 0
    table = capsys.readouterr().out
    assert re.search(
        rf"^naive( +-\d\.\d+){{2}}$\n^{re.escape(str(run))}( +-\d\.\d+){{2}}$", table, re.M
    )
    contestant = tournament.contestant(str(run), MatrixGame(), 25.0)
    assert isinstance(contestant, Contestant)
    with pytest.raises(UserError, match="was trained on another game, semigradient/IPD-v0"):
        tournament.trained(str(run), MatrixGame("chicken"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["naive", "--game", "go"], "unknown payoff 'go'"),
        (["nobody"], "unknown learning rule 'nobody'"),
        (["naive", "--pairs", "0"], "--pairs 0: must be ≥ 1"),
        (["naive", "--seed", "-1"], "--seed=-1: must be in [0, "),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        tournament.main(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_runs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    run = tmp_path / "rule"
    words = ["--agent", "naive", "--env", "semigradient/IPD-v0", "--steps", "1"]
    train([*words, "--wandb", "disabled", "--run-dir", str(run)])
    with pytest.raises(UserError, match="of naive: accepted are runs of meva, m-fos, m-maml"):
        tournament.trained(str(run), MatrixGame())
