"""Imports point downwards only, and a light import stays light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {
    "errors",
    "envs",
    "games",
    "optim",
    "gradients",
    "nets",
    "training",
    "diagnostics",
    "agents",
    "benchmarks",
    "reproductions",
}
SCRIPTS = {"train", "evaluate", "compare", "reproduce"}

BELOW: dict[str, set[str]] = {
    "errors": set(),
    "envs": {"errors"},
    "games": {"envs", "nets", "errors"},
    "optim": {"errors"},
    "gradients": {"errors"},
    "nets": {"errors"},
    "training": {"envs", "optim", "gradients", "nets", "errors"},
    "diagnostics": {"training", "envs", "optim", "gradients", "nets", "errors"},
    "agents": {
        "training",
        "diagnostics",
        "games",
        "envs",
        "optim",
        "gradients",
        "nets",
        "errors",
    },
    "reproductions": OURS - {"benchmarks"},
    "benchmarks": OURS | SCRIPTS,
}

# The registry of agents, `agents/__init__.py`, turns a name into a class. These three look names
# up in it; no agent's own module may be named anywhere in `training`.
REGISTRY_READERS = {"training/cli.py", "training/build.py", "training/comparison.py"}

OPTIONAL = (
    "rdkit",
    "torch_geometric",
    "music21",
    "wandb",
    "mujoco",
    "sklearn",
    "scipy",
    "ale_py",
    "ray",
    "pettingzoo",
)


def sources() -> list[Path]:
    scripts = [ROOT / f"{name}.py" for name in ("errors", *SCRIPTS)]
    folders = [path for name in OURS - {"errors"} for path in (ROOT / name).rglob("*.py")]
    return sorted([path for path in scripts if path.exists()] + folders)


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted module) of every absolute import, those inside functions included.

    `from package import name` counts as `package.name`, since `name` may be a module.
    """
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def violations(path: str, code: str) -> list[str]:
    """Imports in `code`, standing at `path`, that point upwards."""
    place = path.split("/")[0].removesuffix(".py")
    if place in SCRIPTS:
        return [
            f"{path}:{line} imports {module}"
            for line, module in imported(ast.parse(code))
            if module.split(".")[0] in SCRIPTS
        ]
    allowed = BELOW[place] | {place}
    found = []
    for line, module in imported(ast.parse(code)):
        top = module.split(".")[0]
        if top not in OURS | SCRIPTS or top in allowed:
            continue
        if path in REGISTRY_READERS and module == "agents":
            continue
        found.append(f"{path}:{line} imports {module}")
    return found


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in sources()])
def test_imports_point_downwards(path: str) -> None:
    assert violations(path, (ROOT / path).read_text()) == []


def test_every_folder_of_the_rule_is_there() -> None:
    places = {str(path.relative_to(ROOT)).split("/")[0].removesuffix(".py") for path in sources()}
    assert places == OURS | SCRIPTS


@pytest.mark.parametrize("path", sorted(REGISTRY_READERS))
def test_every_exception_is_needed(path: str) -> None:
    modules = [module for _, module in imported(ast.parse((ROOT / path).read_text()))]
    assert "agents" in modules


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("envs/new.py", "import training"),
        ("envs/new.py", "from nets import mlp"),
        ("optim/new.py", "def f():\n    from agents import dqn"),
        ("nets/new.py", "from training.agent import Setup"),
        ("gradients/new.py", "from nets import mlp"),
        ("errors.py", "import envs"),
        ("training/new.py", "import agents"),
        ("training/cli.py", "from agents.dqn import DQN"),
        ("training/build.py", "from agents import ppo"),
        ("training/loop.py", "import train"),
        ("training/loop.py", "from diagnostics.attach import Attachment"),
        ("diagnostics/new.py", "from agents.dqn import DQN"),
        ("agents/new.py", "from benchmarks import throughput"),
        ("reproductions/new.py", "from benchmarks import throughput"),
        ("reproductions/new.py", "import reproduce"),
        ("evaluate.py", "from train import main"),
    ],
)
def test_the_rule_sees_an_upward_import(path: str, code: str) -> None:
    assert len(violations(path, code)) == 1


@pytest.mark.parametrize(
    "module", ["envs", "games", "agents", "training.cli", "optim", "diagnostics", "reproductions"]
)
def test_importing_loads_no_optional_package(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.split(".")[0] for name in json.loads(run.stdout)}
    assert loaded.isdisjoint(OPTIONAL), sorted(loaded.intersection(OPTIONAL))
