"""Peers in a Python of their own: command line, answers, errors, and the dynamics of CartPole."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from semigradient.benchmarks import jax_peer
from semigradient.benchmarks.peer_process import PeerProcess
from semigradient.errors import UserError


def interpreter(folder: Path, lines: str) -> str:
    """Path of a shell script that stands for a Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return str(path)


def test_questions_and_answers_are_lines(tmp_path: Path) -> None:
    told = tmp_path / "arguments"
    serve = 'while read -r line; do echo "{\\"asked\\": \\"$line\\"}"; done'
    python = interpreter(tmp_path, f"printf '%s\\n' \"$@\" > {told}\necho '\"ready\"'\n{serve}")
    peer = PeerProcess("--peer-python", python, "jax_peer.py", 3, '{"lr": 0.1}')
    assert peer.ask("0.5") == {"asked": "0.5"}
    assert peer.ask("2") == {"asked": "2"}
    peer.close()
    assert peer._process.returncode == 0
    assert told.read_text().splitlines() == [jax_peer.__file__, "3", '{"lr": 0.1}']


def test_a_python_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--peer-python .*absent: does not exist"):
        PeerProcess("--peer-python", str(tmp_path / "absent"), "jax_peer.py")


def test_a_python_without_jax_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    python = interpreter(tmp_path, f'exec {sys.executable} -I -S "$@"')  # no installed packages
    with pytest.raises(UserError, match="--peer-python: the process ended; see its message"):
        PeerProcess("--peer-python", python, "jax_peer.py", 1, json.dumps({}))
    assert "No module named 'jax'" in capfd.readouterr().err


def test_a_process_that_ends_later_is_an_error(tmp_path: Path) -> None:
    peer = PeerProcess("--peer-python", interpreter(tmp_path, "echo 1; read -r line"), "x.py")
    with pytest.raises(UserError, match="the process ended"):
        peer.ask("1.0")


def test_the_command_line_of_the_peer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Any] = []

    class Counted:
        def __init__(self, seeds: int, options: dict[str, Any]) -> None:
            made.append((seeds, options))

        def run(self, seconds: float) -> float:
            return 100 * seconds

    monkeypatch.setattr(jax_peer, "Peer", Counted)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: made.append(len(cores)))
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO("0.5\n2\n"))
    jax_peer.main(["4", '{"num_envs": 8}'])
    assert made == [1, (4, {"num_envs": 8})]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ["ready", 50, 200]


def test_the_dynamics_are_those_of_gymnasium() -> None:
    peer: Any = object.__new__(jax_peer.Peer)
    peer.np = np  # the rules use nothing that NumPy lacks
    env: Any = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    states = np.random.default_rng(0).uniform(-0.2, 0.2, (20, 4))
    actions = np.arange(20) % 2
    for state, action, later in zip(states, actions, peer._act(states, actions), strict=True):
        env.state = tuple(state)
        env.steps_beyond_terminated = None
        np.testing.assert_allclose(later, env.step(int(action))[0], rtol=1e-6, atol=1e-7)
