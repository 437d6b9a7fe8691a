"""What a run leaves behind when it is interrupted, goes wrong, or cannot write."""

from __future__ import annotations

import errno
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from semigradient.agents.dqn import DQN
from semigradient.commands import train
from semigradient.training import checkpoint
from support.commands import QUIET
from support.processes import Forked

_SETTINGS = (
    "--agent dqn --num-envs 2 --eval-episodes 1 --eval-every 0 --log-every 16 "
    "--checkpoint-every 64 --hidden 8 --learning-starts 16 --train-every 8 --gradient-steps 1 "
    "--batch-size 4 --buffer-size 256"
)
SETTINGS = _SETTINGS.split()
FAULTY = "Faulty-v0"


class Faulty(gymnasium.Env[np.ndarray, int]):
    """Episodes of ten steps; every copy goes wrong at its own 50th step as `mode` says."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, mode: str = "", render_mode: str | None = None) -> None:
        self.mode, self.taken = mode, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.taken += 1
        wrong = self.taken == 50
        if wrong and self.mode == "raise":
            raise ZeroDivisionError("the ball left the table")
        reward = np.nan if wrong and self.mode == "reward" else 1.0
        obs = np.full(2, np.inf if wrong and self.mode == "observation" else 0.5, np.float32)
        return obs, reward, self.taken % 10 == 0, False, {}


@pytest.fixture
def _faulty() -> Iterator[None]:
    gymnasium.register(FAULTY, entry_point=Faulty)
    yield
    del gymnasium.registry[FAULTY]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def run_here(folder: Path, *arguments: str) -> int:
    return train([*SETTINGS, *arguments, *QUIET, "--run-dir", str(folder)])


def wait_for_checkpoint(process: Forked, folder: Path) -> None:
    """Until there is one, however long this machine takes, or the process has ended."""
    while not list((folder / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_leaves_and_can_be_resumed(
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    start_train: Callable[..., Forked],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    endless = ("--env", "CartPole-v1", "--steps", "100000000", "--run-dir", folder)
    process = start_train(*SETTINGS, *endless)
    wait_for_checkpoint(process, folder)
    process.send_signal(number)
    _, errors = process.communicate()

    assert process.returncode == code
    left = summary(folder)
    assert left["status"] == "interrupted"
    assert left["message"] == (
        f"{number.name} at step {left['steps']}; continue with --resume {folder}"
    )
    assert errors == (
        f"{number.name}: saves after this iteration; another one leaves at once\n"
        f"interrupted: {left['message']}\n"
    )
    assert checkpoint.load(folder / "checkpoints", None).step == left["steps"]

    goal = left["steps"] + 64
    assert train(["--resume", str(folder), "--steps", str(goal), *QUIET]) == 0
    assert f"resumed at step {left['steps']}" in capsys.readouterr().out
    assert summary(folder)["status"] == "finished"
    assert checkpoint.load(folder / "checkpoints", None).step >= goal


@pytest.mark.usefixtures("_faulty")
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("raise", ["raised at step 98", "ZeroDivisionError: the ball left the table"]),
        ("reward", ["non-finite reward nan at step 98", "environment 0 of 2", "action"]),
        ("observation", ["non-finite observation", "at step 98", "environment 0 of 2"]),
    ],
)
def test_a_faulty_environment_ends_the_run_with_its_name(
    mode: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    code = run_here(folder, "--env", FAULTY, "--env-options", f"mode={mode}", "--steps", "400")
    assert code == 1
    left = summary(folder)
    assert left["status"] == "failed"
    fragments = [FAULTY, *words, "step-000000000064", f"--resume {folder}"]
    assert [word for word in fragments if word not in left["message"]] == [], left["message"]
    assert capsys.readouterr().err == f"failed: {left['message']}\n"
    assert checkpoint.load(folder / "checkpoints", None).step == 64
    trace = (folder / "traceback.txt").read_text()
    assert trace.startswith("Traceback")
    assert ("the ball left the table" in trace) == (mode == "raise")


def _break_parameter(agent: DQN) -> str:
    name, tensor = list(agent.network.named_parameters())[-1]
    with torch.no_grad():
        tensor[0] = torch.nan
    return name


def _break_gradient(agent: DQN) -> str:
    name, tensor = next(iter(agent.network.named_parameters()))
    tensor.grad = torch.full_like(tensor, torch.nan)
    agent.optimizer.step()
    return name


@pytest.mark.parametrize("how", [_break_parameter, _break_gradient])
def test_a_network_that_is_no_longer_finite_ends_the_run_with_the_tensor(
    how: Callable[[DQN], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    iterate = DQN.iterate
    broken: list[str] = []

    def breaking(agent: DQN) -> Any:
        scalars = iterate(agent)
        if agent.progress.steps == 80:
            broken.append(how(agent))
        return scalars

    monkeypatch.setattr(DQN, "iterate", breaking)
    assert run_here(folder, "--env", "CartPole-v1", "--steps", "400") == 1
    left = summary(folder)
    assert left["status"] == "failed"
    intact = folder / "checkpoints" / "step-000000000064"
    fragments = ["at step 80", broken[0], f"last good checkpoint: {intact}"]
    assert [word for word in fragments if word not in left["message"]] == [], left["message"]
    assert capsys.readouterr().err == f"failed: {left['message']}\n"
    loaded = checkpoint.load(folder / "checkpoints", None)
    assert loaded.path == intact
    assert all(tensor.isfinite().all() for tensor in loaded.state["agent"]["network"].values())


def test_a_full_disk_ends_the_run_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    write = checkpoint._write

    def full(path: Path, blocks: Any) -> dict[str, Any]:
        entry = write(path, blocks)
        if "step-000000000128" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return entry

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        code = run_here(folder, "--env", "CartPole-v1", "--steps", "192")
    assert code == 1
    left = summary(folder)
    assert left["status"] == "failed"
    assert "No space left on device" in left["message"]
    assert f"step-000000000064 with --resume {folder}" in left["message"]
    assert capsys.readouterr().err == f"failed: {left['message']}\n"
    kept = checkpoint.load(folder / "checkpoints", None)
    assert (kept.step, kept.skipped) == (64, [])

    assert train(["--resume", str(folder), *QUIET]) == 0
    assert summary(folder)["status"] == "finished"
    assert checkpoint.load(folder / "checkpoints", None).step == 192


def test_the_seconds_of_a_resumed_run_are_those_of_all_attempts(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run_here(folder, "--env", "CartPole-v1", "--steps", "64") == 0
    metrics = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert 0 < lines[-1]["time"] <= summary(folder)["seconds"]
    before = lines[-1]["time"] + 1000  # an evaluation, which is repeated
    assert "eval/mean" in lines[-1]
    lines[-1]["time"] = before
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    started = time.monotonic()
    assert train(["--resume", str(folder), "--steps", "128", *QUIET]) == 0
    total = summary(folder)["seconds"]
    assert before < total < before + time.monotonic() - started


def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    folder = file / "run"
    with pytest.raises(SystemExit) as leaving:
        run_here(folder, "--env", "CartPole-v1", "--steps", "64")
    assert leaving.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"run_dir={str(folder)!r}: cannot be written" in lines[0]
    assert file.read_text() == "in the way"
