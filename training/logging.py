"""Metrics: the local file and the sinks.

`metrics.jsonl` in the run folder is the record: complete, local, and the one place whose failure
stops a run. TensorBoard and Weights & Biases are optional: a sink that fails is named once on
stderr and dropped, and training continues.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from semigradient.errors import one_line, require, warn
from semigradient.training.console import record
from semigradient.training.run_files import open_plain
from semigradient.training.sinks import Sink

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsFile:
    """Appends JSON lines `{"step": …, "time": …, …}`; `time` (s) includes earlier attempts."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        self._started = time.monotonic() - _last_time(self.path)

    def _open(self) -> None:
        with open_plain(self.path, os.O_RDWR | os.O_CREAT) as file:
            _drop_torn_line(file)
        self._file = open_plain(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @property
    def seconds(self) -> float:
        """Seconds since the run began, those of earlier attempts included."""
        return time.monotonic() - self._started

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line, all of it or nothing."""
        line = {"step": int(step), "time": round(self.seconds, 3)}
        require(line.keys().isdisjoint(values), "'step' and 'time' are not names for a metric")
        line.update({key: _jsonable(_scalar(value)) for key, value in values.items()})
        data = memoryview(json.dumps(line, allow_nan=False).encode() + b"\n")
        end = self._file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise

    def truncate_after(self, step: int, without_evaluation: bool = False) -> None:
        """Drop the lines later than `step`, before resuming from there; their time is not undone.

        Args:
            step: the last one that is kept.
            without_evaluation: drop that step's evaluation too, which is about to be repeated.
        """
        self._file.close()
        temporary = self.path.with_name(f".{self.path.name}-{uuid.uuid4().hex[:12]}.tmp")
        try:
            with open(self.path, "rb") as old, open(temporary, "xb") as new:
                new.writelines(line for line in old if _is_kept(line, step, without_evaluation))
                new.flush()
                os.fsync(new.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
            self._open()

    def close(self) -> None:
        """Sync and close the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines; a torn last one, from a crash or a run still writing, is left out."""
    rows: list[dict[str, Any]] = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            row = _parse(line)
            require(row is not None, f"{path}: line {number} is damaged")
            assert row is not None
            rows.append(row)
    return rows


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line, or None for one that is torn or damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    return {k: _NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in row.items()}


def _is_kept(line: bytes, step: int, without_evaluation: bool) -> bool:
    row = _parse(line)
    if row is None:
        return False
    at = row.get("step", 0)
    if not isinstance(at, int) or at > step:
        return False
    is_repeated = without_evaluation and at == step
    return not (is_repeated and any(key.startswith("eval/") for key in row))


def _drop_torn_line(file: BinaryIO) -> None:
    """Cut an incomplete last line, to which the next one would be appended."""
    tail, end = b"", file.seek(0, os.SEEK_END)
    while end and b"\n" not in tail:
        start = max(0, end - 65536)
        file.seek(start)
        tail = file.read(end - start)
        end = start
    complete = end + tail.rfind(b"\n") + 1
    if complete < file.seek(0, os.SEEK_END):
        file.truncate(complete)


def _last_time(path: Path) -> float:
    last: dict[str, Any] | None = None
    with open(path, "rb") as file:
        for line in deque(file, maxlen=1):
            last = _parse(line)
    seconds = (last or {}).get("time", 0.0)
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _scalar(value: Any) -> Any:
    """Read 0-dim tensors and numpy scalars; synchronises with the device."""
    return value.item() if hasattr(value, "item") else value


def _jsonable(value: Any) -> Any:
    """Non-finite floats are no JSON; their names are."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Logger:
    """Sends metrics to the local file, which must work, and to sinks, which may fail."""

    def __init__(self, folder: Path, sinks: Sequence[Sink] = ()) -> None:
        self.folder = Path(folder)
        self.metrics = MetricsFile(self.folder / "metrics.jsonl")
        self._sinks = list(sinks)
        self._forward(lambda sink: sink.open())

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Log scalars (numbers or 0-dim tensors); an `OSError` of the local file propagates."""
        numbers = {key: _scalar(value) for key, value in values.items()}
        self.metrics.write(step, numbers)
        self._forward(lambda sink: sink.scalars(step, numbers))

    def image(self, step: int, path: Path, key: str) -> None:
        """Hand a picture to the sinks."""
        self._forward(lambda sink: sink.image(step, path, key))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Hand the summary of the run to the sinks."""
        numbers = {key: _scalar(value) for key, value in values.items()}
        self._forward(lambda sink: sink.summary(numbers))

    def truncate_after(self, step: int, without_evaluation: bool = False) -> None:
        """Forget everything later than `step`, before resuming from there."""
        self.metrics.truncate_after(step, without_evaluation)
        rows = read_metrics(self.metrics.path)
        self._forward(lambda sink: sink.truncate_after(step, rows))

    def close(self) -> None:
        """Close the sinks and the file."""
        self._forward(lambda sink: sink.close())
        self._sinks = []
        self.metrics.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forward(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                act(sink)
            except Exception as error:
                self._sinks.remove(sink)
                why = one_line(error, 200)
                text = f"{type(sink).__name__} failed and is off from here on ({why})"
                warn(text)
                record(self.folder, f"warning: {text}")
                with contextlib.suppress(Exception):
                    sink.close()
