"""Work as Ray tasks, on this machine or a cluster, retried after the death of a worker.

Entire jobs (`run_ray`), and parts of one computation that a process waits for (`Tasks`).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

from semigradient.errors import UserError
from semigradient.experiments.engines import (
    INTERRUPTED,
    POLL_SECONDS,
    Attempt,
    CommandJob,
    Engine,
    Interruptions,
    Result,
    Retries,
    stop,
)

GRACE_SECONDS = 120.0


def run_ray(jobs: Iterable[CommandJob], engine: Engine) -> Iterator[Result]:
    """Run each job as a Ray task, retried after the death of its worker; yield the results.

    A job whose command was ended by a signal runs once more, as on one machine (`Retries`).
    """
    ray, ours = _connect(engine)
    task = _task(ray, _attempt_in_worker, engine)
    waiting, retries = deque(jobs), Retries()
    pending: dict[Any, CommandJob] = {}
    with Interruptions() as interruptions:
        try:
            while (waiting or pending) and not interruptions.count:
                while waiting and (engine.jobs is None or len(pending) < engine.jobs):
                    job = waiting.popleft()
                    pending[task.remote(job, engine)] = job
                for reference in ray.wait(list(pending), timeout=4 * POLL_SECONDS)[0]:
                    job = pending.pop(reference)
                    result = _fetch(ray, reference, job)
                    if again := retries.grant(result):
                        waiting.append(job)
                    yield replace(result, again=again)
        finally:
            _cancel(ray, list(pending), interruptions)
            if ours:
                ray.shutdown()
    if interruptions.count:
        raise KeyboardInterrupt


class Tasks:
    """A function mapped over parts, one task per part, with the resources of `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._ray, self._ours = _connect(engine)

    def map(self, function: Callable[[Any], Any], parts: Iterable[Any], /) -> list[Any]:
        """Results of `function`, which must be picklable, on each part, in order."""
        task = _task(self._ray, _apply, self.engine)
        references = [task.remote(function, part) for part in parts]
        try:
            results: list[Any] = self._ray.get(references)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return results

    def shutdown(self, *, cancel_futures: bool = True) -> None:
        """Disconnect from the cluster; running tasks are abandoned."""
        if self._ours:
            self._ray.shutdown()


def pool(workers: int, address: str) -> Tasks:
    """One processor per part; without an address, on a new local cluster."""
    return Tasks(Engine(name="ray", jobs=workers, ray_address=address or None))


def _apply(function: Callable[[Any], Any], part: Any) -> Any:
    """The body of a Ray task."""
    return function(part)


def _task(ray: ModuleType, function: Callable[..., Any], engine: Engine) -> Any:
    """A remote function whose workers find the modules that this process finds by PYTHONPATH."""
    path = os.environ.get("PYTHONPATH", "")
    return ray.remote(function).options(
        num_cpus=engine.cpus_per_run,
        num_gpus=engine.gpus_per_run,
        max_retries=engine.retries,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )


def _connect(engine: Engine) -> tuple[ModuleType, bool]:
    """Ray, connected; and whether this process opened the connection and has to close it."""
    # Read on import; otherwise Ray reports usage statistics over the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return ray, False
    if engine.ray_address:
        _check_reachable(engine.ray_address)
    try:
        ray.init(
            address=engine.ray_address or "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray-address {engine.ray_address}: {error}".splitlines()[0]) from error
    if engine.ray_address is None:
        _check_resources(ray, engine)
    return ray, True


def _check_reachable(address: str) -> None:
    """Test HOST:PORT first, because Ray itself retries for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # "auto", or a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise UserError(f"--ray-address {address}: cannot be reached ({error})") from error


def _check_resources(ray: ModuleType, engine: Engine) -> None:
    """Reject resources that this machine lacks; a remote cluster may scale on demand."""
    total = ray.cluster_resources()
    for flag, key, requested in (
        ("--cpus-per-run", "CPU", engine.cpus_per_run),
        ("--gpus-per-run", "GPU", engine.gpus_per_run),
    ):
        if requested > total.get(key, 0):
            ray.shutdown()
            raise UserError(f"{flag} {requested:g}: this machine has {total.get(key, 0):g}")


def _attempt_in_worker(job: CommandJob, engine: Engine) -> Result:
    """The body of a Ray task."""
    attempt = Attempt(job, engine)
    try:
        while (result := attempt.poll()) is None:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:  # how `ray.cancel` arrives
        stop([attempt], Interruptions())
        return Result(job.name, INTERRUPTED, time.monotonic() - attempt.started, "interrupted")
    return result


def _fetch(ray: ModuleType, reference: Any, job: CommandJob) -> Result:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Result(job.name, 1, 0.0, f"{type(error.cause).__name__}: {error.cause}")
    except ray.exceptions.RayError as error:
        return Result(job.name, 1, 0.0, (str(error) or type(error).__name__).splitlines()[0])


def _cancel(ray: ModuleType, references: list[Any], interruptions: Interruptions) -> None:
    """Cancel tasks and wait until their commands have saved, at most until a further signal."""
    for reference in references:
        ray.cancel(reference)
    deadline = time.monotonic() + GRACE_SECONDS
    while references and time.monotonic() < deadline and interruptions.count < 2:
        references = ray.wait(references, num_returns=len(references), timeout=POLL_SECONDS)[1]
