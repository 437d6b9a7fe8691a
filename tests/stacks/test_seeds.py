"""`--seeds K`: run folders like any other, resumed together or alone, whatever ended them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import semigradient
from semigradient import evaluate
from semigradient.commands import train
from semigradient.errors import UserError
from semigradient.stacks.stack import Stack
from semigradient.training import checkpoint
from support.commands import QUIET
from support.processes import Forked
from support.runs import assert_same_run, final

_USUAL = (
    "--seeds 3 --seed 5 --steps 2048 --num-envs 4 --rollout-steps 32 --hidden 16 "
    "--eval-episodes 2 --eval-every 1024 --log-every 256 --checkpoint-every 512"
)
CASES = {
    "ppo": f"--agent ppo --env CartPole-v1 {_USUAL} --batch-size 64 --epochs 3",
    "ppo-pendulum": f"--agent ppo --env Pendulum-v1 {_USUAL} --batch-size 32 --epochs 2 "
    "--normalise-observations --normalise-rewards",
    "a2c": f"--agent a2c --env CartPole-v1 {_USUAL} --optim rmsprop",
}
WHOLE_EPISODES = (
    "--agent reinforce --env CartPole-v1 --seeds 3 --seed 5 --steps 1500 --num-envs 2 --hidden 16 "
    "--eval-episodes 2 --eval-every 700 --log-every 200 --checkpoint-every 400"
)
SEEDS = (5, 6, 7)


def run(*words: object) -> int:
    return train([*map(str, words), *QUIET])


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())  # type: ignore[no-any-return]


def victim(words: list[str]) -> int:
    """Train, and end as in a power failure when the first seed, alone, has saved the nth time."""
    save, count = checkpoint.save, 0
    nth, *words = words

    def saving(folder: Path, *rest: Any, **options: Any) -> Path:
        nonlocal count
        path = save(folder, *rest, **options)
        count += folder.parts[-2:] == ("seed-5", "checkpoints")
        if count == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    checkpoint.save = saving
    return train(words)


@pytest.mark.parametrize("name", CASES)
def test_killed_seeds_go_on_as_if_they_had_not_been(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*CASES[name].split(), "--run-dir", whole) == 0
    process = Forked(victim, 3, *CASES[name].split(), "--run-dir", broken, *QUIET)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    process.end()
    left = [checkpoint.load(broken / f"seed-{s}/checkpoints", None).step for s in SEEDS]
    assert left[0] > left[1] == left[2] > 0

    assert run("--resume", broken) == 0
    assert f"resumed at step {left[1]}" in capsys.readouterr().out
    for seed in SEEDS:
        assert_same_run(whole / f"seed-{seed}", broken / f"seed-{seed}")


def test_seeds_with_steps_of_their_own_go_on_together(tmp_path: Path) -> None:
    words = WHOLE_EPISODES.split()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*words, "--run-dir", whole) == 0
    steps = [status(whole / f"seed-{seed}")["steps"] for seed in SEEDS]
    assert len(set(steps)) > 1
    assert min(steps) >= 1500
    process = Forked(victim, 3, *words, "--run-dir", broken, *QUIET)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    process.end()
    assert run("--resume", broken) == 0
    for seed in SEEDS:
        assert_same_run(whole / f"seed-{seed}", broken / f"seed-{seed}")


def test_seeds_that_were_killed_before_all_had_saved_start_afresh(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*CASES["a2c"].split(), "--run-dir", whole) == 0
    process = Forked(victim, 1, *CASES["a2c"].split(), "--run-dir", broken, *QUIET)
    process.communicate()
    process.end()
    assert checkpoint.intact(broken / "seed-5/checkpoints")
    assert not checkpoint.intact(broken / "seed-6/checkpoints")
    assert run("--resume", broken) == 0
    for seed in SEEDS:
        assert_same_run(whole / f"seed-{seed}", broken / f"seed-{seed}")


def test_a_seed_is_a_run_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    assert run(*CASES["ppo"].split(), "--run-dir", folder) == 0
    one = folder / "seed-6"
    assert semigradient.load(one).command.run.seed == 6
    assert status(one)["phases"] == status(folder / "seed-5")["phases"]
    assert {"learn", "environment", "act"} <= status(one)["phases"].keys()
    assert evaluate.main([str(one), "--episodes", "3"]) == 0
    assert run("--resume", one, "--steps", 3000) == 0
    assert status(one)["steps"] >= 3000
    capsys.readouterr()
    with pytest.raises(SystemExit):  # nothing of what any of them has is thrown away
        run("--resume", folder, "--steps", 4000)
    assert "seed-5 at 2048, seed-6 at 3072, seed-7 at 2048" in capsys.readouterr().err
    for seed in (5, 7):
        assert run("--resume", folder / f"seed-{seed}", "--steps", 3000) == 0
    capsys.readouterr()
    assert run("--resume", folder, "--steps", 4000) == 0
    assert "resumed at step 3072" in capsys.readouterr().out
    assert [status(folder / f"seed-{seed}")["steps"] for seed in SEEDS] == [4096] * 3


def test_resuming_hashes_each_checkpoint_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, verify = tmp_path / "runs", checkpoint.verify
    assert run(*CASES["a2c"].split(), "--run-dir", folder, "--checkpoint-every", 256) == 0
    hashed: list[Path] = []
    monkeypatch.setattr(
        checkpoint, "verify", lambda path, of: (hashed.append(path), verify(path, of))
    )
    assert run("--resume", folder, "--steps", 2500) == 0
    newest = [path for path in hashed if path.parent.name == "checkpoints"]
    assert [path.parent.parent.name for path in newest] == [f"seed-{seed}" for seed in SEEDS]


def test_a_signal_saves_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*CASES["a2c"].split(), "--run-dir", whole) == 0
    after(monkeypatch, 4, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert run(*CASES["a2c"].split(), "--run-dir", broken) == 128 + signal.SIGTERM
    monkeypatch.undo()
    for seed in SEEDS:
        assert status(broken / f"seed-{seed}")["status"] == "interrupted"
        assert final(broken / f"seed-{seed}").step == 4 * 4 * 32
    assert run("--resume", broken) == 0
    for seed in SEEDS:
        assert_same_run(whole / f"seed-{seed}", broken / f"seed-{seed}")


def test_a_seed_that_fails_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*CASES["ppo"].split(), "--run-dir", whole) == 0

    def spoil(stack: Stack) -> None:
        with torch.no_grad():
            stack.members[1].network.critic[0].weight.fill_(torch.nan)

    after(monkeypatch, 5, spoil)
    assert run(*CASES["ppo"].split(), "--run-dir", broken) == 1
    assert "not a finite number" in capsys.readouterr().err
    assert [status(broken / f"seed-{s}")["status"] for s in SEEDS] == [
        "finished",
        "failed",
        "finished",
    ]
    for seed in (5, 7):
        assert_same_run(whole / f"seed-{seed}", broken / f"seed-{seed}")


def test_seeds_that_do_not_fit_together_end_as_failed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*CASES["a2c"].split(), "--run-dir", tmp_path / "runs") == 0

    def refuse(_: Any) -> Stack:
        raise UserError("seeds=3: the optimizers are at different steps")

    monkeypatch.setattr("semigradient.stacks.loop.Stack", refuse)
    assert run("--resume", tmp_path / "runs", "--steps", 3000) == 1
    assert "the optimizers are at different steps" in capsys.readouterr().err
    assert [status(tmp_path / "runs" / f"seed-{s}")["status"] for s in SEEDS] == ["failed"] * 3


def after(monkeypatch: pytest.MonkeyPatch, times: int, act: Any) -> None:
    """Do something when a stack has iterated so many times."""
    iterate, count = Stack.iterate, 0

    def iterating(stack: Stack) -> list[Mapping[str, Any]]:
        nonlocal count
        scalars, count = iterate(stack), count + 1
        if count == times:
            act(stack)
        return scalars

    monkeypatch.setattr(Stack, "iterate", iterating)


def test_auto_goes_on_with_the_newest_seeds_of_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*CASES["a2c"].split(), "--resume", "auto"]
    assert run(*words) == 0
    assert "resumed" not in capsys.readouterr().out
    assert run(*words) == 0
    assert "resumed at step 2048" in capsys.readouterr().out
    assert run(*[w if w != "3" else "2" for w in words]) == 0  # other seeds are other runs
    assert "resumed" not in capsys.readouterr().out
    names = sorted(folder.name.rsplit("-", 2)[0] for folder in Path("runs").iterdir())
    assert names == ["a2c-CartPole-v1-rmsprop-s5-6", "a2c-CartPole-v1-rmsprop-s5-7"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--agent ppo --env CartPole-v1 --seeds 1", "--seeds 1"),
        ("--agent ppo --env CartPole-v1 --seeds many", "--seeds many"),
        ("--agent ppo --env CartPole-v1 --seeds 2 --diagnose drift", "diagnose='drift'"),
        ("--agent ppo --env CartPole-v1 --seeds 2 --target-kl 0.1", "target_kl=0.1"),
        ("--agent dqn --env CartPole-v1 --seeds 2 --compile", "compile=True"),
        ("--agent soft-q --env CartPole-v1 --seeds 2", "SoftQ"),
        ("--agent a2c --env semigradient/Glimpse-v0 --seeds 2", "no stacked form"),
        ("--agent a2c --env CartPole-v1 --seeds 2 --optim oracle-momentum", "oracle"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_folder(
    words: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run(*words.split())
    errors = capsys.readouterr().err
    assert left.value.code == 2
    assert named.lower() in errors.lower()
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_of_seeds_is_not_taken_twice(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "runs"
    assert run(*CASES["a2c"].split(), "--run-dir", folder) == 0
    for words in ([*CASES["a2c"].split()], ["--agent", "a2c", "--env", "CartPole-v1"]):
        with pytest.raises(SystemExit):
            run(*words, "--run-dir", folder)
        assert "already holds runs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("--resume", folder, "--seeds", 3)
    assert "--seeds" in capsys.readouterr().err
    (folder / "seeds.json").write_text('{"seeds": [1, "x"]}')
    with pytest.raises(SystemExit):
        run("--resume", folder)
    assert "seeds.json" in capsys.readouterr().err


def test_python_trains_seeds_as_the_command_line_does(tmp_path: Path) -> None:
    assert run(*CASES["ppo"].split(), "--run-dir", tmp_path / "one") == 0
    options = {"seed": 5, "steps": 2048, "num_envs": 4, "rollout_steps": 32, "hidden": (16,)}
    options |= {"eval_episodes": 2, "eval_every": 1024, "log_every": 256, "checkpoint_every": 512}
    options |= {"batch_size": 64, "epochs": 3, "wandb": "disabled", "tensorboard": False}
    runs = semigradient.train_seeds(
        "ppo", "CartPole-v1", 3, run_dir=str(tmp_path / "two"), progress=False, **options
    )
    assert [run.command.run.seed for run in runs] == list(SEEDS)
    for seed in SEEDS:
        assert_same_run(tmp_path / "one" / f"seed-{seed}", tmp_path / "two" / f"seed-{seed}")
