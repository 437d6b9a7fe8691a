"""The Ray engine: the same jobs on a cluster of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semigradient.errors import UserError
from semigradient.experiments import engines, ray_engine
from semigradient.experiments.engines import CommandJob, Engine, run_all
from support import jobs
from support.jobs import (
    PLAIN_RAY,
    UntilFile,
    by_name,
    drivers,
    job,
    python,
)


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    with drivers(tmp_path) as start:
        yield start


def test_a_missing_ray_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ray is not installed; pip install .*\[ray\]"):
        Engine(name="ray")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_a_silent_cluster_is_found_out_at_once(address):
    with pytest.raises(UserError, match=f"--ray-address {address}: cannot be reached"):
        ray_engine._check_reachable(address)
    ray_engine._check_reachable("auto")


@pytest.fixture(scope="module")
def cluster():
    os.environ.update(PLAIN_RAY)
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    # Ray's workers cannot import this file by name.
    for module in (sys.modules[__name__], jobs):
        ray.cloudpickle.register_pickle_by_value(module)
    yield ray
    ray.shutdown()


# Kills the Ray worker (its parent) the first time; goes on from its own checkpoint the second.
MORTAL = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
if (folder / "checkpoint").exists():
    (folder / "done").write_text((folder / "checkpoint").read_text() + " resumed")
    sys.exit(0)
os.kill(os.getppid(), signal.SIGKILL)
while not stopped:
    time.sleep(0.02)
time.sleep(0.5)
(folder / "checkpoint").write_text("saved")
"""


def test_ray_runs_jobs_and_reports_failures(cluster, tmp_path):
    jobs = [
        job(tmp_path, "fine", python("print('hello')")),
        job(tmp_path, "bad", python("import sys; sys.exit('no such luck')")),
    ]
    results = by_name(run_all(jobs, Engine(name="ray", jobs=1)))
    assert results["fine"].returncode == 0
    assert results["bad"].message == "no such luck"
    assert cluster.is_initialized(), "a connection that was there before must stay"


def test_ray_retries_a_dead_worker_from_the_checkpoint(cluster, tmp_path):
    task = CommandJob(
        "mortal",
        UntilFile(tmp_path / "done", python(MORTAL, tmp_path)),
        tmp_path / "mortal.log",
    )
    (result,) = run_all([task], Engine(name="ray"))
    assert result.returncode == 0, result
    assert (tmp_path / "done").read_text() == "saved resumed"


def test_ray_gives_up_on_a_worker_that_always_dies(cluster, tmp_path):
    deadly = python("import os; os.kill(os.getppid(), 9)")
    (result,) = run_all([job(tmp_path, "deadly", deadly)], Engine(name="ray", retries=0))
    assert result.returncode == 1
    assert "worker" in result.message.lower()


def first_letters(words: list[str]) -> list[str]:
    if "" in words:
        raise ValueError("an empty word")
    return [word[0] for word in words]


def test_ray_shares_one_computation(cluster):
    tasks = ray_engine.pool(2, "")
    assert tasks.map(first_letters, [["ox", "bee"], ["cat"]]) == [["o", "b"], ["c"]]
    with pytest.raises(ValueError, match="an empty word"):
        tasks.map(first_letters, [["ox"], [""]])
    tasks.shutdown()
    assert cluster.is_initialized(), "a connection that was there before must stay"


def test_molecules_are_scored_on_ray(cluster):
    pytest.importorskip("rdkit")
    from semigradient.envs.molecules.rewards import Scorer

    smiles = ["CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O"]
    scorer = Scorer("qed", workers=2, engine="ray")
    assert scorer(smiles).tolist() == Scorer("qed")(smiles).tolist()
    assert scorer.calls == 3
    scorer.close()


@pytest.mark.slow
def test_ray_interruption_lets_commands_save(tmp_path, start_driver):
    pytest.importorskip("ray")
    process = start_driver("ray")
    os.kill(process.pid, signal.SIGINT)
    # Longer than the engine itself waits for commands: a miss is then seen in what it leaves.
    out, err = process.communicate(timeout=ray_engine.GRACE_SECONDS + 60)
    assert process.returncode == 130, err
    assert out == "interrupted\n"
    assert {p.read_text() for p in tmp_path.glob("*.saved")} == {"1"}
    assert len(list(tmp_path.glob("*.saved"))) == 2
