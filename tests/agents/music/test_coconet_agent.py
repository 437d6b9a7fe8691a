"""Coconet as an agent: training, resuming, validation, evaluation and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semigradient.agents.music.coconet import Coconet
from semigradient.commands import train
from semigradient.domains.music import __main__ as music_command
from semigradient.domains.music import composing, framewise, piano_rolls, score_counts
from semigradient.envs import make_vector
from semigradient.envs.music import chorales
from semigradient.envs.music.chorale_completion import Completion
from semigradient.envs.music.chorales import Chorales
from semigradient.errors import UserError
from semigradient.nets.frame_nade import FrameNade
from semigradient.training.evaluation import evaluate as play
from support.commands import QUIET
from support.problems import build

ID = "semigradient/Chorales-v0"
TINY = {"channels": 6, "layers": 4, "batch_size": 4, "validate_every": 16, "validation_crops": 8}
QUARTERS = {"grid": 4, "steps": 8}
FLAGS = (
    "--channels 6 --layers 4 --batch-size 4 --validate-every 16 --validation-crops 8 "
    "--env-options grid=4 steps=8 --steps 80 --eval-every 40 --eval-episodes 4 --log-every 8 "
    "--checkpoint-every 40 --statistics-passes 1"
)


# The environment -------------------------------------------------------------------------------


def test_the_return_is_the_share_of_hidden_notes_guessed() -> None:
    envs = make_vector(ID, 6, 0, **QUARTERS, task="bridge", split="valid")
    obs, infos = envs.reset()
    assert (obs == 46).sum((1, 2)).tolist() == [16] * 6
    np.testing.assert_array_equal(infos["known"], obs < 46)
    truth = envs.state.pitches.numpy()
    np.testing.assert_array_equal(obs[obs < 46], truth[obs < 46])
    guess = truth.copy()
    guess[0] = 45 - guess[0]
    guess[1, :, 2:4] = 45 - guess[1, :, 2:4]
    _, rewards, terminated, _, _ = envs.step(guess)
    assert rewards.tolist() == [0, 0.5, 1, 1, 1, 1]
    assert terminated.all()


def test_gymnasium_makes_and_draws_it() -> None:
    import gymnasium

    env = gymnasium.make(ID, **QUARTERS)
    env.reset(seed=0, options={"task": "harmonize"})
    assert env.unwrapped.render() is None
    shown = gymnasium.make(ID, render_mode="rgb_array", **QUARTERS)
    shown.reset(seed=0)
    assert shown.render().shape == (444, 260, 3)  # with its axes


def test_wrong_options_are_named() -> None:
    for options, message in (
        ({"task": "harmony"}, "unknown task 'harmony'"),
        ({"steps": 2}, "steps=2: must be ≥ 4"),
        ({"steps": 4000}, "crops of 4000 steps: the longest piece has"),
        ({"rate": 2.0}, r"rate=2\.0: must be in \[0, 1\]"),
        ({"voices": 3}, "unknown option of semigradient/Chorales-v0 'voices'"),
    ):
        with pytest.raises(UserError, match=message):
            make_vector(ID, 1, 0, **{**QUARTERS, **options})
    with pytest.raises(UserError, match=r"CartPole-v1: coconet accepts semigradient/Chorales-v0"):
        build("coconet", "CartPole-v1", TINY)


# The agent -------------------------------------------------------------------------------------


def small(**config: Any) -> Coconet:
    agent = build("coconet", ID, {**TINY, "statistics_passes": 1, **config}, **QUARTERS)
    assert isinstance(agent, Coconet)
    return agent


def constant(core: Completion) -> None:
    """One piece that never moves: what there is to learn is learnt at once."""
    roll = np.repeat(np.array([[72], [67], [64], [48]], np.int8), 40, axis=1)
    core.pieces = Chorales((roll,), ("chord",), 4)


def test_it_begins_knowing_nothing_and_learns_a_chord() -> None:
    agent = small(schedule="constant", statistics_passes=40)
    constant(agent.core)
    first = float(agent.iterate()["loss"])
    assert first == pytest.approx(np.log(46), abs=0.4)
    losses = [float(agent.iterate()["loss"]) for _ in range(100)]
    assert np.mean(losses[-20:]) < 1.5  # where nothing is known, nothing tells it which chord
    agent.core.task, agent.core.rate = "inpaint", 0.8
    assert play(agent.policy(True), agent.setup.envs, 20).returns.mean() > 0.95


def test_the_rate_is_halved_where_validation_no_longer_improves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = small(patience=2)
    losses = iter([3.0, 2.0, 2.5, 2.5, 1.5, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(agent, "validation_loss", lambda: next(losses))
    rates = [float(agent.iterate()["lr"]) for _ in range(37)]
    # Sixteen crops are four iterations; a rate shows in the iteration after its validation.
    assert rates[15] == 0.01
    assert rates[16] == 0.005
    assert rates[27] == 0.005
    assert rates[28] == 0.0025
    assert rates[36] == 0.00125


def test_evaluation_uses_statistics_of_the_weights_alone() -> None:
    one, two = small(), small()
    for agent in (one, two):
        for _ in range(3):
            agent.iterate()
    for _ in range(2):  # whatever running averages have become
        two.network(*two._examples(two.generator))
    pitches, known = one._examples(torch.Generator().manual_seed(5))
    assert torch.equal(one.conditionals(pitches, known), two.conditionals(pitches, known))
    assert one.network.training
    assert one.validation_loss() == one.validation_loss()


def test_config_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="layers=3: must be ≥ 4"):
        small(layers=3)
    with pytest.raises(UserError, match="validate_every=0: schedule=plateau needs"):
        small(validate_every=0)


# Commands --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    arguments = ["--agent", "coconet", "--env", ID, *FLAGS.split(), *QUIET]
    assert train([*arguments, "--run-dir", str(folder)]) == 0
    return folder


def test_an_interrupted_run_ends_with_the_same_bytes(run: Path, tmp_path: Path) -> None:
    arguments = ["--agent", "coconet", "--env", ID, *FLAGS.split(), *QUIET]
    folder = tmp_path / "part"
    assert train([*arguments, "--run-dir", str(folder), "--steps", "80"]) == 0
    for step in sorted((folder / "checkpoints").iterdir())[1:]:
        for file in step.iterdir():
            file.unlink()
        step.rmdir()
    assert train(["--resume", str(folder), *QUIET]) == 0
    one, two = ((path / "checkpoints") for path in (run, folder))
    (name,) = [path.name for path in one.iterdir() if path.name.endswith("80")]
    tensors = "tensors.safetensors"
    assert (one / name / tensors).read_bytes() == (two / name / tensors).read_bytes()
    lines = [
        [{k: v for k, v in json.loads(line).items() if k != "time"} for line in text.splitlines()]
        for text in ((path / "metrics.jsonl").read_text() for path in (run, folder))
    ]
    assert lines[0] == lines[1]
    assert any("train/valid_loss" in line for line in lines[0])


def test_pieces_are_written_and_keep_what_is_given(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from semigradient.envs.music import midi

    tune = tmp_path / "tune.mid"
    roll = chorales.load("test").pieces[2][:, :64]
    midi.write(tune, roll)
    arguments = [str(run), "--render", "2", "--likelihood", "2"]
    arguments += ["--task", "harmonize", "--score", str(tune), "--gibbs-steps", "3"]
    assert music_command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "nats per frame" in printed
    report = json.loads((run / "music.json").read_text())
    names = [Path(piece).name for piece in report["pieces"]]
    assert {"tune-harmonize-0.mid", "tune-harmonize-1.png", "tune-harmonize-0-strip.png"} <= {
        *names
    }
    written = chorales.read_score(run / "pieces" / "tune-harmonize-1.mid")
    np.testing.assert_array_equal(written[0], np.repeat(roll[0, ::4], 4))
    nll = report["framewise_nll"]
    assert nll["pieces"] == 2
    assert 8 < nll["random"]["mean"] < 25


def test_other_runs_and_odd_numbers_are_refused(run: Path) -> None:
    with pytest.raises(UserError, match="accepted are runs of coconet"):
        composing.require_composer(object())
    with pytest.raises(SystemExit):
        music_command.main([str(run), "--render", "-1"])


def test_sound_where_a_player_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune, sound = tmp_path / "a.mid", tmp_path / "a.wav"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not piano_rolls.play(tune, sound)
    player = tmp_path / "timidity"
    player.write_text('#!/bin/sh\necho "$1 $2 $3" > "$4"\n')
    player.chmod(0o755)
    assert piano_rolls.play(tune, sound)
    assert sound.read_text() == f"{tune} -Ow -o\n"
    font = tmp_path / "font.sf2"
    font.touch()
    monkeypatch.setenv("SOUNDFONT", str(font))
    other = tmp_path / "fluidsynth"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    assert piano_rolls._players(tune, sound)[0][:3] == [str(other), "-ni", "-F"]
    sound.unlink()
    assert piano_rolls.play(tune, sound)  # the first fails, the second does it


# Yardsticks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "anchor"), [(4, 8.53), (2, 6.32), (1, 3.99)])
def test_counts_score_as_measured_elsewhere(grid: int, anchor: float) -> None:
    counts = score_counts.count(chorales.load("train", grid))
    test = chorales.load("test", grid)
    assert score_counts.frame_nll(counts, test, False) == pytest.approx(10.48, abs=0.015)
    assert score_counts.frame_nll(counts, test, True) == pytest.approx(anchor, abs=0.015)
    np.testing.assert_allclose(np.exp(counts.alone).sum(1), 1)
    np.testing.assert_allclose(np.exp(counts.after).sum(2), 1)


def test_the_chain_of_frames_sees_only_what_comes_before() -> None:
    torch.manual_seed(0)
    network = FrameNade(8, pitches=5)
    pitches = torch.randint(5, (2, 4, 6))
    log_probs = network(pitches)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 4, 6))
    for voice, frame in ((0, 3), (2, 1), (3, 5)):
        other = pitches.clone()
        other[:, voice, frame] = (other[:, voice, frame] + 1) % 5
        changed = (network(other) != log_probs).any(-1).any(0)
        assert not changed[:, :frame].any()
        assert changed[:, frame].tolist() == [i > voice for i in range(4)]
        assert changed[:, frame + 1 :].all()


def test_the_chain_scores_truth_exactly_and_draws_by_its_own_law() -> None:
    torch.manual_seed(0)
    network = FrameNade(8, pitches=3, voices=2).double()
    pitches = torch.randint(3, (1, 2, 4))
    exact = framewise.chosen(network(pitches), pitches)
    torch.testing.assert_close(framewise.chained(network, pitches, "truth"), exact.sum(1))
    many = pitches.expand(20_000, 2, 4)
    source = torch.Generator().manual_seed(0)
    drawn = framewise.chained(network, many, "sample", source).mean(0)
    past = network.past(pitches)
    first = network.voice(past, pitches, 0)[0]  # (T, P)
    second = torch.stack(
        [network.voice(past, torch.full_like(pitches, p), 1)[0] for p in range(3)], 1
    )  # (T, P first, P second)
    at = torch.arange(4)
    expected = first[at, pitches[0, 0]] + (first.exp() * second[at, :, pitches[0, 1]]).sum(1)
    torch.testing.assert_close(drawn, expected, atol=0.02, rtol=0)
