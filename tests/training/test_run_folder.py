"""Run folders: made, named, refused, and lost."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from semigradient.commands import train
from semigradient.training import checkpoint, run
from semigradient.training.cli import parse
from semigradient.training.command import make_command
from support.commands import QUIET
from support.runs import assert_same_run
from support.scripted_env import SMALL, Scripted, scripted
from support.training import refused

_TINY = (
    "--agent dqn --env CartPole-v1 --steps 64 --eval-episodes 1 --checkpoint-every 32 --hidden 4 "
    "--learning-starts 8 --train-every 8 --gradient-steps 1 --batch-size 4 --buffer-size 64"
)
TINY = _TINY.split()


def test_runs_that_start_in_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.time, "strftime", lambda *_: "20260101-000000")
    command, provenance = make_command("dqn", "CartPole-v1"), run.provenance()
    monkeypatch.setattr(run, "provenance", lambda: provenance)
    barrier, made = threading.Barrier(8), []

    def start() -> None:
        barrier.wait()
        made.append(run.create(command, {}))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folders = {lock.folder for lock in made}
    assert len(folders) == 8
    assert all((folder / "config.toml").exists() for folder in folders)
    for lock in made:
        lock.release()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("a\0b", "a control character"),
        ("a\nb", "a control character"),
        ("a\x1b[31mb", "a control character"),
        ("a\x7fb", "a control character"),
        ("a\udcffb", "a byte that is not UTF-8"),
        ("x" * 300, "cannot be written (File name too long)"),
        ("/".join(["x" * 200] * 30), "cannot be written (File name too long)"),
    ],
)
def test_a_name_that_no_folder_can_have_is_one_line(
    name: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--run-dir", "--resume"):
        names = TINY if option == "--run-dir" else []
        line = refused(capsys, *names, option, str(tmp_path / name))
        assert word in line or "File name too long" in line, line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train([*TINY, *QUIET, "--run-dir", str(folder)]) == 0
    return folder


def test_a_resumed_run_stays_where_it_is_and_does_not_shrink(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "--resume", str(finished), "--run-dir", str(tmp_path / "other"))
    assert f"--run-dir {tmp_path / 'other'}: --resume {finished} continues where it is" in line
    line = refused(capsys, "--resume", str(finished), "--steps", "63")
    assert "steps=63: the run has already made 64 steps; accepted are as many or more" in line
    assert not (tmp_path / "other").exists()


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    early = tmp_path / "early"
    early.mkdir()
    shutil.copy(finished / "config.toml", early)
    (early / "metrics.jsonl").write_text('{"step": 8, "time": 1, "train/loss": 3}\n')
    line = refused(capsys, *TINY, "--run-dir", str(early))
    assert f"already holds a run; continue it with --resume {early}" in line
    assert train(["--resume", str(early), *QUIET]) == 0
    assert "no checkpoint was saved yet: starts at step 0" in capsys.readouterr().out
    assert_same_run(finished, early)


def test_the_same_command_works_again_where_even_the_config_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").write_text("torn")
    assert train([*TINY, *QUIET, "--run-dir", str(folder)]) == 0


def test_a_folder_that_is_deleted_ends_the_run_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"

    def delete(env: Scripted) -> None:
        if env.steps == 20:
            shutil.rmtree(folder)

    with scripted(delete):
        assert train([*SMALL, *QUIET, "--run-dir", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"run folder {folder} was deleted, moved or replaced during the run" in line
    assert not folder.exists()


def test_a_folder_that_is_moved_keeps_its_checkpoints_and_gets_no_twin(tmp_path: Path) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"

    def move(env: Scripted) -> None:
        if env.steps == 20 and folder.exists():
            folder.rename(moved)

    with scripted(move):
        assert train([*SMALL, *QUIET, "--run-dir", str(folder)]) == 1
        assert not folder.exists()
        assert train(["--resume", str(moved), *QUIET]) == 0
    assert checkpoint.load(moved / "checkpoints", None).step == 64


def test_what_was_printed_stands_in_the_folder(finished: Path) -> None:
    lines = (finished / "messages.txt").read_text().splitlines()
    words = ["dqn on CartPole-v1", "protocol: ", "finished: 64 steps"]
    assert all(word in line for word, line in zip(words, lines, strict=True))


def test_resuming_writes_down_what_it_went_on_with(finished: Path, tmp_path: Path) -> None:
    again = shutil.copytree(finished, tmp_path / "again")
    assert train(["--resume", str(again), *QUIET]) == 0
    first, second = (
        json.loads((folder / "provenance.json").read_text()) for folder in (finished, again)
    )
    (attempt,) = second.pop("resumed")
    assert second == first
    assert attempt["step"] == 64
    assert {"command", "commit", "versions", "hardware", "started"} <= attempt.keys()


@pytest.mark.parametrize("seed", ["-1", str(2**63 - 1), str(2**70)])
def test_seeds_beyond_64_bits_are_refused(
    seed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from semigradient import compare, evaluate
    from semigradient.agents.games import tournament

    line = refused(capsys, *TINY, "--seed", seed, "--run-dir", str(tmp_path / "run"))
    assert f"seed={seed}: must be " in line
    with pytest.raises(SystemExit):
        tournament.main(["naive", "naive", "--seed", seed])
    assert f"--seed={seed}: must be " in capsys.readouterr().err
    words = ["--agent", "dqn", "--env", "CartPole-v1", "--seed-list", seed]
    assert compare.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert f"seed={seed}: must be " in capsys.readouterr().err
    assert train([*TINY, *QUIET, "--run-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    if int(seed) != 2**63 - 1:  # evaluations add nothing to their own
        with pytest.raises(SystemExit):
            evaluate.main([str(tmp_path / "run"), "--seed", seed])
        assert f"seed={seed}: must be " in capsys.readouterr().err


def test_the_largest_seed_trains_and_evaluates(tmp_path: Path) -> None:
    from semigradient import evaluate

    seed, folder = str(2**63 - 1 - 2**32), str(tmp_path / "run")
    assert train([*TINY, *QUIET, "--seed", seed, "--run-dir", folder]) == 0
    assert evaluate.main([folder, "--episodes", "1"]) == 0


def test_settings_that_train_nothing_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "learning_starts=64: 64 steps, and the run has 64: nothing is learned"
    words = [*TINY, *QUIET, "--learning-starts", "64", "--run-dir", str(tmp_path / "a")]
    assert train(words) == 0
    assert f"warning: {names}" in capsys.readouterr().out
    line = refused(
        capsys, *TINY, "--n-step", "9", "--num-envs", "8", "--run-dir", str(tmp_path / "b")
    )
    assert "n_step=9: must be ≤ buffer_size / num_envs = 64 / 8 = 8" in line
    from semigradient.training.doubts import doubts

    command = parse([*TINY, "--learning-starts", "65", "--steps", "100"]).command
    (doubt,) = doubts(command)
    assert "learning_starts=65: more than buffer_size=64" in doubt
    physical = ["--agent", "dau", "--env", "semigradient/Pendulum-v0", "--steps", "40"]
    (doubt,) = doubts(parse([*physical, "--num-envs", "4", "--warm-up", "10"]).command)
    assert "warm_up=10: 40 steps, and the run has 40: nothing is learned" in doubt
