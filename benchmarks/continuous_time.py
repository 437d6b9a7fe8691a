"""Wall-clock of deep advantage updating on the pendulum: our core beside Gymnasium's SyncVectorEnv.

    python -m semigradient.benchmarks.continuous_time --phases 10

The same agent, with the same configuration (published: 256 environments, dt = 0.01, three networks
of 256 × 256, 50 gradient steps every 10 steps), trains on both in turns; phases are interleaved, so
that other load on the machine affects both. Reported are CPU time and wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

from semigradient.envs import make_vector
from semigradient.envs.clock import Clock
from semigradient.envs.control.time_step import set_time_step
from semigradient.envs.vector import Arrays, ExactVector
from semigradient.errors import UserError, require
from semigradient.training import process
from semigradient.training.agent import AgentContext
from semigradient.training.build import create
from semigradient.training.cli import fail, parse

REPEATED = ("environment", "act", "store", "learn")


class GymnasiumPendulum(ExactVector):
    """Gymnasium's own pendulums in its own SyncVectorEnv, never ending, with actions in [-1, 1]."""

    def __init__(self, num_envs: int, dt: float) -> None:
        super().__init__(num_envs, seed=0)
        self.clock = Clock(dt, 0.05)
        self.inner = SyncVectorEnv(
            [lambda: _single(dt)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP
        )
        self.single_observation_space = cast(spaces.Box, self.inner.single_observation_space)
        self.observation_space = cast(spaces.Box, self.inner.observation_space)
        self.single_action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes."""
        return self.inner.reset(seed=0)

    def step(self, actions: np.ndarray) -> Arrays:
        """Torques are twice the actions."""
        return self.inner.step(2 * actions)


def _single(dt: float) -> gymnasium.Env:
    env = gymnasium.make("Pendulum-v1", max_episode_steps=-1, disable_env_checker=True)
    set_time_step(env, dt)
    return env


def learner(envs: ExactVector, flags: list[str], device: str) -> Any:
    """A `dau` agent with its preset and `flags`, on given environments."""
    words = ["--agent", "dau", "--env", "semigradient/Pendulum-v0", *flags]
    command = parse(words).command
    setup = AgentContext(
        envs=envs,
        device=torch.device(device),
        seed=0,
        total_steps=command.run.steps,
        optimizer=command.optimizer,
    )
    return create("dau", command.agent, setup)


def measure(learners: dict[str, Any], phases: int) -> dict[str, dict[str, float]]:
    """Seconds of wall clock and of CPU per phase, in total and by part; phases take turns."""
    spent = {name: np.zeros(2) for name in learners}
    for made in learners.values():
        for _ in range(2):  # warm-up and first gradient steps
            made.iterate()
        made.timers.seconds.clear()
    for _ in range(phases):
        for name, made in learners.items():
            start = np.array([time.perf_counter(), time.process_time()])
            made.iterate()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent[name] += np.array([time.perf_counter(), time.process_time()]) - start
    return {
        name: {
            "wall": spent[name][0] / phases,
            "cpu": spent[name][1] / phases,
            **{part: made.timers.seconds.get(part, 0.0) / phases for part in REPEATED},
        }
        for name, made in learners.items()
    }


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="semigradient.benchmarks.continuous_time", description=__doc__
    )
    parser.add_argument("--phases", type=int, default=10, help="of 10 steps and 50 updates")
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--dt", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--flags", nargs="*", default=[], help="of dau, such as hidden=64,64")
    parser.add_argument("--out", default="", help="also write a JSON file")
    chosen = parser.parse_args(argv)
    process.prepare(chosen.threads)
    try:
        require(chosen.phases >= 1, f"--phases {chosen.phases}: must be ≥ 1")
        flags = [w for flag in chosen.flags for w in _words(flag)]
        core = make_vector(
            "semigradient/Pendulum-v0", chosen.num_envs, 0, dt=chosen.dt, time_limit=0
        )
        peers = {"core": core, "SyncVectorEnv": GymnasiumPendulum(chosen.num_envs, chosen.dt)}
        learners = {name: learner(envs, flags, chosen.device) for name, envs in peers.items()}
    except UserError as problem:
        fail(problem, "semigradient.benchmarks.continuous_time")
    times = measure(learners, chosen.phases)
    print(f"{'':14s}" + "".join(f"{key:>13s}" for key in next(iter(times.values()))))
    for name, row in times.items():
        print(f"{name:14s}" + "".join(f"{1e3 * value:10.1f} ms" for value in row.values()))
    ratios = [times["core"][key] / times["SyncVectorEnv"][key] for key in ("wall", "cpu")]
    print(f"core / SyncVectorEnv: wall {ratios[0]:.2f}, CPU {ratios[1]:.2f}")
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
    return 0


def _words(flag: str) -> list[str]:
    """`hidden=64,64` as the words of a command line."""
    name, _, values = flag.partition("=")
    return [f"--{name}", *values.split(",")]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
