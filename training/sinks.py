"""Sinks of metrics besides the local file: TensorBoard and Weights & Biases.

A sink that fails is dropped, and training continues.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from semigradient.errors import one_line, unknown, warn
from semigradient.training.run_files import write_text

_PREFLIGHT_SECONDS = 4.0  # to learn whether W&B answers at all
_INIT_SECONDS = 20.0
_FINISH_SECONDS = 60.0


class Sink:
    """Receiver of metrics; a method that a subclass does not override does nothing."""

    def open(self) -> None:
        """Start; called once before anything else, and free to fail."""

    def truncate_after(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Continue a run after `step`.

        Args:
            step: what is later is dropped, where possible.
            rows: the record so far, for sinks that do not have it; lines of `metrics.jsonl`.
        """

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Take the scalars of one step."""

    def image(self, step: int, path: Path, key: str) -> None:
        """Take a picture."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Take the summary of the run."""

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

    def truncate_after(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make TensorBoard hide the later points of earlier event files."""
        from tensorboard.compat.proto import event_pb2

        self.open()
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._event(step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the numbers; TensorBoard has no place for text among them."""
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._summary(step, [{"tag": k, "simple_value": float(v)} for k, v in numbers.items()])

    def image(self, step: int, path: Path, key: str) -> None:
        """Write a picture file unchanged."""
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


_OFFLINE = "offline-run-"  # how W&B names its folders
_WANDB_MODES = ("auto", "online", "offline", "disabled")


def resolve_wandb_mode(mode: str) -> str:
    """Turn `auto` into `WANDB_MODE`, else online where a key is configured, else offline."""
    if mode not in _WANDB_MODES:
        unknown("W&B mode", mode, _WANDB_MODES)
    if mode != "auto":
        return mode
    configured = os.environ.get("WANDB_MODE", "")
    if configured in _WANDB_MODES[1:]:
        return configured
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
    """Whether a server answers, with any status, within `seconds`."""
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
    """Logs to Weights & Biases; one run folder is one W&B run, however often it resumes.

    A resumed run that is logged offline is logged from its beginning, and the offline folders
    before it are set aside: `wandb sync` takes a folder for the whole of its run.
    """

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
        self._earlier: list[Path] = []

    def open(self) -> None:
        """Start the run; where W&B cannot be reached, start it offline and warn once."""
        if self._run or self.mode == "disabled":
            return
        # The settings of a run come too late for the messages of the login.
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        if self.mode == "online":
            reason = self._start_online()
            if reason is None:
                return
            warn(f"W&B: {reason}; logging offline, `wandb sync` sends it later")
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
            return one_line(error, 200)
        return None

    def truncate_after(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log what the run so far has and W&B has not."""
        self.open()
        if not self._run:
            return
        known = self._run.summary.get("step", -1) if self._run.resumed else -1
        for row in rows:
            if row["step"] > known:
                self._run.log({key: value for key, value in row.items() if key != "time"})
        self._set_aside(self._earlier)

    def _set_aside(self, folders: Iterable[Path]) -> None:
        """Rename offline folders whose content is in the present one, or in W&B."""
        for folder in folders:
            folder.rename(folder.with_name(f"superseded-{folder.name.removeprefix(_OFFLINE)}"))
        self._earlier = []

    def _start(self, mode: Literal["online", "offline"]) -> None:
        import wandb

        self._earlier = sorted((self.folder / "wandb").glob(f"{_OFFLINE}*"))
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            reinit="create_new",  # seeds that learn as one are logged side by side
        )
        self._run = wandb.init(
            dir=self.folder,
            mode=mode,
            id=self._run_id(),
            resume="allow" if mode == "online" else None,
            config=self._config,
            settings=settings,
            **self._options,
        )
        # W&B's own counter only goes up, and ignores what a resumed run repeats.
        self._run.define_metric("*", step_metric="step")

    def _run_id(self) -> str:
        """Return the id kept in the run folder; a copied folder's name may be taken."""
        file = self.folder / "wandb" / "run-id"
        if not file.exists() or not file.read_text(encoding="utf-8").strip():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, uuid.uuid4().hex[:12])
        return file.read_text(encoding="utf-8").strip()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the values beside their step."""
        self.open()
        if self._run:
            self._run.log({"step": step, **values})

    def image(self, step: int, path: Path, key: str) -> None:
        """Log a picture file."""
        self.open()
        if self._run:
            import wandb

            self._run.log({"step": step, key: wandb.Image(str(path))})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the summary of the run."""
        self.open()
        if self._run:
            self._run.summary.update(dict(values))

    def close(self) -> None:
        """Finish the run; W&B gives up uploading after a while, and keeps the files."""
        if self._run:
            self._run.finish()
