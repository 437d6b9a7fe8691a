"""TD3 and SAC beside stable-baselines3's: same hyperparameters, same steps, same evaluation.

    python -m semigradient.benchmarks.continuous_control --env Pendulum-v1 --seeds 0 1 2 3 4

Every agent trains as long as its preset says, with the numbers of that preset, in environments that
each side makes as its users do; then its greedy policy plays whole episodes on the seeds of
`train.py`'s evaluation, the same for both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from semigradient.errors import UserError
from semigradient.nets import ACTIVATIONS
from semigradient.training.build import build, set_threads
from semigradient.training.cli import fail, parse
from semigradient.training.command import Command
from semigradient.training.evaluation import score

AGENTS = ("td3", "sac")


def sb3_model(command: Command, device: str = "cpu") -> Any:
    """SB3's TD3 or SAC with the hyperparameters of our command."""
    run, config, lr = command.run, command.agent, command.optimizer.lr
    envs = make_vec_env(run.env, run.num_envs, seed=run.seed)
    dimensions = prod(envs.action_space.shape or ())
    phases = run.num_envs / config.train_every if config.scale_gradient_steps else 1.0
    common: dict[str, Any] = {
        "learning_rate": (lambda left: lr * left) if config.schedule == "linear" else lr,
        "buffer_size": config.buffer_size,
        "learning_starts": config.learning_starts,
        "batch_size": config.batch_size,
        "tau": config.target_rate,
        "gamma": config.gamma,
        "train_freq": max(1, config.train_every // run.num_envs),  # in vector steps
        "gradient_steps": round(config.gradient_steps * max(1.0, phases)),
        "policy_kwargs": {
            "net_arch": list(config.hidden),
            "activation_fn": ACTIVATIONS[config.activation],
        },
        "seed": run.seed,
        "device": device,
    }
    if run.agent == "sac":
        automatic = f"auto_{config.temperature}"
        return SAC(
            "MlpPolicy",
            envs,
            ent_coef=automatic if config.adjust_temperature else config.temperature,
            target_entropy=config.entropy_per_dimension * dimensions,
            **common,
        )
    noise = np.full(dimensions, config.exploration_noise)
    return TD3(
        "MlpPolicy",
        envs,
        action_noise=NormalActionNoise(np.zeros(dimensions), noise),
        policy_delay=config.policy_delay,
        target_policy_noise=config.target_noise,
        target_noise_clip=config.target_noise_clip,
        **common,
    )


def train_ours(command: Command) -> Any:
    """Our agent's greedy policy after the steps of the command."""
    agent = build(command)
    while agent.progress.steps < command.run.steps:
        agent.iterate()
        agent.progress.pop_episodes()
    agent.setup.envs.close()
    return agent.policy(True)


def train_theirs(command: Command) -> Any:
    """SB3's greedy policy after as many."""
    model = sb3_model(command)
    model.learn(command.run.steps)
    model.env.close()
    return lambda obs, mask=None: model.predict(obs, deterministic=True)[0]


SIDES = {"ours": train_ours, "sb3": train_theirs}


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(argv)
    warnings.filterwarnings("ignore", message="This system does not have apparently enough memory")
    found: dict[str, list[dict[str, Any]]] = {}
    print(f"{'':10s} {'seed':>4s} {'return':>8s} {'training, s':>12s}")
    for agent in options.agents:
        for seed in options.seeds:
            words = ["--agent", agent, "--env", options.env, "--seed", str(seed), *options.flags]
            try:
                command = parse(words).command
            except UserError as problem:
                fail(problem, "semigradient.benchmarks.continuous_control")
            for side in options.sides:
                result = measure(command, side, options.episodes)
                found.setdefault(f"{side} {agent}", []).append({"seed": seed, **result})
                line = f"{result['return']:8.1f} {result['seconds']:12.0f}"
                print(f"{side} {agent:5s} {seed:4d} {line}", flush=True)
    for name, results in found.items():
        returns = [result["return"] for result in results]
        print(f"{name}: mean {statistics.mean(returns):.1f}, worst {min(returns):.1f}")
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(command: Command, side: str, episodes: int) -> dict[str, float]:
    """Mean greedy return after training, and the seconds that it took."""
    set_threads(1, images=False)
    torch.manual_seed(command.run.seed)
    begin = time.perf_counter()
    policy = SIDES[side](command)
    seconds = time.perf_counter() - begin
    scores = score(command, policy, episodes)
    return {"return": float(scores.returns.mean()), "seconds": seconds}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="semigradient.benchmarks.continuous_control", description=__doc__
    )
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), choices=AGENTS)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", default="", help="also write a JSON file")
    parser.add_argument("flags", nargs="*", help="flags of train.py, behind --")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
