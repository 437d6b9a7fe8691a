"""What README and docs name is there: modules, files, ids and command lines."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import gymnasium
import pytest

import semigradient
from semigradient.training.cli import parse
from support.commands import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHELL = re.compile(r"```\n(.*?)```", re.DOTALL)
FILE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)`")
MODULE = re.compile(r"`semigradient\.([a-z_.]+)(?:\.([A-Z]\w+))?`")
ID = re.compile(r"semigradient/[A-Z]\w+-v\d")
TRAIN = re.compile(r"^(?:python train\.py|semigradient train) (.*)$", re.MULTILINE)
PLACEHOLDERS = re.compile(r"<|RUN|AGENT|DIR|FILE|ENV|\.\.\.|…|runs/")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pages
def test_python_code_imports_what_is_there(page: Path) -> None:
    for code in PYTHON.findall(page.read_text()):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("semigradient"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(
                        f"{node.module}.{alias.name}"
                    )


@pages
def test_files_and_modules_are_there(page: Path) -> None:
    text = page.read_text()
    for name in FILE.findall(text):
        assert (ROOT / name).exists(), f"{page.name}: {name}"
    for module, name in MODULE.findall(text):
        try:
            assert not name or hasattr(importlib.import_module(f"semigradient.{module}"), name)
            importlib.import_module(f"semigradient.{module}")
        except ModuleNotFoundError:  # the last word may be a function
            parent, _, last = module.rpartition(".")
            assert hasattr(importlib.import_module(f"semigradient.{parent}".strip(".")), last), (
                module
            )


@pages
def test_ids_are_registered(page: Path) -> None:
    assert semigradient.envs
    for name in ID.findall(page.read_text()):
        assert name in gymnasium.registry, f"{page.name}: {name}"


@pages
def test_training_commands_are_accepted(page: Path, package: Path) -> None:
    for block in SHELL.findall(page.read_text()):
        for line in TRAIN.findall(block.replace("\\\n", " ")):
            words = shlex.split(line.split("  #")[0].split(" #")[0])
            if PLACEHOLDERS.search(line.split("#")[0]) or "--help" in words:
                continue
            parse(words)
