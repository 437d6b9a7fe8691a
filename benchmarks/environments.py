"""Environment steps per second of our batched environments, by interface.

    python -m semigradient.benchmarks.environments --env semigradient/Glimpse-v0 --batch 1 256 1024
    \
        --threads 2

Three interfaces to the same rules take turns: the core with autoreset (tensors stay on their
device), the vector environment (numpy, with infos) and Gymnasium's own `SyncVectorEnv` over single
environments, the alternative to a batched core. Actions are drawn in advance. Reported are
wall-clock time and CPU time of the process, which is less sensitive to other load on the machine.

Of Gymnasium's classic control (`--env CartPole-v1`) they are the vector environment, which is one
array, our copies that it takes the place of, and `SyncVectorEnv`.

Two-player games have a fourth interface, the game itself with autoreset and both seats free, whose
rate is in joint steps. With `--peer PYTHON`, an interpreter with jaxmarl, that package's coin game
is measured as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import torch

from semigradient import envs
from semigradient.envs.adapters import CoreVector
from semigradient.envs.control.gymnasium_classic import RULES
from semigradient.envs.core import Core, advance
from semigradient.envs.games.two_player import FixedOpponentEnv
from semigradient.envs.sync import SyncVector
from semigradient.errors import UserError, require
from semigradient.training import process
from semigradient.training.cli import fail
from semigradient.training.command import RunConfig

_SYNC_LIMIT = 64  # largest batch for the slow single environments


def core_step(core: Core, actions: Any) -> Callable[[], None]:
    """One step of a core or a two-player game, with autoreset."""
    chosen = torch.as_tensor(actions, device=core.device)
    random = torch.Generator(core.device).manual_seed(0)
    states = [core.reset(len(chosen), random)]

    def step() -> None:
        states[0] = advance(core, states[0], chosen, random).state

    return step


def vector_step(vector: Any, actions: Any) -> Callable[[], None]:
    """One step of a vector environment."""
    vector.reset(seed=0)

    def step() -> None:
        vector.step(actions)

    return step


def measure(step: Callable[[], None], batch: int, seconds: float) -> dict[str, float]:
    """Environment steps per second of wall clock and of CPU time, after a warm-up."""
    for _ in range(5):
        step()
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        step()
        count += batch
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {
        "per_second": count / (time.perf_counter() - wall),
        "per_cpu_second": count / (time.process_time() - cpu),
    }


def interfaces(env_id: str, batch: int, device: str, options: dict[str, Any]) -> dict[str, Any]:
    """Step functions by interface."""
    placed: dict[str, Any] = {"device": device} if env_id in envs.OURS else {}
    vector = envs.make_vector(env_id, batch, 0, **options, **placed)
    vector.action_space.seed(0)
    actions = vector.action_space.sample()
    steps = {"vector": vector_step(vector, actions)}
    if isinstance(vector, CoreVector):
        steps = {"core": core_step(vector.core, actions), **steps}
        if isinstance(vector.core, FixedOpponentEnv):
            game: Any = vector.core.game
            joint = torch.randint(int(game.single_action_space.n), (batch, 2), device=device)
            steps["game"] = core_step(game, joint)
    else:
        copies = SyncVector(envs.check_id(env_id), batch, 0, **options)
        steps["copies"] = vector_step(copies, actions)
    if batch <= _SYNC_LIMIT:
        singles = gymnasium.make_vec(
            env_id,
            num_envs=batch,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
            **options,
        )
        steps["SyncVectorEnv"] = vector_step(singles, actions)
    return steps


def peer(python: str, batch: int, seconds: float) -> dict[str, float]:
    """The rates of jaxmarl's coin game, measured by another interpreter."""
    script = Path(__file__).with_name("jaxmarl_coin_game.py")
    command = [python, str(script), "--batch", str(batch), "--seconds", str(seconds)]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    require(run.returncode == 0, f"--peer {python}: {run.stderr.strip()[-300:]}")
    rates = json.loads(run.stdout.splitlines()[-1])
    return {key: rates[key] for key in ("per_second", "per_cpu_second")}


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    chosen = _parser().parse_args(argv)
    process.prepare(chosen.threads)
    rows: list[dict[str, Any]] = []
    print(f"{os.cpu_count()} cores, {chosen.threads} torch threads, {chosen.device}")
    print(f"{'batch':>6s} {'interface':14s} {'steps/s':>10s} {'per CPU second':>15s}")
    try:
        known = [*envs.OURS, *(i for i, s in gymnasium.registry.items() if s.entry_point in RULES)]
        require(chosen.env in known, f"--env {chosen.env}: accepted are {', '.join(known)}")
        options = RunConfig(env_options=tuple(chosen.env_options)).environment()
        for batch in chosen.batch:
            speeds = {
                name: measure(step, batch, chosen.seconds)
                for name, step in interfaces(chosen.env, batch, chosen.device, options).items()
            }
            if chosen.peer:
                speeds["jaxmarl"] = peer(chosen.peer, batch, chosen.seconds)
            for name, speed in speeds.items():
                row: dict[str, Any] = {"batch": batch, "interface": name, **speed}
                rows.append(row)
                rates = f"{row['per_second']:10.0f} {row['per_cpu_second']:15.0f}"
                print(f"{batch:6d} {name:14s} {rates}", flush=True)
    except UserError as problem:
        fail(problem, "semigradient.benchmarks.environments")
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="semigradient.benchmarks.environments", description=__doc__
    )
    parser.add_argument("--env", default="semigradient/Glimpse-v0")
    parser.add_argument("--env-options", nargs="*", default=[], help="KEY=VALUE")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=2.0, help="per interface and batch")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--peer", default="", help="an interpreter with jaxmarl")
    parser.add_argument("--out", default="", help="also write a JSON file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
