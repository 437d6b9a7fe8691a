"""Mutations applied to a copy of the checkout, and what the tests say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import cache_from_source
from pathlib import Path

from .lists import ROOT, Mutation

SECONDS = 300
"""Longest run of one mutation's tests; one that takes longer is not seen, whatever it breaks."""

FAILED = 1
"""Pytest's exit status where tests ran and some failed."""


def copy_checkout(folder: Path) -> Path:
    """The checkout's files under `folder`, as the package that they are; returns its root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    root = folder / "semigradient"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    return root


def check(root: Path, mutations: Sequence[Mutation]) -> Iterator[tuple[Mutation, str]]:
    """Each mutation with what is wrong with it: nothing where its tests fail, as they must.

    The tests must pass on the untouched copy: what fails anyway sees nothing.
    """
    tests = sorted({test for mutation in mutations for test in mutation.tests})
    status, output = _pytest(root, tests, seconds=SECONDS * 4)
    if status != 0:
        raise RuntimeError(f"the tests fail without any mutation:\n{output}")
    for mutation in mutations:
        yield mutation, _verdict(root, mutation)


def _verdict(root: Path, mutation: Mutation) -> str:
    path = root / mutation.file
    text = path.read_text()
    try:
        _write(path, mutation.source(root))
        status, output = _pytest(root, mutation.tests)
    finally:
        _write(path, text)
    if status == FAILED:
        return ""
    if status == 0:
        return f"not seen by {' '.join(mutation.tests)}"
    return f"pytest ended with status {status} instead of failing tests:\n{output}"


def _write(path: Path, text: str) -> None:
    """Write a source; bytecode is of a size and a second, which may be those of another text."""
    path.write_text(text)
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


def _pytest(root: Path, tests: Iterable[str], seconds: int = SECONDS) -> tuple[int, str]:
    words = ["-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--tb=short"]
    environment = {**os.environ, "PYTHONPATH": str(root.parent)}
    environment.pop("PYTEST_ADDOPTS", None)
    try:
        done = subprocess.run(
            [sys.executable, *words, *tests],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end within {seconds} s"
    return done.returncode, done.stdout[-3000:] + done.stderr[-1000:]
