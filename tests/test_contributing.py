"""The examples of CONTRIBUTING.md are whole: they train, resume and do what they say."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
import torch

import semigradient
from semigradient import registry
from semigradient.commands import train
from semigradient.training import parts
from support.commands import QUIET, ROOT
from support.states import differences

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, re.DOTALL))
COMMANDS = re.findall(r"^python train\.py (.*)$", TEXT, re.MULTILINE)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The examples' modules, importable."""
    for name, code in FILES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in FILES:
        sys.modules.pop(name, None)
    gymnasium.registry.pop("Corridor-v0", None)
    registry.installed.cache_clear()


def command(part: str) -> list[str]:
    """The words of the only command that contains `part` and trains."""
    (line,) = [line for line in COMMANDS if part in line and "--help" not in line]
    return shlex.split(line)


@pytest.mark.usefixtures("examples")
def test_the_environment_is_learned_to_its_end(tmp_path: Path) -> None:
    words = [*command("corridor:"), "--eval-every", "0", "--run-dir", str(tmp_path / "run")]
    assert train([*words, *QUIET]) == 0
    run = semigradient.load(tmp_path / "run", trust=True)
    assert run.evaluate(10).returns.tolist() == [1.0] * 10
    assert set(run.evaluate(10).lengths.tolist()) == {7}


@pytest.mark.usefixtures("examples")
def test_the_environment_passes_gymnasiums_checker_and_has_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(gymnasium.make("corridor:Corridor-v0", length=5).unwrapped)
    with pytest.raises(SystemExit):
        train(["--env", "corridor:Corridor-v0", "--help"])
    assert "Cells. (≥ 1; default: 8)" in capsys.readouterr().out


@pytest.mark.usefixtures("examples")
def test_the_agent_solves_cartpole(tmp_path: Path) -> None:
    words = [*command("cross_entropy:"), "--eval-every", "0", "--run-dir", str(tmp_path / "run")]
    assert train([*words, *QUIET]) == 0
    run = semigradient.load(tmp_path / "run", trust=True)
    assert run.evaluate(10).returns.mean() > 400


@pytest.mark.usefixtures("examples")
def test_the_agent_continues_bit_for_bit() -> None:
    made = [
        semigradient.make_agent("cross_entropy:CrossEntropy", "CartPole-v1", seed=seed, num_envs=4)
        for seed in (0, 1)
    ]
    first, second = made
    for _ in range(400):
        first.iterate()
    parts.load(second, parts.state(first))
    for agent in made:
        for _ in range(400):
            agent.iterate()
    assert differences(parts.state(first), parts.state(second)) == []


@pytest.mark.usefixtures("examples")
def test_the_optimizer_takes_steps_of_one_size(tmp_path: Path) -> None:
    from sign_descent import Config  # type: ignore[import-not-found]

    value = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    optimizer = Config(lr=0.5).build([value])
    (value * torch.tensor([2.0, -1.0, 0.0])).sum().backward()
    optimizer.step()
    assert value.tolist() == [0.5, -1.5, 3.0]
    short = ["--steps", "400", "--eval-episodes", "1", "--run-dir", str(tmp_path / "run")]
    assert train([*command("sign_descent:"), *short, *QUIET]) == 0
