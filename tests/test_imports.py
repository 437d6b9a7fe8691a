"""Imports point downwards only, without circles, and a light import stays light."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from support.commands import ROOT

SCRIPTS = {"train", "evaluate", "compare", "reproduce", "commands"}
_SHARED = ("train", "commands")

_BASE = {"errors", "registry", "validate"}
_BRICKS = {*_BASE, "optim", "gradients", "nets"}
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "registry": {"errors"},
    "validate": {"errors"},
    "optim": _BASE,
    "gradients": _BASE,
    "nets": _BASE,
    "envs": _BASE,
    "training": {*_BRICKS, "envs"},
    "domains": {*_BRICKS, "envs", "training"},
    "diagnostics": {*_BRICKS, "envs", "training"},
    "agents": {*_BRICKS, "envs", "training", "domains", "diagnostics"},
    "experiments": {*_BRICKS, "envs", "training"},
}
BELOW["stacks"] = {*_BRICKS, "envs", "training"}
BELOW["experiments"] = {*BELOW["stacks"], "stacks"}
BELOW["api"] = {*BELOW} - {"experiments"}
BELOW["reproductions"] = {*BELOW}
BELOW["benchmarks"] = {*BELOW, *SCRIPTS}
SINGLE = {*_BASE, "api"}
FOLDERS = set(BELOW) - SINGLE
# These two stand above everything: the package itself, and what families bring by name.
TOP = {"__init__", "families"}

# The registry of agents, `agents/__init__.py`, turns a name into a class. These look names up in
# it; no agent's own module may be named anywhere below.
REGISTRY_READERS = {
    "training/cli.py",
    "training/command.py",
    "training/config_files.py",
    "training/build.py",
    "experiments/comparison.py",
}

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
    "stable_baselines3",
    "tensorboard",
    "matplotlib",
)


def sources() -> list[Path]:
    scripts = [ROOT / f"{name}.py" for name in (*SINGLE, *SCRIPTS)]
    return sorted(scripts + [path for name in FOLDERS for path in (ROOT / name).rglob("*.py")])


def module_of(path: str) -> str:
    """agents/dqn.py → agents.dqn, agents/__init__.py → agents."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(str(path.relative_to(ROOT))) for path in sources()}


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted name) of every import of ours, those inside functions included.

    `from package import name` counts as `package.name`, since `name` may be a module.
    """
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    mark = "semigradient."
    return [(line, name.removeprefix(mark)) for line, name in found if name.startswith(mark)]


def named(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted name) of every module of ours that a string names for importing."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = re.findall(r"\bsemigradient\.([a-z_0-9.]+)", node.value)
            found += [(node.lineno, name) for name in names]
    return found


def without_docstrings(code: str) -> ast.AST:
    """The tree of a module, documentation strings replaced by nothing."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            for statement in body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    statement.value = ast.Constant(None)
    return tree


def violations(path: str, code: str) -> list[str]:
    """Modules that `code`, standing at `path`, imports or names although they are above it."""
    place = path.split("/")[0].removesuffix(".py")
    tree = without_docstrings(code)
    uses = [(line, name, "imports") for line, name in imported(tree)]
    uses += [(line, name, "names") for line, name in named(tree)]
    found = []
    for line, name, verb in uses:
        top = name.split(".")[0]
        if place in SCRIPTS:
            # The console script names the others; of those, train.py is its first command.
            is_above = top in SCRIPTS and place != "commands" and (place, top) != _SHARED
        else:
            is_above = top in {*BELOW, *SCRIPTS, *TOP} and top not in BELOW[place] | {place}
        if is_above and not (path in REGISTRY_READERS and name == "agents"):
            found.append(f"{path}:{line} {verb} {name}")
    return found


def used(path: str, code: str) -> set[str]:
    """Modules of ours that a file imports anywhere: in functions and for types, too."""
    names = [name for _, name in imported(ast.parse(code))]
    modules = {name if name in MODULES else name.rpartition(".")[0] for name in names}
    return (modules & MODULES) - {module_of(path)}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of a graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in sources()])
def test_imports_and_names_point_downwards(path: str) -> None:
    assert violations(path, (ROOT / path).read_text()) == []


def test_no_modules_use_each_other_in_a_circle() -> None:
    """An import inside a function, or for types alone, closes a circle as well."""
    paths = [str(path.relative_to(ROOT)) for path in sources()]
    graph = {module_of(p): used(p, (ROOT / p).read_text()) for p in paths}
    assert circle(graph) == []


@pytest.mark.parametrize(
    "code",
    [
        "from semigradient.envs import vector",
        "def f():\n    from semigradient.envs.vector import ExactVector",
        "if TYPE_CHECKING:\n    from semigradient.envs.vector import ExactVector",
    ],
)
def test_every_import_counts_for_a_circle(code: str) -> None:
    assert used("envs/clock.py", code) == {"envs.vector"}


def test_no_families_use_each_other_in_a_circle() -> None:
    """Rooms of one folder, such as envs/music and envs/games, even through functions."""
    graph: dict[str, set[str]] = {}
    for path in sources():
        parts = path.relative_to(ROOT).parts
        if len(parts) < 3:
            continue
        room = ".".join(parts[:2])
        for _, name in imported(ast.parse(path.read_text())):
            other = ".".join(name.split(".")[:2])
            if other != room and (ROOT / other.replace(".", "/")).is_dir():
                graph.setdefault(room, set()).add(other)
    assert circle(graph) == []


def test_no_files_of_optim_use_each_other_in_a_circle() -> None:
    """Even through functions; imports for types alone apart."""
    graph: dict[str, set[str]] = {}
    for path in sorted((ROOT / "optim").glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                node.body = [ast.Pass()]
        names = {name.rpartition(".")[0] for _, name in imported(tree)}
        names |= {name for _, name in imported(tree)}
        graph[f"optim.{path.stem}"] = {n for n in names if n in MODULES and n != "optim"}
    assert circle(graph) == []


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
    assert circle({"a": {"b"}, "b": {"c"}}) == []


def test_every_folder_of_the_rule_is_there_and_no_other() -> None:
    tracked = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("*/__init__.py")}
    assert tracked == FOLDERS
    files = {path.stem for path in ROOT.glob("*.py")}
    assert files == {*SINGLE, *SCRIPTS, *TOP}


def test_every_package_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for name in FOLDERS for path in (ROOT / name).rglob("*.py")}
    names = {".".join(("semigradient", *path.relative_to(ROOT).parts)) for path in folders}
    assert set(listed) == {"semigradient", *names}


@pytest.mark.parametrize("path", sorted(REGISTRY_READERS))
def test_every_exception_is_needed(path: str) -> None:
    modules = [module for _, module in imported(ast.parse((ROOT / path).read_text()))]
    assert "agents" in modules


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("envs/new.py", "from semigradient import training"),
        ("envs/new.py", "from semigradient.nets import mlp"),
        ("envs/new.py", "MAKER = 'semigradient.domains.music:make'"),
        ("optim/new.py", "def f():\n    from semigradient.agents import dqn"),
        ("nets/new.py", "from semigradient.training.agent import AgentContext"),
        ("gradients/new.py", "from semigradient.nets import mlp"),
        ("errors.py", "from semigradient import envs"),
        ("training/new.py", "from semigradient import agents"),
        ("training/new.py", "from semigradient.domains.music import gibbs"),
        ("training/new.py", "from semigradient.families import register"),
        ("training/cli.py", "from semigradient.agents.dqn import DQN"),
        ("training/build.py", "from semigradient.agents import ppo"),
        ("training/loop.py", "from semigradient import train"),
        ("training/loop.py", "from semigradient.diagnostics.attach import Attachment"),
        ("diagnostics/new.py", "from semigradient.agents.dqn import DQN"),
        ("agents/new.py", "from semigradient.benchmarks import throughput"),
        ("agents/new.py", "from semigradient.experiments import comparison_report"),
        ("reproductions/new.py", "from semigradient.benchmarks import throughput"),
        ("reproductions/new.py", "from semigradient import reproduce"),
        ("evaluate.py", "from semigradient.commands import train"),
        ("training/new.py", "from semigradient.api import load"),
    ],
)
def test_the_rule_sees_an_upward_edge(path: str, code: str) -> None:
    assert len(violations(path, code)) == 1


@pytest.mark.parametrize(
    "module",
    ["envs", "agents", "training.cli", "optim", "diagnostics", "reproductions", "experiments"],
)
def test_importing_loads_no_optional_package(module: str) -> None:
    loaded = loaded_by(f"semigradient.{module}")
    assert loaded.isdisjoint(OPTIONAL), sorted(loaded.intersection(OPTIONAL))


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = loaded_by("semigradient")
    assert loaded.isdisjoint({*OPTIONAL, "torch", "tyro", "rich"})


def loaded_by(module: str) -> set[str]:
    """Top-level packages in memory after importing one of our modules, from another folder."""
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300, check=True)
    return {name.split(".")[0] for name in json.loads(run.stdout)}
