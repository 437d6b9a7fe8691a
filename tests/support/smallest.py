"""The smallest case of every agent and environment, for the contracts that all of them keep.

What is registered and not listed is tried as it comes: an agent on CartPole, an environment
without options. An entry is wanted only where that does not fit or takes longer than a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semigradient.agents import entry
from support.chorales import write_pieces

_CARTPOLE = "--env CartPole-v1"
_GRID = "--env semigradient/HyperGrid-v0 --env-options height=7"
_MOLECULES = (
    "--env semigradient/Molecule-v0 --env-options vocabulary=small max_blocks=3 reward=mw_window"
)
_VALUES = "--num-envs 2 --learning-starts 16 --buffer-size 64 --batch-size 8 --hidden 8"
_PHYSICAL = (
    "--env semigradient/Pendulum-v0 --env-options dt=0.05 time_limit=0.5 --num-envs 2 --warm-up 2 "
    "--buffer-size 64 --batch-size 8 --gradient-steps 2 --hidden 8 --normalise-observations"
)
_ACTOR_CRITIC = (
    f"{_CARTPOLE} --num-envs 2 --rollout-steps 8 --hidden 8 --normalise-observations "
    "--normalise-rewards"
)
_CHORALES = "--env semigradient/Chorales-v0 --env-options source=CHORALES grid=4 steps=8"

AGENT_FLAGS: dict[str, str] = {
    "dqn": f"{_CARTPOLE} {_VALUES}",
    "ddqn": f"--env semigradient/CartPole-v0 --env-options dt=0.05 {_VALUES} --preset none "
    "--train-every 4 --target ema --exploration ou --time scaled",
    "dau": _PHYSICAL,
    "ddpg": f"{_PHYSICAL} --tau 0.9",
    "ppo": f"{_ACTOR_CRITIC} --batch-size 8 --epochs 2",
    "a2c": _ACTOR_CRITIC,
    "reinforce": f"{_CARTPOLE} --num-envs 2 --hidden 8",
    "pcl": f"--env semigradient/ToyChorale-v0 {_VALUES} --path-length 4",
    "soft-q": f"{_GRID} {_VALUES}",
    "gflownet": f"{_GRID} --batch-size 4 --hidden 8 --loss tb --replay trajectories",
    "metropolis": f"{_GRID} --chains 4",
    "random": f"{_MOLECULES} --chains 4",
    "mars": f"{_MOLECULES} --chains 4 --moves 5 --batch-size 8 --graph-width 8 --graph-steps 2",
    "genetic": f"{_MOLECULES} --population 8",
    "brs": "--env semigradient/CoinGame-v0 --num-envs 4 --env-options horizon=6 --hidden 4 "
    "--buffer-size 4 --question-samples 2",
    "brs-ipd": "--env semigradient/IPD-v0 --env-options horizon=3 --trees 4 --hidden 4",
    "lola-dice": "--env semigradient/IPD-v0 --env-options horizon=5 --batch 4",
    "classifier": "--env semigradient/Classification-v0 --env-options dataset=small-glyphs "
    "--batch-size 8",
    "regressor": "--env semigradient/Regression-v0 --env-options dataset=diabetes --batch-size 8",
    "composer": "--env semigradient/ToyChorale-v0 --num-envs 2",
    "coconet": f"{_CHORALES} --channels 4 --layers 4 --batch-size 4 --validation-crops 2",
    "cola": "--env semigradient/LogisticGame-v0 --batch-size 4 --width 8",
    "meva": "--env semigradient/IPD-v0 --batch-size 4 --width 8 --quantiles 4 --trajectory 4 "
    "--stride 2 --evaluation-updates 2",
    "m-maml": "--env semigradient/IPD-v0 --batch-size 4 --updates 3 --evaluation-updates 2",
    "m-fos": "--env semigradient/IPD-v0 --batch-size 4 --updates 3 --width 8 --epochs 2 "
    "--evaluation-updates 2",
    "naive": "--env semigradient/IPD-v0 --pairs 4",
    "sb3-dqn": f"{_CARTPOLE} --preset none --learning-starts 16 --batch-size 8",
    "sb3-ppo": f"{_CARTPOLE} --n-steps 16 --batch-size 8 --n-epochs 1",
    "sb3-a2c": _CARTPOLE,
}
"""Flags by name; a name that is not here takes those of another of the same class."""

ITERATIONS = {"pola": 1, "brs": 2, "brs-sp": 2}
"""How many of an agent's iterations take about half a second, where it is not `_ITERATIONS`."""
_ITERATIONS = 8

_TOY_TASK = {"source": "CHORALES", "grid": 4, "frames": 8}
ENV_OPTIONS: dict[str, dict[str, Any]] = {
    "semigradient/Glimpse-v0": {"dataset": "small-glyphs"},
    "semigradient/Classification-v0": {"dataset": "small-glyphs"},
    "semigradient/Regression-v0": {"dataset": "diabetes"},
    "semigradient/ActiveHyperGrid-v0": {"dimensions": 2, "initial": 12, "queries": 2},
    "semigradient/ChoraleFill-v0": _TOY_TASK,
    "semigradient/ChoraleRewrite-v0": {**_TOY_TASK, "score": "rules"},
    "semigradient/ChoraleChrono-v0": _TOY_TASK,
    "semigradient/Chorales-v0": {"source": "CHORALES", "grid": 4, "steps": 8},
    "semigradient/Molecule-v0": {"vocabulary": "small", "max_blocks": 3, "reward": "mw_window"},
    "semigradient/ActiveMolecule-v0": {
        "vocabulary": "small",
        "max_blocks": 3,
        "reward": "mw_window",
        "initial": 12,
        "queries": 3,
        "top_k": 2,
        "rounds": 2,
    },
    "semigradient/Pendulum-v0": {"dt": 0.05, "time_limit": 0.5},
    "semigradient/CartPole-v0": {"dt": 0.05, "time_limit": 0.5},
}
"""Options by id."""


def iterations(agent: str) -> int:
    """How often an agent is asked to iterate before it is saved, and once more after."""
    return ITERATIONS.get(agent, _ITERATIONS)


def agent_words(agent: str, folder: Path) -> list[str]:
    """The command line of an agent's smallest run; `folder` is for what it reads."""

    def place(name: str) -> str:
        return entry(name).location

    kin = [name for name in AGENT_FLAGS if place(name) == place(agent)]
    flags = AGENT_FLAGS.get(agent, AGENT_FLAGS[kin[0]] if kin else _CARTPOLE)
    if "CHORALES" in flags:
        flags = flags.replace("CHORALES", write_pieces(folder))
    return ["--agent", agent, *flags.split()]


def env_options(env_id: str, folder: Path) -> dict[str, Any]:
    """The options of an environment's smallest form; `folder` is for what it reads."""
    options = dict(ENV_OPTIONS.get(env_id, {}))
    if options.get("source") == "CHORALES":
        options["source"] = write_pieces(folder)
    return options
