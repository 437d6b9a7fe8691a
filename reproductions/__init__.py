"""Published figures and tables by name.

A reproduction is a module with three things: `TITLE` (a line that says what is reproduced),
`SEEDS` (how many, by scale) and `reproduce(job) -> Report`. `reproduce.py` does the rest. Nothing
here imports the modules: a list of names is no reason to load torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from errors import unknown

if TYPE_CHECKING:
    from reproductions.report import Job, Report

SCALES = ("quick", "full")
_MODULES = {
    "acrobot-cartpole": "reproductions.acrobot_cartpole",
    "binding-proxy": "reproductions.binding_proxy",
    "brs-ipd": "reproductions.brs_ipd",
    "atari-policy-evaluation": "reproductions.atari_policy_evaluation",
    "chorale-harmonize": "reproductions.chorale_harmonize",
    "chorale-rules": "reproductions.chorale_rules",
    "coconet-orderings": "reproductions.coconet_orderings",
    "cosine": "reproductions.cosine",
    "dau-ant": "reproductions.dau_ant",
    "dau-cart-pole": "reproductions.dau_cart_pole",
    "dau-cheetah": "reproductions.dau_cheetah",
    "dau-pendulum": "reproductions.dau_pendulum",
    "dau-pusher": "reproductions.dau_pusher",
    "dau-walker": "reproductions.dau_walker",
    "flow-theory": "reproductions.flow_theory",
    "frozen-targets": "reproductions.frozen_targets",
    "gain-profiles": "reproductions.gain_profiles",
    "generalisation-gap": "reproductions.generalisation_gap",
    "interference-evolution": "reproductions.interference_evolution",
    "hypergrid-active": "reproductions.hypergrid_active",
    "hypergrid-baselines": "reproductions.hypergrid_baselines",
    "hypergrid-entropy": "reproductions.hypergrid_entropy",
    "hypergrid-exact": "reproductions.hypergrid_exact",
    "hypergrid-offline": "reproductions.hypergrid_offline",
    "hypergrid-tricks": "reproductions.hypergrid_tricks",
    "layers": "reproductions.layers",
    "logistic-basins": "reproductions.logistic_basins",
    "meva-ablation": "reproductions.meva_ablation",
    "meva-baselines": "reproductions.meva_baselines",
    "meva-chicken": "reproductions.meva_chicken",
    "meva-imp": "reproductions.meva_imp",
    "meva-ipd": "reproductions.meva_ipd",
    "meva-zd": "reproductions.meva_zd",
    "lola-dice": "reproductions.lola_dice",
    "molecule-active": "reproductions.molecule_active",
    "molecules": "reproductions.molecules",
    "mountain-car-iid": "reproductions.mountain_car_iid",
    "mountain-car-online": "reproductions.mountain_car_online",
    "molecule-flows": "reproductions.molecule_flows",
    "polynomial": "reproductions.polynomial",
    "rbf-drift": "reproductions.rbf_drift",
    "regression": "reproductions.regression",
    "sensitivity": "reproductions.sensitivity",
    "sign-variance": "reproductions.sign_variance",
    "singular-values": "reproductions.singular_values",
    "td-lambda": "reproductions.td_lambda",
    "toy-chorale": "reproductions.toy_chorale",
    "toy-molecules": "reproductions.toy_molecules",
}


@dataclass(frozen=True)
class Reproduction:
    """One published figure or table, or a few that belong together."""

    name: str
    title: str
    """What is reproduced, and where it was published."""
    seeds: Mapping[str, int]
    """Seeds at each scale."""
    reproduce: Callable[[Job], Report]


def names() -> list[str]:
    """Return the name of every reproduction."""
    return sorted(_MODULES)


def get(name: str) -> Reproduction:
    """Return the reproduction called `name`; `UserError` if there is none."""
    if name not in _MODULES:
        unknown("reproduction", name, names())
    module = importlib.import_module(_MODULES[name])
    return Reproduction(name, module.TITLE, module.SEEDS, module.reproduce)
