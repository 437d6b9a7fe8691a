"""More baselines for figure 5.2: maximum-entropy agents and MCMC with learned proposals.

On the 4-D grid with H = 8, soft Q-learning and soft actor-critic over temperatures and entropies:
with reward R they do not sample R / Z. That they find few modes says something about the objective
only where it was learned, and only of policies that follow the reward. So a setting counts if its
policy has at least nine tenths of the soft return (reward and α per nat of entropy) that the exact
optimum of its α gains over the uniform policy, and if its expected reward is at least twice the
uniform policy's. MARS has learned proposals; without the ratio of proposals it converges to another
distribution.

Source: E. Bengio, PhD thesis, section 5.4.1 (SAC "at best 10 of 16 modes"); MARS on the grid is in
its published code only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from semigradient.agents.gflownet.mars import MARS
from semigradient.agents.soft_q import SoftQ
from semigradient.domains.flows.sample_counts import distance
from semigradient.domains.flows.tabular import soft_optimum, soft_return
from semigradient.envs.constructions.construction import Table
from semigradient.reproductions.gflownet.flow_runs import Array
from semigradient.reproductions.gflownet.hypergrid_baselines import MODES, recorded
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Hyper-grid, n = 4, H = 8: soft Q, soft actor-critic, MARS: beside thesis figure 5.2"
SEEDS = {"quick": 2, "full": 10}
_SOFT = (
    "--num-envs 16 --train-every 16 --batch-size 256 --gamma 1 --target-rate 0.01 "
    "--learning-starts 2000 --optim.lr 1e-3"
)
_MARS = "--agent mars --chains 16 --moves 20 --updates 2 --backward learned --optim.lr 1e-3"
SETTINGS: Mapping[str, str] = {
    **{f"soft-q α {a}": f"--agent soft-q {_SOFT} --temperature {a}" for a in (0.03, 0.1, 0.3)},
    **{
        f"sac entropy {e}": f"--agent sac-discrete {_SOFT} --entropy-share {e}"
        for e in (0.3, 0.6, 0.9)
    },
    "mars": _MARS,
    "mars published": f"{_MARS} --no-proposal-ratio",
}
_LATE = 5_000  # last objects among which modes are counted


def train(flags: str, seed: int, states: int) -> dict[str, Array]:
    """Exact L1 of the policy (for a chain: of its samples), and modes found, in all and last.

    Of a policy also what it `gained` of the soft return, and its `reward` over the uniform one's.
    """
    words = [*flags.split(), "--env", "semigradient/HyperGrid-v0", "--steps", str(states)]
    words += ["--seed", str(seed), "--threads", "1", "--env-options", "dimensions=4", "r0=0.1"]
    command = parse(words).command
    agent: Any
    if "mars" in flags:
        agent = build(command)
        assert isinstance(agent, MARS)
        visits, table = agent.visits, agent.rules
    else:
        agent, visits, table = recorded(command)
    while agent.progress.steps < states:
        agent.iterate()
        agent.progress.pop_episodes()
    assert isinstance(table, Table)
    exact = {"l1": visits.metrics()["empirical_l1"]} if "mars" in flags else _exact(agent, table)
    visits._settle()
    late = visits.rules.modes(visits.recent[-_LATE:])
    counts = (visits.modes_found, len(late[late >= 0].unique()))
    values = {name: np.array([value]) for name, value in exact.items()}
    return {**values, "modes": np.array(counts, dtype=float)}


def _exact(agent: SoftQ, table: Table) -> dict[str, float]:
    states = torch.arange(table.size)
    legal, reward = table.legal(states), table.log_reward(states).exp()
    log_policy = agent.log_policy(table.features(states).numpy(), legal.numpy())
    alpha = float(agent.log_temperature.detach().exp())
    uniform = torch.zeros(legal.shape).masked_fill(~legal, -torch.inf).log_softmax(1)
    policies = (uniform, log_policy, soft_optimum(table, reward, alpha))
    low, reached, high = (soft_return(table, policy, reward, alpha) for policy in policies)
    blind, paid = (soft_return(table, policy, reward, 0.0) for policy in policies[:2])
    l1 = distance(table.reach(log_policy)[1], table.distribution(), table)["l1"]
    return {"l1": l1, "gained": (reached - low) / (high - low), "reward": paid / blind}


def reproduce(job: Job) -> Report:
    """Train every setting."""
    states = 1_000_000 if job.full else 60_000
    results: dict[str, dict[str, Array]] = {}
    for name, flags in SETTINGS.items():
        parts = [
            job.cell(
                f"{name.replace(' ', '-').replace('α', 'a')}-s{seed}",
                (flags, seed, states),
                partial(train, flags, seed, states),
            )
            for seed in range(job.seeds)
        ]
        results[name] = {key: np.stack([part[key] for part in parts]) for key in parts[0]}

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        names = list(results)
        for row, name in enumerate(names):
            left.plot(results[name]["l1"][:, 0], [row] * job.seeds, "o", alpha=0.6)
            right.plot(results[name]["modes"][:, 1], [row] * job.seeds, "o", alpha=0.6)
        left.set(xscale="log", xlabel="mean |p - q|", yticks=range(len(names)), yticklabels=names)
        right.set(xlabel=f"modes among the last {_LATE} objects, of {MODES}")

    return Report(_claims(results), draw)


def _claims(results: Mapping[str, Mapping[str, Array]]) -> list[Row]:
    rows = [_modes(results, agent) for agent in ("sac", "soft-q")]
    gap = (results["mars published"]["l1"] - results["mars"]["l1"])[:, 0]
    quantity = "mars: L1 without the ratio of proposals, minus with it"
    rows.append(_row(quantity, "another law", gap, "mean > 0", bool(gap.mean() > 0), True))
    return rows


def _modes(results: Mapping[str, Mapping[str, Array]], agent: str) -> Row:
    """Most modes of the settings that learned their objective and follow the reward."""
    kept = {
        name: runs["modes"][:, 1]
        for name, runs in results.items()
        if name.startswith(agent) and runs["gained"].mean() >= 0.9 and runs["reward"].mean() >= 2
    }
    best = max(kept, key=lambda name: float(kept[name].mean()), default="none")
    modes = kept.get(best, np.full(2, np.nan))
    quantity = f"{agent}: modes, best of {len(kept)} settings that learned ({best})"
    agrees = bool(modes.mean() <= 10)
    return _row(quantity, "at best 10 of 16", modes, "≤ 10", agrees, agent == "sac")


def _row(
    quantity: str, published: str, values: Array, tolerance: str, agrees: bool, required: bool
) -> Row:
    low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
    mean = float(values.mean())
    source = "section 5.4.1"
    return Row(quantity, published, source, mean, low, high, tolerance, agrees, required)
