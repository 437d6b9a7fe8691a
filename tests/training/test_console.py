"""Output that nobody reads, or that cannot be written, stops nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from semigradient.commands import train
from semigradient.training.console import record
from support.commands import QUIET, ROOT
from support.scripted_env import SMALL, scripted

PRINTER = """
import os, sys
from semigradient.training.console import forgiving, say
with forgiving():
    for name in sys.argv[2:]:
        os.close(int(name))
    with open(sys.argv[1], "w") as file:
        for _ in range(3):
            say("é" * 10_000)
            print("x" * 100_000, file=sys.stderr)
            sys.stdout.flush()
        file.write("done")
"""


def printed(tmp_path: Path, code: str = PRINTER, **options: Any) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "file"], cwd=ROOT, **options)
    assert (tmp_path / "file").read_text() == "done"
    return done


def test_a_reader_that_went_away(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    assert printed(tmp_path, stdout=write, stderr=write).returncode == 0
    os.close(write)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        assert printed(tmp_path, stdout=full, stderr=full).returncode == 0


@pytest.mark.parametrize("closed", ["1", "2", "1 2", "0 1 2"])
def test_streams_that_are_closed_from_the_start(tmp_path: Path, closed: str) -> None:
    """A file of the run must not get the number of a closed stream, into which libraries print."""
    streams = " ".join(f"{number}>&-" for number in closed.split())
    command = f'exec "$0" -c "$1" "$2" {streams}'
    words = ["bash", "-c", command, sys.executable, PRINTER, str(tmp_path / "file")]
    assert subprocess.run(words, cwd=ROOT, capture_output=True).returncode == 0
    assert (tmp_path / "file").read_text() == "done"


def test_a_console_without_the_letters(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = printed(tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0
    assert b"\\xe9" * 10_000 in done.stdout


class Broken:
    """A stream whose reader went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError("no descriptor")


def test_training_goes_on_when_nobody_reads_even_what_an_environment_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "stderr", Broken())
    with scripted(lambda env: print("step", env.steps)):
        code = train([*SMALL, *QUIET[:-1], "--run-dir", str(tmp_path / "run")])
    assert code == 0
    assert "finished: 64 steps" in (tmp_path / "run" / "messages.txt").read_text()


def test_messages_are_appended_and_take_any_text(tmp_path: Path) -> None:
    record(tmp_path, "first → é")
    record(tmp_path, "second \udcff")
    first, second = (tmp_path / "messages.txt").read_text(encoding="utf-8").splitlines()
    assert first.endswith("  first → é")
    assert second.endswith("second \\udcff")
    record(tmp_path / "missing", "nothing happens")


def test_every_text_file_is_opened_with_its_encoding() -> None:
    """In a C locale, or on another system, the default is not UTF-8."""
    import ast

    bare = []
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).parts[0]
        if place in ("tests",) or place.startswith((".", "build")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node):
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert bare == []


def _opens_text(call: Any) -> bool:
    """Whether a call opens, reads or writes a text file without naming its encoding."""
    import ast

    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return isinstance(call.func, ast.Attribute) and len(call.args) == 1
    if name in ("Popen", "run", "check_output"):
        return "text" in keywords
    if isinstance(call.func, ast.Attribute):
        first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
        return name == "open" and first in ("r", "w", "a", "x", "r+", "w+")
    if name != "open":
        return False
    modes = [arg.value for arg in call.args[1:2] if isinstance(arg, ast.Constant)]
    modes += [k.value.value for k in call.keywords if k.arg == "mode" and hasattr(k.value, "value")]
    return "b" not in str(modes[0] if modes else "r")
