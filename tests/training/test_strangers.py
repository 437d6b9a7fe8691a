"""A run folder of somebody else: data, never a way to other files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from semigradient import evaluate
from semigradient.errors import UserError
from semigradient.training import checkpoint
from semigradient.training.checkpoint import load, save
from semigradient.training.loaded_run import load_run
from semigradient.training.run_files import read_json, write_json
from support.runs import tiny_run
from support.training import refused


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes."""
    return tiny_run(tmp_path_factory.mktemp("runs") / "finished", steps=32)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file that nobody else may change."""
    path = tmp_path / "mine"
    path.write_text("precious")
    return path


WRITTEN = [
    "metrics.jsonl",
    "config.toml",
    "summary.json",
    "evaluation.json",
    "provenance.json",
    "messages.txt",
    "traceback.txt",
    ".lock",
    "diagnostics.jsonl",
    "wandb/run-id",
    "checkpoints/step-000000000032/state.json",
    "policy/step-000000000032/manifest.json",
]
FOLDERS = ["checkpoints", "policy", "best", "pictures", "videos", "tensorboard", "wandb"]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_link_out_of_the_folder_is_refused(
    name: str, finished: Path, tmp_path: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(mine)
    line = refused(capsys, "--resume", str(folder))
    assert f"{folder / name} is a link out of the folder; refused" in line
    with pytest.raises(SystemExit):
        evaluate.main([str(folder)])
    assert "is a link out of the folder; refused" in capsys.readouterr().err
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_is_refused(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, elsewhere = shutil.copytree(finished, tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".tmp-precious").mkdir()
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).symlink_to(elsewhere)
    assert "is a link out of the folder" in refused(capsys, "--resume", str(folder))
    assert (elsewhere / ".tmp-precious").is_dir()


@pytest.mark.parametrize("name", WRITTEN[:-2])
def test_a_pipe_does_not_hang(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    assert "is no plain file; refused" in refused(capsys, "--resume", str(folder))


def test_links_within_the_folder_are_followed(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "latest").symlink_to(folder / "checkpoints" / "step-000000000032")
    assert load_run(folder).loaded.step == 32


def test_temporary_names_that_a_stranger_prepared_are_not_used(
    finished: Path, tmp_path: Path, mine: Path
) -> None:
    """Even where nothing checks the folder: what is written is new, or replaces the link."""
    for name in (".evaluation.json.tmp", ".summary.json.tmp", "evaluation.json"):
        (tmp_path / name).symlink_to(mine)
    write_json(tmp_path / "evaluation.json", {"mean": 1})
    write_json(tmp_path / "summary.json", {"mean": 1})
    assert mine.read_text() == "precious"
    assert not (tmp_path / "evaluation.json").is_symlink()
    assert read_json(tmp_path / "summary.json") == {"mean": 1}


def test_a_manifest_that_is_a_pipe_does_not_hang(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {"x": 1}, {}) / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"manifest\.json: unreadable \(.*not a plain file"):
        load(tmp_path, {})


def forge(folder: Path, content: str) -> None:
    """Replace the state of a policy by any text, with hashes that agree."""
    from semigradient.training.manifest import digest

    (path,) = (folder / "policy").glob("step-*")
    (path / "state.json").unlink()
    entry = checkpoint._write(path / "state.json", [memoryview(content.encode())])
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("digest")
    manifest["files"]["state.json"] = entry
    (path / "manifest.json").write_text(json.dumps({**manifest, "digest": digest(manifest)}))


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "3",
        "null",
        '"text"',
        '{"policy": []}',
        '{"policy": {"network": {}}}',
        '{"policy": ' + "9" * 10_000 + "}",
        '{"policy": Infinity}',
        '{"policy": {"network": {"0.weight": {"__number__": "inf"}}}}',
        '{"policy": {"network": {"__array__": "policy.network", "dtype": "<f8", '
        '"shape": [1000000000, 2000]}}}',
        '{"policy": {"network": {"__array__": "t", "dtype": "<f8", "shape": [-1, -1]}}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_a_state_of_another_form_is_one_line(
    content: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    forge(folder, content)
    with pytest.raises(SystemExit) as leaving:
        evaluate.main([str(folder), "--episodes", "1"])
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "step-000000000032" in line


def test_a_config_without_end_is_not_read_to_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "/dev/zero" in refused(capsys, "--config", "/dev/zero", "--run-dir", str(tmp_path / "r"))


@pytest.mark.parametrize("kind", [Path.mkdir, lambda path: path.write_bytes(b"\xff\xfe")])
def test_a_config_that_is_no_text_is_one_line(
    kind: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    kind(tmp_path / "run" / "config.toml")
    assert "config.toml" in refused(capsys, "--resume", str(tmp_path / "run"))
