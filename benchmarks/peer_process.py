"""A peer of a benchmark in a Python of its own: asked in lines of text, it answers in JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from semigradient.errors import require


class PeerProcess:
    """A process that serves a script of this folder, once it has said that it is ready.

    Args:
        flag: of the command line that names the Python.
        python: path of an interpreter that has what the script needs.
        script: its file name.
        arguments: of the script.

    Raises:
        UserError: there is no such interpreter, or the process ends.
    """

    def __init__(self, flag: str, python: str, script: str, *arguments: object) -> None:
        self._flag, pipe = flag, subprocess.PIPE
        there = Path(python).exists()
        require(there, f"{flag} {python}: does not exist; accepted is a Python with the peer")
        command = [python, str(Path(__file__).with_name(script)), *map(str, arguments)]
        self._process: Any = subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8")
        self._answer()

    def ask(self, question: str) -> Any:
        """Its answer."""
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if line == "":
            self.close()
        require(line != "", f"{self._flag}: the process ended; see its message above")
        return json.loads(line)
