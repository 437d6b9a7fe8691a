"""The wheel: one package, with its data, that works from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.commands import QUIET, ROOT

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
LEFT_OUT = ("*.png", "*.mid", "__pycache__", "build", "runs", "wandb", "tests", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout, built in a copy of it."""
    root = tmp_path_factory.mktemp("wheel")
    hidden = shutil.ignore_patterns(".*", *LEFT_OUT)
    shutil.copytree(ROOT, root / "source", ignore=hidden)
    command = [sys.executable, "-c", BUILD, str(root)]
    subprocess.run(command, cwd=root / "source", check=True, capture_output=True, timeout=120)
    (path,) = root.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    """What an installer would put on the path."""
    folder = wheel.parent / "site"
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)
    return folder


def test_it_holds_one_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        (metadata,) = (name for name in names if name.endswith("/entry_points.txt"))
        assert "semigradient = semigradient.commands:main" in content.read(metadata).decode()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"semigradient"}
    for pattern in (
        "presets/*.toml",
        "experiments/*.toml",
        "reproductions/catalogue/*.toml",
        "train.py",
        "agents/*.py",
    ):
        for path in ROOT.glob(pattern):
            assert f"semigradient/{path.relative_to(ROOT)}" in names
    # Whatever else is in its folders is code of ours.
    others = {Path(name).suffix for name in names if name.startswith("semigradient/")}
    assert others == {".py", ".toml"}


def test_it_trains_and_its_environments_are_found_from_another_folder(
    unpacked: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}

    def python(*words: str) -> str:
        run = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    code = (
        "import gymnasium\n"
        "made = gymnasium.make('semigradient:semigradient/CoinGame-v0')\n"
        "made.reset(seed=0)\n"
        "import semigradient\n"
        "print(semigradient.__file__)\n"
    )
    assert python("-c", code).strip() == str(unpacked / "semigradient" / "__init__.py")
    words = "train --agent ddqn --env CartPole-v1 --steps 400 --eval-episodes 2 --run-dir run"
    printed = python("-m", "semigradient.commands", *words.split(), *QUIET)
    assert "finished: 400 steps" in printed
    assert (tmp_path / "run" / "summary.json").exists()
