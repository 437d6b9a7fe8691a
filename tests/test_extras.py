"""What the README installs makes what the README names, or it says which extra does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import pytest

from semigradient import envs
from support.commands import ROOT

# Packages that extras bring, by the name of the module.
MODULES = {
    "rdkit": "molecules",
    "torch_geometric": "molecules",
    "music21": "music",
    "sklearn": "data",
    "scipy": "data",
    "Box2D": "box2d",
    "mujoco": "mujoco",
    "pettingzoo": "games",
    "ray": "ray",
    "cma": "world-models",
}


@pytest.fixture(scope="module")
def rows() -> dict[str, str]:
    """Short names of the README's environments, and the last column of their rows."""
    text = (ROOT / "README.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| `semigradient/")]
    found: dict[str, str] = {}
    for line in lines:
        ids, _, extra = (cell.strip() for cell in line.strip("|").split("|"))
        names = re.findall(r"`(?:semigradient/)?(\w+?)(?:-v0)?`", ids)
        found |= dict.fromkeys(names, extra)
    return found


def test_the_readme_names_every_environment(rows: dict[str, str]) -> None:
    ours = {*envs.OURS, *envs.REFINED, *envs.POSITION_ONLY, "semigradient/TimeStep-v0"}
    assert set(rows) == {name.removeprefix("semigradient/").removesuffix("-v0") for name in ours}


def test_an_environment_without_its_package_names_the_extra(rows: dict[str, str]) -> None:
    """In a process where no extra is installed."""
    code = (
        "import sys, json\n"
        f"sys.modules.update(dict.fromkeys({list(MODULES)}))\n"
        "from semigradient import envs\n"
        "failed = {}\n"
        "for name in [*envs.OURS, *envs.REFINED]:\n"
        "    try: envs.make_vector(name, 1, 0).reset()\n"
        "    except envs.UserError as problem: failed[name] = str(problem)\n"
        "print(json.dumps(failed))\n"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    failed = json.loads(run.stdout.splitlines()[-1])
    assert len(failed) > 5
    for name, message in failed.items():
        short = name.removeprefix("semigradient/").removesuffix("-v0")
        (extra,) = re.findall(r"pip install -c constraints\.txt -e '\.\[([\w-]+)\]'", message)
        assert f"`{extra}`" in rows[short], (name, message)


def test_the_readme_lists_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| extra | for |") :].split("\n\n")[0]
    listed = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.M))))
    assert listed == set(project["optional-dependencies"])
    assert set(MODULES.values()) <= listed


def test_every_install_message_is_of_one_form() -> None:
    """`pip install -c constraints.txt -e …`, for ours; peers of benchmarks are installed apart."""
    found = []
    paths = [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), *ROOT.rglob("*.py")]
    for path in paths:
        place = path.relative_to(ROOT).parts[0]
        if place in ("benchmarks", "tests"):
            continue
        for line in path.read_text().splitlines():
            wrong = "pip install" in line and "pip install -c constraints.txt -e" not in line
            if wrong and "pre-commit" not in line:
                found.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert found == []
