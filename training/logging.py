"""Metrics, and everywhere they go.

`metrics.jsonl` in the run folder is the record: complete, local, and the one place whose failure
stops a run. TensorBoard and Weights & Biases are conveniences: a sink that fails is named once on
stderr and dropped, and training goes on.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import netrc
import os
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from errors import require, unknown

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_PREFLIGHT_SECONDS = 4.0  # to learn whether W&B answers at all
_INIT_SECONDS = 20.0
_FINISH_SECONDS = 60.0


def _warn(message: str) -> None:
    """Print one line; a closed stderr is no reason to stop training."""
    with contextlib.suppress(OSError, ValueError):
        print(f"warning: {message}", file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


# --- the local record ---------------------------------------------------------------------------


class MetricsFile:
    """Appends JSON lines `{"step": …, "time": …, …}`; `time` counts on over resumes, in seconds."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        _drop_torn_line(self.path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._started = time.monotonic() - _last_time(self.path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line, all of it or nothing."""
        line = {"step": int(step), "time": round(time.monotonic() - self._started, 3)}
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

    def truncate_after(self, step: int) -> None:
        """Drop the lines later than `step`, as a run does that resumes from there."""
        self._file.close()
        temporary = self.path.with_name(f".tmp-{self.path.name}")
        try:
            with open(self.path, "rb") as old, open(temporary, "wb") as new:
                new.writelines(line for line in old if _is_kept(line, step))
                new.flush()
                os.fsync(new.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
            self._open()

    def close(self) -> None:
        """Close the file, on disk for good."""
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
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    return {k: _NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in row.items()}


def _is_kept(line: bytes, step: int) -> bool:
    row = _parse(line)
    return row is not None and row.get("step", 0) <= step


def _drop_torn_line(path: Path) -> None:
    """Cut what follows the last newline: the next line would be glued to it."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
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
    """Read 0-dim tensors and numpy scalars; this is where a device is waited for."""
    return value.item() if hasattr(value, "item") else value


def _jsonable(value: Any) -> Any:
    """Non-finite floats are no JSON; their names are."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# --- sinks --------------------------------------------------------------------------------------


class Sink:
    """Somewhere else for metrics to go; whatever a subclass leaves out is ignored."""

    def open(self) -> None:
        """Start; called once before anything else, and free to fail."""

    def truncate_after(self, step: int) -> None:
        """Forget what is later than `step`, where that can be done."""

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Take the scalars of one step."""

    def video(self, step: int, path: Path, key: str) -> None:
        """Take a film."""

    def image(self, step: int, path: Path, key: str) -> None:
        """Take a picture."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Take what is said once about the whole run."""

    def close(self) -> None:
        """Finish within bounded time."""


class TensorBoardSink(Sink):
    """Writes event files, in this thread, so that an error shows up here and not in another."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None
        self._step = 0

    def open(self) -> None:
        """Create the event file."""
        if self._writer:
            return
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        self._writer = RecordWriter(open(self.folder / name, "xb"))  # noqa: SIM115
        self._event(0, file_version="brain.Event:2")

    def truncate_after(self, step: int) -> None:
        """Tell TensorBoard to hide the later points of earlier event files."""
        from tensorboard.compat.proto import event_pb2

        self.open()
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._event(step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the numbers; TensorBoard has no place for text among them."""
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._summary(step, [{"tag": k, "simple_value": float(v)} for k, v in numbers.items()])

    def video(self, step: int, path: Path, key: str) -> None:
        """Write a film as an animated picture, the only kind that TensorBoard plays."""
        self._picture(step, key, *_as_gif(Path(path)))

    def image(self, step: int, path: Path, key: str) -> None:
        """Write a picture file as it is."""
        import imageio.v3 as iio

        height, width = iio.improps(path).shape[:2]
        self._picture(step, key, Path(path).read_bytes(), height, width)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write the numbers below `summary/`, at the last step."""
        self.scalars(self._step, {f"summary/{key}": value for key, value in values.items()})

    def close(self) -> None:
        """Close the event file."""
        if self._writer:
            self._writer.close()

    def _picture(self, step: int, key: str, data: bytes, height: int, width: int) -> None:
        image = {"height": height, "width": width, "colorspace": 3, "encoded_image_string": data}
        self._summary(step, [{"tag": key, "image": image}])

    def _summary(self, step: int, values: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto import summary_pb2

        self.open()
        self._step = max(self._step, step)
        entries = [summary_pb2.Summary.Value(**value) for value in values]
        self._event(step, summary=summary_pb2.Summary(value=entries))

    def _event(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        event = event_pb2.Event(wall_time=time.time(), step=step, **content)
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def _as_gif(path: Path, frames: int = 100, side: int = 320) -> tuple[bytes, int, int]:
    """Return a film as GIF bytes, thinned out to a size that a browser takes; height, width."""
    import imageio.v3 as iio

    if path.suffix == ".gif":
        height, width = iio.improps(path, index=0).shape[:2]
        return path.read_bytes(), height, width
    meta = iio.immeta(path, plugin="FFMPEG")
    every = max(1, math.ceil(meta["fps"] * meta["duration"] / frames))
    small = max(1, math.ceil(max(meta["size"]) / side))
    film = iio.imiter(path, plugin="FFMPEG")
    kept = [f[::small, ::small].copy() for i, f in enumerate(film) if i % every == 0]
    milliseconds = 1000 * every / meta["fps"]
    data = iio.imwrite("<bytes>", kept, extension=".gif", duration=milliseconds, loop=0)
    assert isinstance(data, bytes)
    return data, kept[0].shape[0], kept[0].shape[1]


# --- Weights & Biases ---------------------------------------------------------------------------

_WANDB_MODES = ("auto", "online", "offline", "disabled")


def resolve_wandb_mode(mode: str) -> str:
    """Turn `auto` into `WANDB_MODE`, else online where a key is configured, else offline."""
    if mode not in _WANDB_MODES:
        unknown("W&B mode", mode, _WANDB_MODES)
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE", "")
    if asked in _WANDB_MODES[1:]:
        return asked
    return "online" if _has_wandb_key() else "offline"


def _wandb_url() -> str:
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def _has_wandb_key() -> bool:
    """Look for a key where `wandb login` leaves it, without the network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urllib.parse.urlsplit(_wandb_url()).netloc
    files = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for file in files[:1] if files[0] else files[1:]:
        with contextlib.suppress(OSError, netrc.NetrcParseError, ValueError):
            entry = netrc.netrc(os.path.expanduser(file or "")).hosts.get(host)
            if entry and entry[2]:
                return True
    return False


def _answers(url: str, seconds: float) -> bool:
    """Whether a server answers at all, with whatever status, within so many seconds."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
        except urllib.error.HTTPError as error:
            error.close()
        except Exception:
            return
        answered.set()

    # In a thread of its own: looking up a name cannot be given a time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


class WandbSink(Sink):
    """Logs to Weights & Biases; one run folder is one W&B run, however often it resumes."""

    def __init__(
        self,
        folder: Path,
        mode: str = "auto",
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.mode = resolve_wandb_mode(mode)
        self._options: dict[str, Any] = {"project": project, "entity": entity, "name": name}
        self._config = dict(config or {})
        self._run: Any = None

    def open(self) -> None:
        """Start the run; where W&B cannot be reached, start it offline and say so once."""
        if self._run or self.mode == "disabled":
            return
        # The settings of a run come too late for what W&B says while it logs in.
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        if self.mode == "online":
            reason = self._start_online()
            if reason is None:
                return
            _warn(f"W&B: {reason}; logging offline, `wandb sync` sends it later")
            self.mode = "offline"
        self._start("offline")

    def _start_online(self) -> str | None:
        """Return why it did not work."""
        if not _has_wandb_key():
            return "no API key is configured"
        if not _answers(_wandb_url(), _PREFLIGHT_SECONDS):
            return f"{_wandb_url()} does not answer"
        import wandb

        try:
            self._start("online")
        except Exception as error:
            wandb.teardown()  # else its service holds on to the run's id
            return _one_line(error)
        return None

    def _start(self, mode: Literal["online", "offline"]) -> None:
        import wandb

        wanted: dict[str, Any] = {
            "silent": True,
            "console": "off",
            "init_timeout": _INIT_SECONDS,
            "finish_timeout": _FINISH_SECONDS,
        }
        known = {k: v for k, v in wanted.items() if k in wandb.Settings.model_fields}
        self._run = wandb.init(
            dir=self.folder,
            mode=mode,
            id=self._run_id(),
            resume="allow" if mode == "online" else None,
            config=self._config,
            settings=wandb.Settings(**known),
            **self._options,
        )
        # W&B's own counter only goes up, and ignores what a resumed run repeats.
        self._run.define_metric("*", step_metric="step")

    def _run_id(self) -> str:
        """Return the id kept in the run folder; a copied folder's name may be taken."""
        file = self.folder / "wandb" / "run-id"
        if not file.exists() or not file.read_text().strip():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(uuid.uuid4().hex[:12])
        return file.read_text().strip()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the values beside their step."""
        self.open()
        if self._run:
            self._run.log({"step": step, **values})

    def video(self, step: int, path: Path, key: str) -> None:
        """Log a film file."""
        self._log_file(step, path, key, "Video")

    def image(self, step: int, path: Path, key: str) -> None:
        """Log a picture file."""
        self._log_file(step, path, key, "Image")

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the summary of the run."""
        self.open()
        if self._run:
            self._run.summary.update(dict(values))

    def close(self) -> None:
        """Finish the run; W&B gives up uploading after a while, and keeps the files."""
        if self._run:
            self._run.finish()

    def _log_file(self, step: int, path: Path, key: str, kind: str) -> None:
        self.open()
        if self._run:
            import wandb

            self._run.log({"step": step, key: getattr(wandb, kind)(str(path))})


# --- fan-out ------------------------------------------------------------------------------------


class Logger:
    """Sends metrics to the local file, which must work, and to sinks, which may fail."""

    def __init__(self, folder: Path, sinks: Sequence[Sink] = ()) -> None:
        self.folder = Path(folder)
        self.metrics = MetricsFile(self.folder / "metrics.jsonl")
        self._sinks = list(sinks)
        self._each(lambda sink: sink.open())

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Log scalars (numbers or 0-dim tensors); an `OSError` of the local file propagates."""
        plain = {key: _scalar(value) for key, value in values.items()}
        self.metrics.write(step, plain)
        self._each(lambda sink: sink.scalars(step, plain))

    def video(self, step: int, path: Path, key: str) -> None:
        """Hand a film that lies in the run folder to the sinks."""
        self._each(lambda sink: sink.video(step, path, key))

    def image(self, step: int, path: Path, key: str) -> None:
        """Hand a picture to the sinks."""
        self._each(lambda sink: sink.image(step, path, key))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Hand what is said once about the run to the sinks."""
        plain = {key: _scalar(value) for key, value in values.items()}
        self._each(lambda sink: sink.summary(plain))

    def truncate_after(self, step: int) -> None:
        """Forget everything later than `step`, before resuming from there."""
        self.metrics.truncate_after(step)
        self._each(lambda sink: sink.truncate_after(step))

    def close(self) -> None:
        """Close the sinks and the file."""
        self._each(lambda sink: sink.close())
        self._sinks = []
        self.metrics.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                act(sink)
            except Exception as error:
                self._sinks.remove(sink)
                _warn(f"{type(sink).__name__} failed and is off from here on ({_one_line(error)})")
                with contextlib.suppress(Exception):
                    sink.close()


# --- the console --------------------------------------------------------------------------------


class Progress:
    """A bar on a terminal; elsewhere a plain line every half minute. `update` is cheap."""

    def __init__(self, total_steps: int, enabled: bool = True, first_step: int = 0) -> None:
        self.total_steps = total_steps
        self._step = first_step
        self._evaluation: Any = None
        self._return: Any = None
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._every = 0.2 if terminal else 30.0
        self._show = self._start_bar() if enabled and terminal else self._print
        now = time.monotonic()
        self._next = now + self._every if enabled else math.inf
        # The rate is that of the last 50 showings: what learning costs now, not on average.
        self._past: deque[tuple[float, int]] = deque([(now, first_step)], maxlen=50)

    def update(self, step: int, evaluation: Any = None, episode_return: Any = None) -> None:
        """Note the steps done so far, and the latest evaluation mean and episode return if new."""
        self._step = step
        if evaluation is not None:
            self._evaluation = evaluation
        if episode_return is not None:
            self._return = episode_return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            self._refresh(now)

    def close(self) -> None:
        """Show the last state and give the terminal back."""
        if self._next != math.inf:
            self._refresh(time.monotonic())
        self._next = math.inf
        if self._bar:
            with contextlib.suppress(OSError, ValueError):
                self._bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    _bar: Any = None

    def _refresh(self, now: float) -> None:
        try:
            self._show(self._note(now))
        except (OSError, ValueError):  # the terminal is gone; training is not
            self._next = math.inf

    def _note(self, now: float) -> str:
        """Return rate, time left and the latest results."""
        then, before = self._past[0]
        self._past.append((now, self._step))
        rate = (self._step - before) / max(now - then, 1e-9)
        parts = [f"{rate:,.0f} steps/s"]
        if rate > 0:
            minutes, seconds = divmod(round(max(0, self.total_steps - self._step) / rate), 60)
            parts.append(f"ETA {minutes // 60}:{minutes % 60:02d}:{seconds:02d}")
        for name, value in (("return", self._return), ("eval", self._evaluation)):
            if value is not None:
                parts.append(f"{name} {float(value):.4g}")
        return "  ".join(parts)

    def _print(self, note: str) -> None:
        percent = 100 * self._step / max(1, self.total_steps)
        done = f"{self._step:,} / {self.total_steps:,} steps ({percent:.0f} %)"
        print(f"{done}  {note}", file=sys.stderr, flush=True)

    def _start_bar(self) -> Callable[[str], None]:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        # No thread that refreshes: it would take the interpreter from the training loop.
        self._bar = RichProgress(
            TextColumn("{task.completed:,} / {task.total:,}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        task = self._bar.add_task("", total=self.total_steps, completed=self._step, note="")
        self._bar.start()
        refresh = functools.partial(self._bar.update, task, refresh=True)
        return lambda note: refresh(completed=self._step, note=note)
