"""Published figures and tables by name.

A reproduction is a module with `TITLE` (one line that names what is reproduced), `SEEDS` (number
of seeds by scale) and `reproduce(job) -> Report`; `reproduce.py` does the rest. The modules are
imported on demand, so that listing the names does not load torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from semigradient.registry import Entry, Registry

if TYPE_CHECKING:
    from semigradient.reproductions.report import Job, Report

SCALES = ("quick", "full")
_OURS = {
    "acrobot-cartpole": Entry("semigradient.reproductions.td.acrobot_cartpole"),
    "anbn": Entry("semigradient.reproductions.recurrent.anbn"),
    "brackets": Entry("semigradient.reproductions.recurrent.brackets"),
    "influence-balancing": Entry("semigradient.reproductions.recurrent.influence_balancing"),
    "uoro-variance": Entry("semigradient.reproductions.recurrent.uoro_variance"),
    "recurrent-exact": Entry("semigradient.reproductions.recurrent.recurrent_exact"),
    "chrono": Entry("semigradient.reproductions.recurrent.chrono"),
    "queue": Entry("semigradient.reproductions.recurrent.queue"),
    "warp": Entry("semigradient.reproductions.recurrent.warp"),
    "binding-proxy": Entry("semigradient.reproductions.molecules.binding_proxy"),
    "brs-coin": Entry("semigradient.reproductions.games.brs_coin"),
    "brs-ipd": Entry("semigradient.reproductions.games.brs_ipd"),
    "atari-policy-evaluation": Entry("semigradient.reproductions.td.atari_policy_evaluation"),
    "chorale-harmonize": Entry("semigradient.reproductions.music.chorale_harmonize"),
    "chorale-rules": Entry("semigradient.reproductions.music.chorale_rules"),
    "classification": Entry("semigradient.reproductions.td.classification"),
    "coconet-orderings": Entry("semigradient.reproductions.music.coconet_orderings"),
    "cosine": Entry("semigradient.reproductions.td.cosine"),
    "dau-ant": Entry("semigradient.reproductions.continuous_time.dau_ant"),
    "dau-cart-pole": Entry("semigradient.reproductions.continuous_time.dau_cart_pole"),
    "dau-cheetah": Entry("semigradient.reproductions.continuous_time.dau_cheetah"),
    "dau-pendulum": Entry("semigradient.reproductions.continuous_time.dau_pendulum"),
    "dau-pusher": Entry("semigradient.reproductions.continuous_time.dau_pusher"),
    "dau-walker": Entry("semigradient.reproductions.continuous_time.dau_walker"),
    "flow-theory": Entry("semigradient.reproductions.gflownet.flow_theory"),
    "frozen-targets": Entry("semigradient.reproductions.td.frozen_targets"),
    "gain-profiles": Entry("semigradient.reproductions.td.gain_profiles"),
    "generalisation-gap": Entry("semigradient.reproductions.td.generalisation_gap"),
    "interference-evolution": Entry("semigradient.reproductions.td.interference_evolution"),
    "hypergrid-active": Entry("semigradient.reproductions.gflownet.hypergrid_active"),
    "hypergrid-baselines": Entry("semigradient.reproductions.gflownet.hypergrid_baselines"),
    "hypergrid-entropy": Entry("semigradient.reproductions.gflownet.hypergrid_entropy"),
    "hypergrid-exact": Entry("semigradient.reproductions.gflownet.hypergrid_exact"),
    "hypergrid-offline": Entry("semigradient.reproductions.gflownet.hypergrid_offline"),
    "hypergrid-tricks": Entry("semigradient.reproductions.gflownet.hypergrid_tricks"),
    "layers": Entry("semigradient.reproductions.td.corrected_layers"),
    "logistic-basins": Entry("semigradient.reproductions.games.logistic_basins"),
    "meva-ablation": Entry("semigradient.reproductions.games.meva_ablation"),
    "meva-baselines": Entry("semigradient.reproductions.games.meva_baselines"),
    "meva-chicken": Entry("semigradient.reproductions.games.meva_chicken"),
    "meva-imp": Entry("semigradient.reproductions.games.meva_imp"),
    "meva-ipd": Entry("semigradient.reproductions.games.meva_ipd"),
    "meva-zd": Entry("semigradient.reproductions.games.meva_zd"),
    "lola-dice": Entry("semigradient.reproductions.games.lola_dice_figures"),
    "molecule-active": Entry("semigradient.reproductions.molecules.molecule_active"),
    "molecules": Entry("semigradient.reproductions.molecules.molecule_search"),
    "mountain-car-iid": Entry("semigradient.reproductions.td.mountain_car_iid"),
    "mountain-car-online": Entry("semigradient.reproductions.td.mountain_car_online"),
    "molecule-flows": Entry("semigradient.reproductions.molecules.molecule_flows"),
    "polynomial": Entry("semigradient.reproductions.td.polynomial"),
    "rbf-drift": Entry("semigradient.reproductions.td.rbf_drift"),
    "regression": Entry("semigradient.reproductions.td.regression"),
    "sensitivity": Entry("semigradient.reproductions.td.loss_sensitivity"),
    "sign-variance": Entry("semigradient.reproductions.td.sign_variance"),
    "singular-values": Entry("semigradient.reproductions.td.singular_values"),
    "td-lambda": Entry("semigradient.reproductions.td.td_lambda"),
    "toy-chorale": Entry("semigradient.reproductions.music.toy_chorale"),
    "toy-molecules": Entry("semigradient.reproductions.molecules.toy_molecules"),
}

REPRODUCTIONS = Registry("reproduction", Entry, _OURS)


@dataclass(frozen=True)
class Reproduction:
    """One published figure or table, or several related ones."""

    name: str
    title: str
    """What is reproduced, and where it was published."""
    seeds: Mapping[str, int]
    """Number of seeds per scale."""
    reproduce: Callable[[Job], Report]


def names() -> list[str]:
    """Return the name of every reproduction."""
    return sorted(REPRODUCTIONS.names())


def get(name: str) -> Reproduction:
    """Return the reproduction called `name`; `UserError` if there is none."""
    module = REPRODUCTIONS.load(name)
    return Reproduction(name, module.TITLE, module.SEEDS, module.reproduce)
