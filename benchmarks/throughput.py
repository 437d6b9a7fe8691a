"""Environment steps per second of training, compared with stable-baselines3.

    python -m semigradient.benchmarks.throughput --cases cartpole-dqn pong-ppo --seconds 10

Both train with the same hyperparameters, network sizes (but for most of the cases `pong-small-…`,
where ours is larger), numbers of environments and torch threads, in turns in one process;
construction and warm-up are not timed. SB3 runs as its users run it: `make_vec_env` (or
`make_atari_env` and frame stacking) and `learn`. The use of cores besides torch differs: our Atari
environments run in ale-py's threads (`--env-threads`), those of SB3 sequentially.
Exploration and schedules are constant, so that every round does the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from semigradient.benchmarks import continuous_control
from semigradient.errors import UserError, require
from semigradient.training.agent import Agent
from semigradient.training.build import build, set_threads
from semigradient.training.cli import fail, parse
from semigradient.training.command import Command

_PACKAGES = ("torch", "stable-baselines3", "gymnasium", "ale-py", "numpy")
_FOREVER = 10**9  # steps of a run that is limited by time only


@dataclass(frozen=True)
class Case:
    """One algorithm on one environment, with our and SB3's flags in addition to the presets.

    Attributes:
        side: of Atari images in pixels.
    """

    algorithm: str
    env: str
    ours: tuple[str, ...] = ()
    theirs: tuple[str, ...] = ()
    side: int = 84


_CONSTANT = ("--schedule", "constant")
_CONSTANT_PPO = (*_CONSTANT, "--clip-schedule", "constant")
# A memory of 20 000 images, because SB3 stores each twice; learning starts early.
_SMALL = ("--buffer-size", "20000", "--learning-starts", "100")
_SB3_PONG = ("--exploration-initial-eps=0.01", *_SMALL)
# The hyperparameters of sb3-dqn.toml, from rl-baselines3-zoo, as our flags.
_ZOO_DQN = (
    *("--n-step", "1", "--train-every", "256", "--gradient-steps", "128", "--optim.lr", "2.3e-3"),
    *("--target", "hard", "--target-update-every", "10", *_CONSTANT),
)
_EARLY = ("--learning-starts", "300")
_EVERY_STEP = ("--train-every", "1", "--gradient-steps", "1")
_SB3_CARTPOLE = ("--exploration-initial-eps=0.04",)

CASES = {
    "cartpole-dqn": Case("dqn", "CartPole-v1", ("--epsilon-start=0.04", *_ZOO_DQN), _SB3_CARTPOLE),
    "cartpole-ppo": Case("ppo", "CartPole-v1", _CONSTANT_PPO, _CONSTANT_PPO),
    "cartpole-a2c": Case("a2c", "CartPole-v1", _CONSTANT, _CONSTANT),
    "pendulum-td3": Case("td3", "Pendulum-v1", (*_EARLY, *_EVERY_STEP)),
    "pendulum-sac": Case("sac", "Pendulum-v1", _EARLY),
    "pong-dqn": Case("dqn", "ALE/Pong-v5", ("--epsilon-start=0.01", *_SMALL), _SB3_PONG),
    "pong-ppo": Case("ppo", "ALE/Pong-v5", _CONSTANT_PPO, _CONSTANT_PPO),
    "pong-a2c": Case("a2c", "ALE/Pong-v5", _CONSTANT, _CONSTANT),
}
# Both sides see 42×42 pixels. Our preset's own network for them has 2,592 features, the Nature CNN
# of SB3 64: only DQN can be told to take the latter, as `pong-small-dqn-nature`.
CASES |= {
    name.replace("pong", "pong-small"): replace(
        case, ours=("--preset", "small", *case.ours), side=42
    )
    for name, case in CASES.items()
    if name.startswith("pong-")
}
_NATURE = (*CASES["pong-small-dqn"].ours, "--torso", "nature")
CASES["pong-small-dqn-nature"] = replace(CASES["pong-small-dqn"], ours=_NATURE)


class StopAfter(BaseCallback):
    """End `learn` after some seconds, between two cycles, and count complete cycles only."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.elapsed = self.steps = 0.0

    def _on_training_start(self) -> None:
        self._first, self._begin = self.model.num_timesteps, time.perf_counter()

    def _on_rollout_start(self) -> None:
        self.elapsed = time.perf_counter() - self._begin
        self.steps = self.model.num_timesteps - self._first

    def _on_step(self) -> bool:
        return self.elapsed < self.seconds


def run_ours(agent: Agent, seconds: float) -> float:
    """Train our agent for `seconds`: environment steps per second."""
    first, begin = agent.progress.steps, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        agent.iterate()
        if agent.setup.device.type == "cuda":
            torch.cuda.synchronize()
    return (agent.progress.steps - first) / elapsed


def run_theirs(model: Any, seconds: float) -> float:
    """Train SB3's for `seconds`: environment steps per second."""
    clock = StopAfter(seconds)
    model.learn(_FOREVER, callback=clock, reset_num_timesteps=False)
    return clock.steps / clock.elapsed


def make_ours(case: Case, options: argparse.Namespace) -> tuple[Agent, Command]:
    """Our agent as built by `train.py`."""
    flags = [*case.ours, "--device", options.device, "--threads", str(options.threads)]
    if case.env.startswith("ALE/"):
        pixels = [f"img_{name}={case.side}" for name in ("height", "width")]
        flags += ["--env-options", f"num_threads={options.env_threads}", *pixels]
    flags += ["--compile"] if options.compile else []
    command = _parse(case.algorithm, case.env, flags)
    return build(command), command


def make_theirs(case: Case, ours: Command, device: str) -> Any:
    """SB3's algorithm, with its own optimizer, on environments that SB3 makes."""
    if case.algorithm in continuous_control.AGENTS:
        return continuous_control.sb3_model(ours, device)
    num_envs = ours.run.num_envs
    command = _parse(f"sb3-{case.algorithm}", case.env, case.theirs)
    chosen = command.agent.arguments()
    images = case.env.startswith("ALE/")
    if case.algorithm == "a2c" and images:
        chosen["policy_kwargs"] |= {
            "optimizer_class": RMSpropTFLike,
            "optimizer_kwargs": {"alpha": command.optimizer.alpha, "eps": command.optimizer.eps},
        }
    algorithms: dict[str, Any] = {"dqn": DQN, "ppo": PPO, "a2c": A2C}
    return algorithms[case.algorithm](
        "CnnPolicy" if images else "MlpPolicy",
        _atari(case.env, num_envs, case.side)
        if images
        else make_vec_env(case.env, num_envs, seed=0),
        learning_rate=command.optimizer.lr,
        seed=0,
        device=device,
        **chosen,
    )


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Build and warm up both, run them in turns: plain values for a JSON file."""
    agent, command = make_ours(case, options)
    set_threads(options.threads, images=False)
    model = make_theirs(case, command, options.device)
    warm = getattr(command.agent, "learning_starts", 0)
    while agent.progress.steps <= warm:
        agent.iterate()
    model.learn(warm + 1, reset_num_timesteps=False)
    run_ours(agent, options.warmup)
    run_theirs(model, options.warmup)
    agent.timers.seconds.clear()
    ours, theirs = [], []
    for _ in range(options.rounds):
        ours.append(run_ours(agent, options.seconds))
        theirs.append(run_theirs(model, options.seconds))
    agent.setup.envs.close()
    model.env.close()
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "ours": ours,
        "sb3": theirs,
        "ratios": ratios,
        "ratio_median": statistics.median(ratios),
        "phase_seconds": dict(agent.timers.seconds),
    }


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(argv)
    # SB3 warns that its replay memory may not fit, although this run fills little of it.
    warnings.filterwarnings("ignore", message="This system does not have apparently enough memory")
    facts = machine(options)
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    report: dict[str, Any] = {"machine": facts, "cases": {}}
    print(f"\n{'case':14s} {'ours':>9s} {'SB3':>9s}  ratio by round → median [min, max]")
    for name in options.cases:
        try:
            report["cases"][name] = measure(CASES[name], options)
        except UserError as problem:
            fail(problem, "semigradient.benchmarks.throughput")
        print(_lines(name, report["cases"][name]), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _lines(name: str, result: dict[str, Any]) -> str:
    phases, ratios = result["phase_seconds"], result["ratios"]
    shares = ", ".join(f"{k} {100 * v / sum(phases.values()):.0f} %" for k, v in phases.items())
    ours, theirs = map(statistics.median, (result["ours"], result["sb3"]))
    rounds = " ".join(f"{ratio:.2f}" for ratio in ratios)
    return (
        f"{name:14s} {ours:9.0f} {theirs:9.0f}  {rounds} → {result['ratio_median']:.2f} "
        f"[{min(ratios):.2f}, {max(ratios):.2f}]\n{'':14s} our time: {shares}"
    )


def _parse(agent: str, env: str, flags: tuple[str, ...] | list[str]) -> Command:
    run = ["--agent", agent, "--env", env, "--steps", str(_FOREVER)]
    return parse([*run, *flags]).command


def _atari(env_id: str, num_envs: int, side: int) -> VecEnv:
    """Our protocol in SB3's wrappers, which also press fire after a reset: two additional steps."""
    game = env_id.removeprefix("ALE/").removesuffix("-v5")
    require(find_spec("cv2") is not None, "Pong beside SB3: pip install opencv-python-headless")
    wrapping: dict[str, Any] = {"noop_max": 30, "frame_skip": 4, "clip_reward": True}
    wrapping |= {
        "screen_size": side,
        "terminal_on_life_loss": False,
        "action_repeat_probability": 0.25,
    }
    envs = make_atari_env(f"{game}NoFrameskip-v4", num_envs, seed=0, wrapper_kwargs=wrapping)
    return VecFrameStack(envs, n_stack=4)


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures are of."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        models = [
            line
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        cpu = models[0].partition(": ")[2] if models else cpu
    return {
        "versions": f"python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "cpu": f"{os.cpu_count()} × {cpu}",
        "gpu": torch.cuda.get_device_name() if options.device == "cuda" else "not used",
        "torch threads": options.threads,
        "Atari threads of ours": options.env_threads or "all cores",
        "compiled": options.compile,
        "seconds": f"{options.rounds} rounds of {options.seconds:g} s per side",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="semigradient.benchmarks.throughput", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=10.0, help="per side and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds not counted, per side")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both sides")
    parser.add_argument("--env-threads", type=int, default=0, help="ours, Atari; 0: all cores")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="compile our updates")
    parser.add_argument("--out", default="", help="also write a JSON file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
