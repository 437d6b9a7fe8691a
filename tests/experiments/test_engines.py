"""Engines: what runs, how many at a time, what an interruption and a dead worker leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from semigradient.errors import UserError
from semigradient.experiments import engines
from semigradient.experiments.engines import CommandJob, Engine, run_all
from support.jobs import (
    PATIENCE,
    SAVER,
    UntilFile,
    by_name,
    drivers,
    job,
    python,
    wait_for,
)


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    with drivers(tmp_path) as start:
        yield start


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
        "for _ in range(9000):\n"
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_reaches_every_command_once_and_waits_for_it(
    tmp_path, number, start_driver
):
    process = start_driver()
    # To the whole group, as a terminal does: the commands must still be told only once.
    os.killpg(process.pid, number)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert out == "interrupted\n"
    assert sorted(p.name for p in tmp_path.glob("*.saved")) == ["0.saved", "1.saved"]
    assert {p.read_text() for p in tmp_path.glob("*.saved")} == {"1"}
    assert not (tmp_path / "2.started").exists()


def test_a_second_interruption_kills(tmp_path, start_driver):
    process = start_driver(code=SAVER.replace("time.sleep(0.3)", "time.sleep(600)"))
    process.send_signal(signal.SIGINT)
    wait_for(lambda: len(list(tmp_path.glob("*.told"))) == 2, PATIENCE)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert not list(tmp_path.glob("*.saved"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_commands_stop_when_the_engine_is_killed(tmp_path, start_driver):
    process = start_driver()
    process.kill()
    process.communicate()
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
