"""What a run keeps: checkpoints by steps and by time, the newest policy, the best."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from semigradient import evaluate
from semigradient.commands import train
from semigradient.errors import UserError
from semigradient.training import checkpoint, loop, saving
from semigradient.training.evaluation import Scores
from semigradient.training.loaded_run import load_run
from support.commands import QUIET
from support.scripted_env import SMALL, Scripted, scripted
from support.states import differences

_CARTPOLE = (
    "--agent dqn --env CartPole-v1 --preset none --hidden 4 --learning-starts 8 --train-every 8 "
    "--batch-size 4 --buffer-size 64 --eval-episodes 2 --eval-every 16 --steps 96 "
    "--checkpoint-every 16 --optim.lr 0.01"
)
CARTPOLE = [*_CARTPOLE.split(), *QUIET]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    means = iter([3.0, 9.0, 5.0, 9.0, 2.0, 1.0])

    def scores(*_: object) -> Scores:
        return Scores(np.full(2, next(means)), np.full(2, 10))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "score", scores)
        assert train([*CARTPOLE, "--run-dir", str(folder)]) == 0
    return folder


def steps_of(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_the_best_policy_is_kept_beside_the_newest(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert steps_of(finished / "best") == [32]  # the first of those that are equally good
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["best"] == {"step": 32, "mean": 9.0}
    assert evaluate.main([str(finished), "--best", "--episodes", "1"]) == 0
    assert "after 32 steps" in capsys.readouterr().out
    assert load_run(finished, best=True).loaded.step == 32
    assert load_run(finished).loaded.step == 96


def test_as_many_checkpoints_are_kept_as_asked_for(finished: Path, tmp_path: Path) -> None:
    assert steps_of(finished / "checkpoints") == [80, 96]
    assert train([*CARTPOLE, "--keep", "4", "--run-dir", str(tmp_path / "run")]) == 0
    assert steps_of(tmp_path / "run" / "checkpoints") == [48, 64, 80, 96]


def test_time_alone_leads_to_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(saving.time, "monotonic", lambda: now)

    def script(env: Scripted) -> None:
        nonlocal now
        if not env.is_evaluated and env.steps in (20, 40):
            now += 31.0

    words = ["--checkpoint-every", "0", "--checkpoint-minutes", "1", "--keep", "9"]
    with scripted(script):
        assert train([*SMALL, *QUIET, *words, "--run-dir", str(tmp_path / "run")]) == 0
    early, last = steps_of(tmp_path / "run" / "checkpoints")
    assert 40 <= early <= 44
    assert last == 64


def damage(folder: Path) -> None:
    for path in folder.rglob("tensors.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [damage, shutil.rmtree])
def test_a_lost_policy_is_taken_from_the_checkpoint_and_written_again(
    harm: object, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    harm(folder / "policy")  # type: ignore[operator]
    assert evaluate.main([str(folder), "--episodes", "1"]) == 0
    assert "taken from the checkpoint of step 96" in capsys.readouterr().err
    policies = [checkpoint.load(run / "policy", None).state for run in (finished, folder)]
    assert differences(*policies) == []
    harm(folder / "policy")  # type: ignore[operator]
    assert train(["--resume", str(folder), *QUIET]) == 0
    assert checkpoint.load(folder / "policy", None).step == 96


def test_a_run_that_cannot_be_written_still_shows_its_score(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(evaluate, "write_json", refuse)
    assert evaluate.main([str(finished), "--episodes", "1"]) == 0
    printed = capsys.readouterr()
    assert "mean " in printed.out
    assert "warning" in printed.err
    assert "Read-only file system" in printed.err


def test_a_failure_leaves_its_traceback_in_the_folder_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(env: Scripted) -> None:
        if env.steps == 20:
            raise KeyError("two\nlines")

    with scripted(fail):
        assert train([*SMALL, *QUIET, "--run-dir", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError" in line
    trace = (tmp_path / "run" / "traceback.txt").read_text()
    assert "in fail" in trace
    assert "EnvironmentFailureError" in trace


def test_a_bug_in_an_agent_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from semigradient.agents.dqn import DQN

    monkeypatch.setattr(DQN, "iterate", lambda self: {}["missing"])
    assert train([*CARTPOLE, "--run-dir", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "failed: KeyError: 'missing'"
    assert "iterate" in (tmp_path / "run" / "traceback.txt").read_text()


def test_fields_that_are_newer_than_a_run_take_what_was_before(
    finished: Path, tmp_path: Path
) -> None:
    """As if the run had been made before `double` and `max_grad_norm` were there."""
    folder = shutil.copytree(finished, tmp_path / "run")
    without(folder, "double", "max_grad_norm")
    assert load_run(folder).evaluate(1).returns.tolist() == (
        load_run(finished).evaluate(1).returns.tolist()
    )
    assert train(["--resume", str(folder), "--steps", "112", *QUIET]) == 0
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("max_grad_norm = ", "max_grad_norm = 1"))
    with pytest.raises(UserError, match=r"checkpoint has agent\.max_grad_norm=.*, asked for"):
        load_run(folder)


def test_a_field_may_say_what_was_before_it(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from semigradient.training.command import originals

    @dataclasses.dataclass(frozen=True)
    class Config:
        rate: float = dataclasses.field(default=0.5, metadata={"before": 0.0})
        size: int = 3
        words: tuple[str, ...] = dataclasses.field(default_factory=tuple)

    assert originals(Config) == {"rate": 0.0, "size": 3, "words": ()}
    assert originals(Config, only_changed=True) == {"rate": 0.0}


def without(folder: Path, *names: str) -> None:
    """Take fields out of a run, out of its config and out of what its checkpoints say they are."""
    from semigradient.training.manifest import digest

    config = folder / "config.toml"
    lines = config.read_text().splitlines()
    config.write_text("\n".join(x for x in lines if x.split(" =")[0] not in names) + "\n")
    for path in folder.rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        manifest.pop("digest")
        for name in names:
            del manifest["identity"][f"agent.{name}"]
        path.write_text(json.dumps({**manifest, "digest": digest(manifest)}))


def test_a_part_that_a_checkpoint_lacks_is_one_line(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    loaded = checkpoint.load(folder / "policy", None)
    identity = load_run(folder).command.identity()
    checkpoint.save(folder / "policy", 96, {"policy": {"network": {}}}, identity)
    with pytest.raises(UserError, match=r"does not fit the agent .*Missing key"):
        load_run(folder)
    weights = {key: torch.ones(2, 2) for key in loaded.state["policy"]["network"]}
    for policy in ({"network": weights}, [], 3, {}, {"network": 3}):
        checkpoint.save(folder / "policy", 96, {"policy": policy}, identity)
        with pytest.raises(UserError, match="does not fit the agent"):
            load_run(folder)


def test_evaluating_while_a_run_is_trained_needs_no_lock(finished: Path) -> None:
    from semigradient.training.lock import RunLock

    with RunLock(finished):
        assert load_run(finished).evaluate(1).returns.shape == (1,)
    assert os.path.exists(finished / ".lock")
