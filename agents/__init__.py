"""The registry of agents: names to classes, imported on first use.

A class and its `Config` may be defined in any module: --agent module:Class loads it, and the
entry points `semigradient.agents` of an installed package give it a name (docs/plugins.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from semigradient import registry
from semigradient.errors import UserError, require
from semigradient.optim import NO_OPTIMIZER
from semigradient.registry import Registry


@dataclass(frozen=True)
class Entry(registry.Entry):
    """Location and description of an agent.

    Attributes:
        location: "module:Class"; the module also holds the agent's `Config`.
        summary: one line for `--help`.
        overrides: config fields that this name fixes the default of.
        preset: whose file in `presets/` it takes; default: that of its own name.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    preset: str = ""


_OURS: dict[str, Entry] = {
    "dqn": Entry("semigradient.agents.dqn:DQN", "deep Q-learning (Mnih et al. 2015)"),
    "ddqn": Entry(
        "semigradient.agents.dqn:DQN",
        "double deep Q-learning (van Hasselt et al. 2016)",
        {"double": True},
        preset="dqn",
    ),
    "dau": Entry(
        "semigradient.agents.continuous_time.dau:DAU",
        "deep advantage updating (Tallec et al. 2019)",
    ),
    "ddpg": Entry(
        "semigradient.agents.continuous_time.ddpg:DDPG",
        "deep deterministic policy gradients (Lillicrap et al. 2016)",
    ),
    "td3": Entry(
        "semigradient.agents.td3:TD3",
        "twin delayed deep deterministic policy gradients (Fujimoto et al. 2018)",
    ),
    "sac": Entry(
        "semigradient.agents.sac:SAC",
        "soft actor-critic for continuous actions (Haarnoja et al. 2018)",
    ),
    "ppo": Entry(
        "semigradient.agents.ppo:PPO", "proximal policy optimisation (Schulman et al. 2017)"
    ),
    "a2c": Entry(
        "semigradient.agents.a2c:A2C", "synchronous advantage actor-critic (Mnih et al. 2016)"
    ),
    "reinforce": Entry("semigradient.agents.reinforce:REINFORCE", "REINFORCE (Williams 1992)"),
    "online-ac": Entry(
        "semigradient.agents.online_ac:OnlineActorCritic",
        "recurrent actor-critic(λ) at every step, by RTRL, UORO or truncation",
    ),
    "pcl": Entry("semigradient.agents.pcl:PCL", "path consistency learning (Nachum et al. 2017)"),
    "soft-q": Entry("semigradient.agents.soft_q:SoftQ", "soft Q-learning (Haarnoja et al. 2017)"),
    "sac-discrete": Entry(
        "semigradient.agents.soft_q:SoftQ",
        "soft actor-critic for discrete actions (Christodoulou 2019)",
        {"actor": "network", "entropy_share": 0.5},
        preset="soft-q",
    ),
    "gflownet": Entry(
        "semigradient.agents.gflownet.gflownet:GFlowNet", "flow networks (Bengio et al. 2021)"
    ),
    "brs": Entry(
        "semigradient.agents.games.brs:BRS",
        "best response shaping on the coin game (Cooijmans 2023)",
    ),
    "brs-sp": Entry(
        "semigradient.agents.games.brs:BRS",
        "best response shaping with self-play and reward sharing",
        {"self_play": True, "common_random_numbers": True, "buffer_size": 512},
    ),
    "brs-exact": Entry(
        "semigradient.agents.games.exact_brs:ExactBRS",
        "best response shaping on the coin game by dynamic programming",
    ),
    "brs-sp-exact": Entry(
        "semigradient.agents.games.exact_brs:ExactBRS",
        "the same with self-play and reward sharing",
        {"self_play": 1.0},
        preset="brs-exact",
    ),
    "brs-ipd": Entry(
        "semigradient.agents.games.tree_search:TreeSearchBRS",
        "best response shaping against a tree search",
    ),
    "brs-sp-ipd": Entry(
        "semigradient.agents.games.tree_search:TreeSearchBRS",
        "the same with self-play and reward sharing",
        {"self_play": 1.0},
        preset="brs-ipd",
    ),
    "lola-dice": Entry(
        "semigradient.agents.games.lola_dice:LolaDice", "LOLA-DiCE, sampled (Foerster et al. 2018)"
    ),
    "metropolis": Entry(
        "semigradient.agents.gflownet.walkers:Walker",
        "Metropolis-Hastings over the objects of a grid",
    ),
    "random": Entry(
        "semigradient.agents.gflownet.walkers:Walker",
        "uniformly random constructions",
        {"kind": "random"},
        "metropolis",
    ),
    "mars": Entry(
        "semigradient.agents.gflownet.mars:MARS",
        "Markov chains with learned proposals (Xie et al. 2021)",
    ),
    "genetic": Entry(
        "semigradient.agents.gflownet.genetic:Genetic",
        "genetic algorithm over constructions",
        preset="metropolis",
    ),
    "classifier": Entry(
        "semigradient.agents.supervised:Supervised",
        "supervised classification of the images of an environment",
    ),
    "regressor": Entry(
        "semigradient.agents.supervised:Supervised",
        "supervised regression of the table of an environment",
        {"task": "regression", "hidden": (64, 64, 64)},
    ),
    "composer": Entry(
        "semigradient.agents.music.composers:Composer", "samplers of chorales, as policies to score"
    ),
    "coconet": Entry(
        "semigradient.agents.music.coconet:Coconet", "completing scores (Huang et al. 2017)"
    ),
    "coconet-small": Entry(
        "semigradient.agents.music.coconet:Coconet",
        "the same at a size for processors",
        {"channels": 24, "layers": 10, "batch_size": 16, "schedule": "linear"},
    ),
    "cola": Entry(
        "semigradient.agents.games.cola:COLA",
        "consistent opponent-learning awareness (Willi et al. 2022)",
    ),
    "meva": Entry(
        "semigradient.agents.games.meva:MeVa",
        "meta-value learning on an exact game (Cooijmans 2024)",
    ),
    "m-maml": Entry(
        "semigradient.agents.games.m_maml:MMAML",
        "a start and a step size from which naive learning ends well",
    ),
    "m-fos": Entry(
        "semigradient.agents.games.m_fos:MFOS", "model-free opponent shaping (Lu et al. 2022)"
    ),
    "naive": Entry(
        "semigradient.agents.games.learning_rule:LearningRule",
        "simultaneous gradients of exact returns",
        {"rule": "naive"},
        preset="learning-rule",
    ),
    "lookahead": Entry(
        "semigradient.agents.games.learning_rule:LearningRule",
        "LookAhead on exact returns (Zhang and Lesser 2010)",
        {"rule": "lookahead"},
        preset="learning-rule",
    ),
    "lola": Entry(
        "semigradient.agents.games.learning_rule:LearningRule",
        "learning with opponent-learning awareness, exact (Foerster et al. 2018)",
        {"rule": "lola"},
        preset="learning-rule",
    ),
    "lola-taylor": Entry(
        "semigradient.agents.games.learning_rule:LearningRule",
        "LOLA to first order",
        {"rule": "lola-taylor"},
        preset="learning-rule",
    ),
    "hola2": Entry(
        "semigradient.agents.games.learning_rule:LearningRule",
        "second-order LOLA, exact",
        {"rule": "hola2"},
        preset="learning-rule",
    ),
    "pola": Entry(
        "semigradient.agents.games.learning_rule:LearningRule",
        "proximal LOLA on exact returns (Zhao et al. 2022)",
        {"rule": "pola"},
        preset="learning-rule",
    ),
    "sb3-dqn": Entry("semigradient.agents.sb3.dqn:DQN", "stable-baselines3's DQN"),
    "sb3-ppo": Entry("semigradient.agents.sb3.ppo:PPO", "stable-baselines3's PPO"),
    "sb3-a2c": Entry("semigradient.agents.sb3.a2c:A2C", "stable-baselines3's A2C"),
}


AGENTS = Registry("agent", Entry, _OURS, group="semigradient.agents")
"""Ours, and those of installed packages."""


def names() -> list[str]:
    """Names of all agents."""
    return sorted(AGENTS.names())


def entry(name: str) -> Entry:
    """Registry entry of `name` or "module:Class", or a `UserError` with the nearest names."""
    return AGENTS.find(name)


def config_class(name: str) -> type:
    """The agent's `Config` dataclass."""
    config: type = AGENTS.load(name, "Config")
    require(is_dataclass(config), f"agent {name!r}: its Config must be a dataclass")
    return config


def has_optimizer(name: str) -> bool:
    """Whether the agent takes an optimizer; one that does not sets `HAS_OPTIMIZER = False`."""
    return getattr(agent_class(name), "HAS_OPTIMIZER", True)


def check_optimizer(name: str, optimizer: str, options: Iterable[str] = ()) -> None:
    """Raise `UserError` for an optimizer, or options of one, where the agent has none.

    Args:
        name: of the agent.
        optimizer: its name; `optim.NO_OPTIMIZER` is accepted by agents without optimizer only.
        options: names of those that were chosen.
    """
    if has_optimizer(name):
        require(optimizer != NO_OPTIMIZER, f"--optim {optimizer}: {name} needs an optimizer")
        return
    require(
        optimizer == NO_OPTIMIZER,
        f"--optim {optimizer}: {name} has no optimizer, leave --optim out",
    )
    for option in options:
        raise UserError(f"--optim.{option}: {name} has no optimizer, leave it out")


def agent_class(name: str) -> type:
    """The agent's class: `Agent(config, setup)`."""
    agent: type = AGENTS.load(name)
    return agent
