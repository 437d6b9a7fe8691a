"""TensorBoard and Weights & Biases, there or not there."""

from __future__ import annotations

import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semigradient.errors import UserError
from semigradient.training import sinks
from semigradient.training.logging import Logger, read_metrics
from semigradient.training.sinks import TensorBoardSink, WandbSink, resolve_wandb_mode
from support.commands import ROOT


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tensorboard_files_are_readable(tmp_path: Path) -> None:
    import imageio.v3 as iio

    picture = tmp_path / "p.png"
    iio.imwrite(picture, np.zeros((5, 7, 3), np.uint8))
    sink = TensorBoardSink(tmp_path / "tb")
    with Logger(tmp_path, [sink]) as logger:
        logger.scalars(1, {"train/loss": torch.tensor(0.5), "note": "text", "n": 3})
        logger.scalars(5, {"train/loss": math.nan})
        logger.image(5, picture, "plot")
        logger.summary({"mean": 7.0})
    events = read_events(tmp_path / "tb")
    first, second = events.Scalars("train/loss")
    assert (first.step, first.value) == (1, 0.5)
    assert math.isnan(second.value)
    assert events.Scalars("n")[0].value == 3.0
    (mean,) = events.Scalars("summary/mean")
    assert (mean.step, mean.value) == (5, 7.0)
    (image,) = events.Images("plot")
    assert (image.width, image.height) == (7, 5)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_tensorboard_hides_what_a_resumed_run_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for start, value in ((0, 1.0), (3, 2.0)):
        # Event files are read in the order of the second in their name.
        monkeypatch.setattr(sinks.time, "time", lambda start=start: now + 10 * start)
        with Logger(tmp_path, [TensorBoardSink(tmp_path / "tb")]) as logger:
            if start:
                logger.truncate_after(start - 1)
            for step in range(start, start + 5):
                logger.scalars(step, {"x": value})
    got = [(e.step, e.value) for e in read_events(tmp_path / "tb").Scalars("x")]
    assert got == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2), (7, 2)]
    assert [row["x"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [v for _, v in got]


def test_tensorboard_without_room_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tb").write_text("a file where the folder should be")
    with Logger(tmp_path, [TensorBoardSink(tmp_path / "tb")]) as logger:
        logger.scalars(1, {"x": 1})
    assert "TensorBoardSink failed" in capsys.readouterr().err


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No credentials, and a home of its own."""
    for name in list(os.environ):
        if name.startswith("WANDB") or name == "NETRC" or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return monkeypatch


def test_resolving_the_mode(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    assert resolve_wandb_mode("auto") == "offline"
    assert [resolve_wandb_mode(m) for m in ("online", "disabled")] == ["online", "disabled"]
    with pytest.raises(UserError, match="did you mean offline"):
        resolve_wandb_mode("oflline")
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password " + "k" * 40)
    netrc.chmod(0o600)
    assert resolve_wandb_mode("auto") == "online"
    clean.setenv("WANDB_BASE_URL", "http://other:8080")
    assert resolve_wandb_mode("auto") == "offline"
    clean.setenv("WANDB_API_KEY", "k" * 40)
    assert resolve_wandb_mode("auto") == "online"
    clean.setenv("WANDB_MODE", "disabled")
    assert resolve_wandb_mode("auto") == "disabled"
    clean.delenv("WANDB_MODE")
    clean.delenv("WANDB_API_KEY")
    netrc.write_text("machine {{{")
    assert resolve_wandb_mode("auto") == "offline"


# In a process of its own: W&B keeps a service and hooks at exit, and those must not hang either.
WANDB_RUN = """
import sys, numpy
from pathlib import Path
from semigradient.training.logging import Logger
from semigradient.training.sinks import WandbSink
folder, mode = Path(sys.argv[1]), sys.argv[2]
sink = WandbSink(folder, mode, project="p", name="n", config={"lr": 0.1})
logger = Logger(folder, [sink])
for step in range(200):
    logger.scalars(step, {"loss": 1.0 / (step + 1), "bad": float("nan")})
logger.summary({"mean": 1.0})
logger.close()
identity = sink._run.id if sink._run else None
print(sink.mode, identity, "socket" in sys.modules)
"""


def run_wandb(folder: Path, mode: str, **environment: str) -> tuple[list[str], str]:
    """What is printed; a run that waits for a server for ever never comes back."""
    done = subprocess.run(
        [sys.executable, "-c", WANDB_RUN, str(folder), mode],
        cwd=ROOT,
        env={**os.environ, "no_proxy": "*", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(), done.stderr


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Yield the address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


@pytest.mark.usefixtures("clean")
def test_unreachable_wandb_does_not_stop_logging(tmp_path: Path, silent_server: str) -> None:
    for number, url in enumerate(("http://127.0.0.1:9", silent_server)):
        folder = tmp_path / str(number)
        out, err = run_wandb(folder, "online", WANDB_BASE_URL=url, WANDB_API_KEY="k" * 40)
        assert err == (
            f"warning: W&B: {url} does not answer; logging offline, `wandb sync` sends it later\n"
        )
        assert out[0] == "offline"
        assert len(read_metrics(folder / "metrics.jsonl")) == 200


@pytest.mark.usefixtures("clean")
def test_wandb_that_refuses_falls_back_too(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        out, err = run_wandb(
            tmp_path / "run",
            "auto",
            WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}",
            WANDB_API_KEY="k" * 40,
        )
        server.shutdown()
        thread.join()
    assert len(err.splitlines()) == 1
    assert err.startswith("warning: W&B: ")
    assert out[0] == "offline"
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 200
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


# The first attempt logs steps 0 to 4; the second goes on after step 2.
WANDB_RESUMED = """
import sys
from pathlib import Path
from semigradient.training.logging import Logger
from semigradient.training.sinks import WandbSink
folder, first = Path(sys.argv[1]), int(sys.argv[2])
sink = WandbSink(folder, "auto", project="p", name="n")
with Logger(folder, [sink]) as logger:
    if first:
        logger.truncate_after(first - 1)
    for step in range(first, first + 5):
        logger.scalars(step, {"x": step / 2})
print(sink.mode, sink._run.id)
"""


WANDB_SIDE_BY_SIDE = """
import sys
from contextlib import ExitStack
from pathlib import Path
from semigradient.training.logging import Logger
from semigradient.training.sinks import WandbSink
folders = [Path(sys.argv[1]) / name for name in "ab"]
with ExitStack() as files:
    sinks = [WandbSink(folder, "offline", project="p", name=folder.name) for folder in folders]
    loggers = [files.enter_context(Logger(f, [s])) for f, s in zip(folders, sinks)]
    for step in range(3):
        for number, logger in enumerate(loggers, 1):
            logger.scalars(step, {"x": number * step})
"""


def offline_history(path: Path) -> list[tuple[int, float]]:
    """(step, x) of a file of W&B: blocks of 32 KiB of records with a header of 7 bytes."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, at, part, rows = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            items = pb.Record.FromString(part).history.item
            row = {item.key or item.nested_key[0]: item.value_json for item in items}
            rows += [(int(row["step"]), float(row["x"]))] if "x" in row else []
            part = b""
    return rows


@pytest.mark.usefixtures("clean")
def test_wandb_keeps_runs_of_one_process_apart(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", WANDB_SIDE_BY_SIDE, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "WANDB_MODE": "offline"},
        check=True,
    )
    for number, name in enumerate("ab", 1):
        (file,) = (tmp_path / name / "wandb").glob("offline-run-*/run-*.wandb")
        assert offline_history(file) == [(step, number * step) for step in range(3)]


@pytest.mark.usefixtures("clean")
def test_wandb_offline_has_one_whole_curve_after_a_resumed_run(tmp_path: Path) -> None:
    identities = []
    for first in ("0", "3"):
        done = subprocess.run(
            [sys.executable, "-c", WANDB_RESUMED, str(tmp_path), first],
            cwd=ROOT,
            env={**os.environ, "no_proxy": "*", "WANDB_BASE_URL": "http://127.0.0.1:9"},
            capture_output=True,
            text=True,
            check=True,
        )
        mode, identity = done.stdout.split()
        assert (mode, done.stderr) == ("offline", "")
        identities.append(identity)
    assert identities[0] == identities[1]
    (now,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert now.name == f"run-{identities[0]}.wandb"
    assert offline_history(now) == [(step, step / 2) for step in range(8)]
    (before,) = (tmp_path / "wandb").glob("superseded-*/run-*.wandb")
    assert offline_history(before) == [(step, step / 2) for step in range(5)]


@pytest.mark.usefixtures("clean")
def test_wandb_disabled_and_keyless_online(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WandbSink, "_start", lambda self, mode: None)
    with Logger(tmp_path, [WandbSink(tmp_path, "disabled")]) as logger:
        logger.scalars(1, {"x": 1})
        logger.image(1, tmp_path / "none.png", "x")
    assert capsys.readouterr().err == ""
    with Logger(tmp_path, [WandbSink(tmp_path, "online")]):
        assert "no API key is configured; logging offline" in capsys.readouterr().err


def test_nothing_heavy_is_imported_early() -> None:
    code = (
        "import sys; from semigradient.training import logging, sinks, progress; "
        "print([m for m in ('wandb', 'tensorboard', 'rich', 'imageio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
