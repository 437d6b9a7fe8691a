"""What seeds as a batch cost: one process that trains K seeds, beside K runs one after another.

    python -m semigradient.benchmarks.scaling --cases cartpole-ppo --seeds 1 8 32 --hidden 64 256
    python -m semigradient.benchmarks.scaling --cases cartpole-ppo --jax VENV/bin/python

A stack of K seeds (docs/stacks.md), one seed alone and one run of stable-baselines3 take turns in
one process, on one torch thread, with the hyperparameters of `benchmarks.throughput`. The column
"K runs" is how many times as many environment steps per second the stack makes as K runs would
that follow each other; "K of SB3" the same for SB3's. With `--jax` PPO as PureJaxRL lays it out
(`benchmarks/jax_peer.py`) trains as many seeds in a Python that has jax, on one core; "JAX / stack"
is how many times as many steps it makes as the stack. Memory is what the process grows by while a
stack is built and warmed up, over its seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from semigradient.benchmarks import throughput
from semigradient.benchmarks.peer_process import PeerProcess
from semigradient.benchmarks.throughput import CASES, Case
from semigradient.errors import UserError
from semigradient.stacks.stack import Stack
from semigradient.training.agent import Agent
from semigradient.training.build import build, set_threads
from semigradient.training.cli import fail
from semigradient.training.command import Command

_STACKED = tuple(name for name in CASES if name.startswith("cartpole-"))


def make_stack(command: Command, seeds: int) -> tuple[Stack, float]:
    """A stack past its first updates, and MiB per seed."""
    before = psutil.Process().memory_info().rss
    members = [
        build(replace(command, run=replace(command.run, seed=seed))) for seed in range(seeds)
    ]
    stack = Stack(members)
    _warm_up(stack.iterate, members[0], command)
    return stack, (psutil.Process().memory_info().rss - before) / 2**20 / seeds


def _warm_up(iterate: Callable[[], Any], agent: Agent, command: Command) -> None:
    for _ in range(3):
        iterate()
    while agent.progress.steps <= getattr(command.agent, "learning_starts", 0):
        iterate()


def rate(iterate: Callable[[], Any], agent: Agent, seconds: float) -> float:
    """Environment steps per second of one run."""
    first, begin = agent.progress.steps, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        iterate()
    return (agent.progress.steps - first) / elapsed


def measure(case: Case, seeds: int, options: argparse.Namespace) -> dict[str, Any]:
    """A stack, one seed alone and SB3's run in turns: plain values for a JSON file."""
    alone, command = throughput.make_ours(case, options)
    set_threads(1, images=False)
    theirs = throughput.make_theirs(case, command, "cpu")
    stack, memory = make_stack(command, seeds)
    _warm_up(alone.iterate, alone, command)
    theirs.learn(getattr(command.agent, "learning_starts", 0) + 1, reset_num_timesteps=False)
    has_peer = options.jax and case.algorithm == "ppo"
    peer = jax_peer(command, seeds, options.jax) if has_peer else None
    rounds: dict[str, list[float]] = {"stack": [], "alone": [], "sb3": [], "jax": []}
    for _ in range(options.rounds):
        member = stack.members[0]
        rounds["stack"].append(seeds * rate(stack.iterate, member, options.seconds))
        rounds["alone"].append(rate(alone.iterate, alone, options.seconds))
        rounds["sb3"].append(throughput.run_theirs(theirs, options.seconds))
        if peer is not None:
            rounds["jax"].append(peer.ask(str(options.seconds)))
    for agent in (alone, *stack.members):
        agent.setup.envs.close()
    theirs.env.close()
    if peer is not None:
        peer.close()
    return {**rounds, "seeds": seeds, "mib_per_seed": memory}


def jax_peer(command: Command, seeds: int, python: str) -> PeerProcess:
    """The peer in JAX, with the hyperparameters of our command."""
    config, optimizer = command.agent, command.optimizer
    first = ("rollout_steps", "batch_size", "epochs", "hidden", "gamma", "gae_lambda", "clip")
    names = (*first, "entropy_coefficient", "value_coefficient", "max_grad_norm")
    chosen = {name: getattr(config, name) for name in names}
    chosen |= {"num_envs": command.run.num_envs, "lr": optimizer.lr, "eps": optimizer.eps}
    return PeerProcess("--jax", python, "jax_peer.py", seeds, json.dumps(chosen))


def line(result: dict[str, Any]) -> str:
    """One row of the table."""
    stack = result["stack"]
    cells = [f"{result['seeds']:5d} {statistics.median(stack):9.0f}"]
    for other in ("alone", "sb3"):
        ratios = [a / b for a, b in zip(stack, result[other], strict=True)]
        cells.append(f"{statistics.median(ratios):6.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    if result["jax"]:
        ratios = [b / a for a, b in zip(stack, result["jax"], strict=True)]
        cells.append(f"{statistics.median(ratios):6.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    return "  ".join([*cells, f"{result['mib_per_seed']:7.1f}"])


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(argv)
    warnings.filterwarnings("ignore", message="This system does not have apparently enough memory")
    print("\n".join(f"{key}: {value}" for key, value in throughput.machine(options).items()))
    report: list[dict[str, Any]] = []
    for name in options.cases:
        for hidden, envs in itertools.product(options.hidden or [""], options.num_envs or [""]):
            case, widths = CASES[name], [hidden] * 2 * bool(hidden)
            flags = ["--hidden", *widths] if widths else []
            flags += ["--num-envs", envs] if envs else []
            theirs = ["--net-arch", *widths] if widths else []
            case = replace(case, ours=(*case.ours, *flags), theirs=(*case.theirs, *theirs))
            print(
                f"\n{name} {' '.join(flags)}\nseeds   steps/s  K runs              K of SB3"
                f"           {'  JAX / stack        ' if options.jax else ''}MiB/seed"
            )
            for seeds in options.seeds:
                try:
                    made = measure(case, seeds, options)
                    report.append({"case": name, "hidden": hidden, "num_envs": envs, **made})
                except UserError as problem:
                    fail(problem, "semigradient.benchmarks.scaling")
                print(line(report[-1]), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="semigradient.benchmarks.scaling", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(_STACKED), choices=_STACKED)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--hidden", nargs="+", default=[], help="widths of both hidden layers")
    parser.add_argument("--num-envs", nargs="+", default=[], help="environments of each seed")
    parser.add_argument("--jax", default="", help="a Python with jax: PPO's peer; default: none")
    parser.add_argument("--seconds", type=float, default=4.0, help="per side and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="", help="also write a JSON file")
    parser.set_defaults(device="cpu", threads=1, env_threads=0, compile=False)
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
