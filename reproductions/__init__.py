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

from semigradient.errors import unknown

if TYPE_CHECKING:
    from semigradient.reproductions.report import Job, Report

SCALES = ("quick", "full")
_MODULES = {
    "acrobot-cartpole": "semigradient.reproductions.td.acrobot_cartpole",
    "binding-proxy": "semigradient.reproductions.molecules.binding_proxy",
    "brs-ipd": "semigradient.reproductions.games.brs_ipd",
    "atari-policy-evaluation": "semigradient.reproductions.td.atari_policy_evaluation",
    "chorale-harmonize": "semigradient.reproductions.music.chorale_harmonize",
    "chorale-rules": "semigradient.reproductions.music.chorale_rules",
    "coconet-orderings": "semigradient.reproductions.music.coconet_orderings",
    "cosine": "semigradient.reproductions.td.cosine",
    "dau-ant": "semigradient.reproductions.continuous_time.dau_ant",
    "dau-cart-pole": "semigradient.reproductions.continuous_time.dau_cart_pole",
    "dau-cheetah": "semigradient.reproductions.continuous_time.dau_cheetah",
    "dau-pendulum": "semigradient.reproductions.continuous_time.dau_pendulum",
    "dau-pusher": "semigradient.reproductions.continuous_time.dau_pusher",
    "dau-walker": "semigradient.reproductions.continuous_time.dau_walker",
    "flow-theory": "semigradient.reproductions.gflownet.flow_theory",
    "frozen-targets": "semigradient.reproductions.td.frozen_targets",
    "gain-profiles": "semigradient.reproductions.td.gain_profiles",
    "generalisation-gap": "semigradient.reproductions.td.generalisation_gap",
    "interference-evolution": "semigradient.reproductions.td.interference_evolution",
    "hypergrid-active": "semigradient.reproductions.gflownet.hypergrid_active",
    "hypergrid-baselines": "semigradient.reproductions.gflownet.hypergrid_baselines",
    "hypergrid-entropy": "semigradient.reproductions.gflownet.hypergrid_entropy",
    "hypergrid-exact": "semigradient.reproductions.gflownet.hypergrid_exact",
    "hypergrid-offline": "semigradient.reproductions.gflownet.hypergrid_offline",
    "hypergrid-tricks": "semigradient.reproductions.gflownet.hypergrid_tricks",
    "layers": "semigradient.reproductions.td.layers",
    "logistic-basins": "semigradient.reproductions.games.logistic_basins",
    "meva-ablation": "semigradient.reproductions.games.meva_ablation",
    "meva-baselines": "semigradient.reproductions.games.meva_baselines",
    "meva-chicken": "semigradient.reproductions.games.meva_chicken",
    "meva-imp": "semigradient.reproductions.games.meva_imp",
    "meva-ipd": "semigradient.reproductions.games.meva_ipd",
    "meva-zd": "semigradient.reproductions.games.meva_zd",
    "lola-dice": "semigradient.reproductions.games.lola_dice",
    "molecule-active": "semigradient.reproductions.molecules.molecule_active",
    "molecules": "semigradient.reproductions.molecules.molecules",
    "mountain-car-iid": "semigradient.reproductions.td.mountain_car_iid",
    "mountain-car-online": "semigradient.reproductions.td.mountain_car_online",
    "molecule-flows": "semigradient.reproductions.molecules.molecule_flows",
    "polynomial": "semigradient.reproductions.td.polynomial",
    "rbf-drift": "semigradient.reproductions.td.rbf_drift",
    "regression": "semigradient.reproductions.td.regression",
    "sensitivity": "semigradient.reproductions.td.sensitivity",
    "sign-variance": "semigradient.reproductions.td.sign_variance",
    "singular-values": "semigradient.reproductions.td.singular_values",
    "td-lambda": "semigradient.reproductions.td.td_lambda",
    "toy-chorale": "semigradient.reproductions.music.toy_chorale",
    "toy-molecules": "semigradient.reproductions.molecules.toy_molecules",
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
