"""Engines: what runs, how many at a time, what an interruption and a dead worker leave."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from semigradient.errors import UserError
from semigradient.experiments import engines, ray_engine
from semigradient.experiments.engines import CommandJob, Engine, Result, run_all
from support.commands import ROOT

# Ray makes its workers, and so their commands, nicer by 15: where two other tests keep both cores
# busy, these would get next to nothing, and no deadline would be long enough.
PLAIN_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
PATIENCE = 180.0


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@dataclass(frozen=True)
class Fixed:
    """Commands known beforehand; picklable, as Ray needs."""

    commands: tuple[Sequence[str], ...]

    def __call__(self) -> Iterator[Sequence[str]]:
        yield from self.commands


@dataclass(frozen=True)
class UntilFile:
    """A command that is left out once the file it makes is there."""

    path: Path
    command: Sequence[str]

    def __call__(self) -> Iterator[Sequence[str]]:
        if not self.path.exists():
            yield self.command


def job(folder: Path, name: str, *commands: Sequence[str]) -> CommandJob:
    return CommandJob(name, Fixed(commands), folder / f"{name}.log")


def by_name(results: Iterator[Result]) -> dict[str, Result]:
    return {result.name: result for result in results}


def wait_for(condition, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_commands_run_in_order_and_stop_at_the_first_failure(tmp_path):
    good = job(tmp_path, "good", python("print('one')"), python("print('two')"))
    bad = job(
        tmp_path,
        "bad",
        python("import sys; print('x'); sys.exit('no such luck')"),
        python("print('never')"),
    )
    results = by_name(run_all([good, bad], Engine(jobs=2)))
    assert results["good"].returncode == 0
    assert results["good"].message == ""
    assert results["bad"].returncode == 1
    assert results["bad"].message == "no such luck"
    lines = (tmp_path / "good.log").read_text().splitlines()
    assert [line for line in lines if not line.startswith("$")] == ["one", "two"]
    assert "never" not in (tmp_path / "bad.log").read_text().replace("print('never')", "")


def test_a_job_that_cannot_start_does_not_stop_the_others(tmp_path):
    def broken() -> Iterator[Sequence[str]]:
        raise OSError("disk on fire")
        yield []

    jobs = [
        CommandJob("broken", broken, tmp_path / "broken.log"),
        job(tmp_path, "missing", ["/nonexistent/program"]),
        job(tmp_path, "killed", python("import os; os.kill(os.getpid(), 9)")),
        job(tmp_path, "fine", python("")),
    ]
    results = by_name(run_all(jobs, Engine(jobs=1)))
    assert results["broken"].message == "OSError: disk on fire"
    assert results["missing"].message == "/nonexistent/program: No such file or directory"
    assert results["killed"].message.startswith("killed by SIGKILL, probably for want of memory")
    assert results["fine"].returncode == 0


def test_a_job_that_a_signal_ends_runs_once_more_after_the_others(tmp_path):
    die_once = "import os, pathlib, sys; p = pathlib.Path(sys.argv[1])\n"
    die_once += (
        "first = not p.exists(); p.touch(); first and os.kill(os.getpid(), int(sys.argv[2]))"
    )
    jobs = [
        job(tmp_path, "killed", python(die_once, tmp_path / "a", 11)),
        job(
            tmp_path,
            "wrapped",
            ["sh", "-c", f"test -e {tmp_path}/b || (touch {tmp_path}/b; exit 143)"],
        ),
        job(tmp_path, "fails", python("import sys; sys.exit(3)")),
    ]
    results = list(run_all(jobs, Engine(jobs=1)))
    assert [(r.name, r.returncode, r.again, r.message) for r in results] == [
        ("killed", -11, True, "killed by SIGSEGV"),
        ("wrapped", 143, True, "killed by SIGTERM"),
        ("fails", 3, False, "exit status 3"),
        ("killed", 0, False, ""),
        ("wrapped", 0, False, ""),
    ]
    assert engines.reason(jobs[2].log) == "exit status 3"


def test_local_runs_so_many_at_a_time(tmp_path):
    # Two that each wait for the other's file succeed only side by side; the third must wait.
    meet = (
        "import sys, time, pathlib\n"
        "mine, other = map(pathlib.Path, sys.argv[1:])\n"
        "mine.touch()\n"
        "for _ in range(500):\n"
        "    if other.exists(): sys.exit(0)\n"
        "    time.sleep(0.02)\n"
        "sys.exit('alone')"
    )
    alone = "import sys, pathlib; sys.exit(not all(pathlib.Path(p).exists() for p in sys.argv[1:]))"
    a, b = tmp_path / "a", tmp_path / "b"
    jobs = [
        job(tmp_path, "first", python(meet, a, b)),
        job(tmp_path, "second", python(meet, b, a)),
        job(tmp_path, "third", python(alone, a, b)),
    ]
    results = list(run_all(jobs, Engine(jobs=2)))
    assert [result.returncode for result in results] == [0, 0, 0]
    assert results[-1].name == "third"


def test_threads_reach_the_command_and_set_the_default_number_of_jobs(tmp_path, monkeypatch):
    code = "import os, sys; sys.exit(os.environ['OMP_NUM_THREADS'] + os.environ['MKL_NUM_THREADS'])"
    (result,) = run_all([job(tmp_path, "threads", python(code))], Engine(threads=3))
    assert result.message == "33"
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert Engine(threads=3).local_slots == 2
    assert Engine(threads=16).local_slots == 1
    assert Engine(threads=16, jobs=5).local_slots == 5


def test_a_job_waits_for_a_process_that_still_writes_its_log(tmp_path):
    engine = Engine(jobs=1)
    made = tmp_path / "made"
    orphan = python("import sys, time; time.sleep(0.6); open(sys.argv[1], 'w')", made)
    command = python("import sys; sys.exit('a second writer')")
    with (tmp_path / "shared.log").open("ab") as log:
        assert engines._try_lock(log)
        process = subprocess.Popen(orphan, stdout=log)
    shared = CommandJob("shared", UntilFile(made, command), tmp_path / "shared.log")
    (result,) = run_all([shared], engine)
    assert result.returncode == 0
    process.wait()


DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = [str(Path("tests").resolve()), str(Path("tests/experiments").resolve())]
import test_engines
from test_engines import job, python
from semigradient.experiments.engines import Engine, run_all
if sys.argv[2] == "ray":  # whose workers cannot import that file by name
    from ray.cloudpickle import register_pickle_by_value
    register_pickle_by_value(test_engines)
folder = Path(sys.argv[1])
jobs = [job(folder, f"job{i}", python(Path(sys.argv[3]).read_text(), folder / str(i)))
        for i in range(3)]
try:
    for result in run_all(jobs, Engine(name=sys.argv[2], jobs=2)):
        print(result, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""

SAVER = """
import pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
count = 0
def save(number, frame):
    global count
    count += 1
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
path.with_suffix(".started").touch()
while not count:
    time.sleep(0.02)
time.sleep(0.3)
path.with_suffix(".saved").write_text(str(count))
sys.exit(130)
"""


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start_driver(engine, code)`: two jobs running; nothing of it outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(engine: str = "local", code: str = SAVER) -> subprocess.Popen[str]:
        (tmp_path / "code.py").write_text(code)
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path), engine, str(tmp_path / "code.py")],
            cwd=ROOT,
            env=os.environ | PLAIN_RAY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        begun = lambda: len(list(tmp_path.glob("*.started"))) == 2  # noqa: E731
        wait_for(lambda: begun() or process.poll() is not None, PATIENCE)
        assert begun(), process.communicate()
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_reaches_every_command_once_and_waits_for_it(
    tmp_path, number, start_driver
):
    process = start_driver()
    # To the whole group, as a terminal does: the commands must still be told only once.
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "interrupted\n"
    assert sorted(p.name for p in tmp_path.glob("*.saved")) == ["0.saved", "1.saved"]
    assert {p.read_text() for p in tmp_path.glob("*.saved")} == {"1"}
    assert not (tmp_path / "2.started").exists()


def test_a_second_interruption_kills(tmp_path, start_driver):
    process = start_driver(code=SAVER.replace("time.sleep(0.3)", "time.sleep(600)"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not list(tmp_path.glob("*.saved"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_commands_stop_when_the_engine_is_killed(tmp_path, start_driver):
    process = start_driver()
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: len(list(tmp_path.glob("*.saved"))) == 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "slurm"}, "--engine 'slurm': choose from local, ray"),
        ({"jobs": 0}, "--jobs 0"),
        ({"threads": 0}, "--threads 0"),
        ({"cpus_per_run": 0}, "--cpus-per-run 0"),
        ({"gpus_per_run": -1}, "--gpus-per-run -1"),
    ],
)
def test_engine_options_are_checked(options, words):
    with pytest.raises(UserError, match=words):
        Engine(**options)


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
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
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
