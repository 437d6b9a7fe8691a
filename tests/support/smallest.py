"""The smallest case of every agent and environment, for the contracts that all of them keep.

What is registered and not listed is tried as it comes: an agent on CartPole, an environment
without options. An entry is wanted only where that does not fit or takes longer than a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium

from semigradient import agents
from semigradient.domains.flows.objectives import OBJECTIVES
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
_CONTINUOUS = (
    "--env Pendulum-v1 --preset none --num-envs 2 --learning-starts 8 --buffer-size 64 "
    "--batch-size 8 --hidden 8"
)
_ACTOR_CRITIC = (
    f"{_CARTPOLE} --num-envs 2 --rollout-steps 8 --hidden 8 --normalise-observations "
    "--normalise-rewards"
)
_IPD = "--env semigradient/IPD-v0"
_GLIMPSE = "--env semigradient/Glimpse-v0 --env-options dataset=small-glyphs limit=50"
_FLOW = f"{_GRID} --batch-size 4 --hidden 8 --exact-every 5"
_GRAPHS = (
    f"{_MOLECULES} --batch-size 4 --graph-width 8 --graph-steps 2 --test-objects 6 --exact-every 3"
)
_META = (
    f"{_IPD} --batch-size 8 --updates 3 --width 8 --epochs 2 --minibatches 2 --evaluation-updates 2"
)
_TRUNK = (
    "--env semigradient/ChoraleFill-v0 --env-options source=CHORALES frames=8 task=inpaint "
    "--torso coconet --torso-width 4 --torso-depth 0 --num-envs 2 --rollout-steps 8"
)
_CHORALES = "--env semigradient/Chorales-v0 --env-options source=CHORALES grid=4 steps=8"

AGENT_FLAGS: dict[str, list[str]] = {
    "dqn": [
        f"{_CARTPOLE} {_VALUES} --target hard --target-update-every 20 --n-step 3",
        f"{_GLIMPSE} {_VALUES} --target ema",
    ],
    "ddqn": [
        f"--env semigradient/CartPole-v0 --env-options dt=0.05 {_VALUES} --preset none "
        "--train-every 4 --target ema --exploration ou --time scaled",
        f"{_GLIMPSE} action_mode=flat {_VALUES} --target none",
    ],
    "dau": [_PHYSICAL],
    "ddpg": [f"{_PHYSICAL} --target-rate 0.1"],
    "td3": [f"{_CONTINUOUS} --train-every 2 --target-rate 0.1"],
    "sac": [_CONTINUOUS, f"{_CONTINUOUS} --no-adjust-temperature --schedule linear"],
    "ppo": [
        f"{_ACTOR_CRITIC} --batch-size 8 --epochs 2",
        f"{_GLIMPSE} --num-envs 2 --rollout-steps 4 --batch-size 8 --epochs 2 --hidden 8",
        f"{_MOLECULES} --torso-width 16 --torso-depth 2 --num-envs 2 --rollout-steps 6 "
        "--batch-size 4 --epochs 1",
        f"{_TRUNK} --batch-size 8 --epochs 2",
    ],
    "a2c": [_ACTOR_CRITIC, _TRUNK],
    "reinforce": [
        f"{_CARTPOLE} --num-envs 2 --hidden 8 --episodes-per-env 2",
        f"{_GLIMPSE} --num-envs 2 --hidden 8",
    ],
    "online-ac": [
        f"--env semigradient/Queue-v0 --env-options length=7 --num-envs 2 --units 3 "
        f"--estimator {kind}"
        for kind in ("uoro --memory 2", "rtrl", "tbptt", "artbp", "preuoro --cell lstm")
    ]
    + [
        "--env Pendulum-v1 --num-envs 2 --units 3",
        f"{_GLIMPSE} --num-envs 2 --units 3",
    ],
    "pcl": [f"--env semigradient/ToyChorale-v0 {_VALUES} --path-length 4"],
    "soft-q": [f"{_GRID} {_VALUES}"],
    "gflownet": [
        *(f"{_FLOW} --loss {loss}" for loss in OBJECTIVES),
        f"{_FLOW} --loss tb --backward learned --replay terminals",
        f"{_FLOW} --loss db --replay transitions --replay-priority loss --target ema",
        f"{_FLOW} --replay trajectories --replay-top --replay-size 10 --target frozen",
        f"{_FLOW.replace('height=7', 'height=7 second=sparse')} --loss tb --preferences",
        f"{_FLOW} --loss tb --exponent-range 1 4 --replay trajectories",
        f"{_FLOW} --loss tb --local-search 2 --replay trajectories",
        f"{_GRAPHS} --loss tb --local-search 1 --local-search-back 0",
        f"{_FLOW} --offline uniform-objects --offline-size 20",
        f"{_GRAPHS} --loss fm --replay trajectories --replay-size 20",
        f"{_GRAPHS} --loss tb --replay terminals --replay-priority reward --replay-top",
        f"{_GRAPHS} --loss db --replay transitions --target ema",
        f"{_GRAPHS} --loss subtb --offline random-policy --offline-size 10",
    ],
    "metropolis": [f"{_GRID} --chains 4"],
    "random": [f"{_MOLECULES} --chains 4", f"{_GRID} --chains 4"],
    "mars": [
        f"{_MOLECULES} --chains 4 --moves 5 --batch-size 8 --graph-width 8 --graph-steps 2",
        "--env semigradient/ToyMolecules-v0 --chains 4 --moves 5 --batch-size 8 --hidden 8",
    ],
    "genetic": [f"{_MOLECULES} --population 8 --offspring 8", f"{_GRID} --population 8"],
    "brs": [
        "--env semigradient/CoinGame-v0 --num-envs 4 --env-options horizon=6 --hidden 4 "
        "--buffer-size 4 --question-samples 2"
    ],
    "brs-exact": [
        "--env semigradient/CoinGame-v0 --env-options horizon=3",
        "--env semigradient/CoinGame-v0 --env-options horizon=3 --hidden 8 --self-play 1",
    ],
    "brs-ipd": [f"{_IPD} --env-options horizon=3 --trees 4 --hidden 4 --agents 2"],
    "lola-dice": [f"{_IPD} --env-options horizon=5 --batch-size 4 --pairs 2"],
    "classifier": [
        "--env semigradient/Classification-v0 --env-options dataset=small-glyphs --batch-size 8"
    ],
    "regressor": [
        "--env semigradient/Regression-v0 --env-options dataset=waves --hidden 8 --batch-size 8"
    ],
    "composer": ["--env semigradient/ToyChorale-v0 --num-envs 2"],
    "coconet": [
        f"{_CHORALES} --channels 4 --layers 4 --batch-size 4 --validation-crops 2 "
        "--validate-every 8 --patience 1"
    ],
    "cola": ["--env semigradient/LogisticGame-v0 --batch-size 4 --width 8"],
    "meva": [
        f"{_IPD} --batch-size 4 --width 8 --quantiles 4 --trajectory 4 --stride 2 "
        "--evaluation-updates 2"
    ],
    "m-maml": [f"{_IPD} --batch-size 4 --updates 3 --models 2 --evaluation-updates 2"],
    "m-fos": [_META, f"{_META} --opponent self", f"{_META} --opponent lola"],
    "naive": [f"{_IPD} --pairs 4"],
    "sb3-dqn": [f"{_CARTPOLE} --preset none --learning-starts 16 --batch-size 8"],
    "sb3-ppo": [f"{_CARTPOLE} --n-steps 16 --batch-size 8 --n-epochs 1"],
    "sb3-a2c": [_CARTPOLE],
}
"""Flags by name, as many sets as there are kinds of the agent that hold different state; a name
that is not here takes those of another of the same class."""

ITERATIONS = {"pola": 1, "brs": 2, "brs-sp": 2}
"""How many of an agent's iterations take about half a second, where it is not `_ITERATIONS`."""
_ITERATIONS = 8

_SCORES = {"source": "CHORALES", "frames": 8}
_MOLECULE = {"vocabulary": "small", "max_blocks": 3, "reward": "mw_window"}
_SECONDS = {"dt": 0.05, "time_limit": 0.5}

ENV_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "semigradient/Glimpse-v0": [
        {},
        {"dataset": "digits", "action_mode": "flat", "split": "test"},
        {"dataset": "small-glyphs", "limit": 100},
    ],
    "semigradient/Classification-v0": [{}, {"dataset": "small-glyphs"}],
    "semigradient/Regression-v0": [{"dataset": "diabetes"}],
    "semigradient/HyperGrid-v0": [
        {},
        {"dimensions": 4, "rule": "exit_only"},
        {"dimensions": 1, "reward": "cosine"},
    ],
    "semigradient/BitSequences-v0": [{}, {"length": 16, "word": 2, "modes": 3, "order": "both"}],
    "semigradient/Sequences-v0": [{"length": 4}, {"length": 4, "order": "append"}],
    "semigradient/ActiveHyperGrid-v0": [{"dimensions": 2, "initial": 12, "queries": 2}],
    "semigradient/ToyChorale-v0": [
        {},
        {"order": "random"},
        {"task": "inpaint", "actions": "multidiscrete"},
    ],
    "semigradient/ChoraleFill-v0": [
        {**_SCORES, "task": "inpaint"},
        {**_SCORES, "order": "random", "reward": "terminal-rules"},
        {**_SCORES, "actions": "multidiscrete"},
    ],
    "semigradient/ChoraleRewrite-v0": [
        {"model": "toy"},
        {"model": "toy", "actions": "mask", "score": "frame"},
        {**_SCORES, "actions": "note", "score": "rules", "corrupt": 0.5},
        {"model": "toy", "actions": "schedule"},
    ],
    "semigradient/ChoraleChrono-v0": [{**_SCORES, "task": "harmonize", "cadence": 5.0}],
    "semigradient/Chorales-v0": [{"source": "CHORALES", "grid": 4, "steps": 8}],
    "semigradient/Molecule-v0": [
        {**_MOLECULE, "masks": "info"},
        {**_MOLECULE, "masks": "none"},
    ],
    "semigradient/ActiveMolecule-v0": [
        {**_MOLECULE, "initial": 12, "queries": 3, "rounds": 2, "top_k": 2}
    ],
    "semigradient/Warp-v0": [{}, {"warp": 3, "variable": False, "padded": True}],
    "semigradient/CoinGame-v0": [{}, {"opponent": "random", "size": 5, "seat": 1}],
    "semigradient/IPD-v0": [{}, {"opponent": "random"}],
    "semigradient/Pendulum-v0": [
        _SECONDS,
        {**_SECONDS, "actions": "discrete"},
        {**_SECONDS, "integrator": "published"},
    ],
    "semigradient/CartPole-v0": [_SECONDS],
    "semigradient/Pusher-v0": [_SECONDS, {**_SECONDS, "actions": "discrete"}],
    "semigradient/Hill-v0": [_SECONDS, {**_SECONDS, "actions": "continuous"}],
    "semigradient/TimeStep-v0": [{"base": "CartPole-v1", "dt": 0.01, "time_limit": 0.5}],
}
"""Options by id, as many sets as there are kinds of it that differ."""


def iterations(agent: str) -> int:
    """How often an agent is asked to iterate before it is saved, and once more after."""
    return ITERATIONS.get(agent, _ITERATIONS)


def agent_cases() -> list[tuple[str, str]]:
    """Every registered agent with each of its sets of flags."""
    return [(name, flags) for name in agents.names() for flags in _flags(name)]


def _flags(agent: str) -> list[str]:
    where = agents.entry(agent).location
    kin = [name for name in AGENT_FLAGS if agents.entry(name).location == where]
    return AGENT_FLAGS.get(agent) or (AGENT_FLAGS[kin[0]][:1] if kin else [_CARTPOLE])


def agent_words(case: tuple[str, str], folder: Path) -> list[str]:
    """The command line of an agent's small run; `folder` is for what it reads."""
    agent, flags = case
    if "CHORALES" in flags:
        flags = flags.replace("CHORALES", write_pieces(folder))
    return ["--agent", agent, *flags.split()]


def smallest_words(agent: str, folder: Path) -> list[str]:
    """The command line of an agent's smallest run."""
    return agent_words((agent, _flags(agent)[0]), folder)


def env_cases() -> list[tuple[str, dict[str, Any]]]:
    """Every id that this package registers, with each of its sets of options."""
    ours = [i for i, spec in gymnasium.registry.items() if spec.namespace == "semigradient"]
    return [(env_id, options) for env_id in ours for options in ENV_OPTIONS.get(env_id, [{}])]


def filled(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The options with a folder of made-up pieces where they want one."""
    wants = options.get("source") == "CHORALES"
    return {**options, "source": write_pieces(folder)} if wants else dict(options)
