"""Propositions 1 and 4 of the thesis, exactly: path bias of soft optima, and flows as values.

Proposition 1. An agent with reward log R(x) and an entropy bonus of temperature 1 treats the graph
of constructions as a tree: it samples n(x) R(x), with n(x) the number of ways to build x. With the
additional reward log P_B for every edge it samples R(x). Both optima are computed backwards from
the objects, without path counts, and compared with path counts. `tb --backward tree`, which learns
as if every state had one parent, must converge to the biased distribution.

Proposition 4. On a tree, flows are values of the uniform policy: with f(s) the product of the
numbers of actions from the root to s, and each leaf's reward R(x) f(parent of x),
Q(s, a) = F(s, a) f(s). (The text's product includes the leaf, whose factor would be 0.)

Source: E. Bengio, PhD thesis, sections 5.2 and 5.3.2. The numbers of the grids are by enumeration.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from semigradient.domains.flows.estimates import policy_table
from semigradient.domains.flows.tabular import log_share_of_parents, soft_optimum, uniform_values
from semigradient.envs.constructions.construction import Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.envs.molecules.toy import ToyMoleculesOptions
from semigradient.reproductions.gflownet.flow_runs import Array, FlowRun, exact_row, worst_row
from semigradient.reproductions.report import Job, Report, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Path bias and value equivalence of flows: thesis propositions 1 and 4"
SEEDS = {"quick": 2, "full": 10}
GRIDS = {
    "2-D": (HyperGridOptions(2, 8, r0=0.1).rules(), 0.47706, 0.61551),
    "4-D": (HyperGridOptions(4, 8, r0=0.1).rules(), 0.08257, 0.4538),
}
TREES = 100
_COUNTS = ("exact", "counting of paths")
_BIASED = FlowRun(
    "semigradient/HyperGrid-v0",
    ("dimensions=2", "r0=0.1"),
    ("--loss", "tb", "--backward", "tree", "--schedule", "linear", "--optim.lr", "3e-3"),
    120_000,
)


def random_tree(rng: np.random.Generator, depth: int = 4, most: int = 4) -> Table:
    """A tree with 1 to `most` children per state, whose leaves have random rewards."""
    rows: list[list[int]] = [[]]
    level = [0]
    for _ in range(depth):
        below: list[int] = []
        for state in level:
            for _ in range(int(rng.integers(1, most + 1))):
                rows[state].append(len(rows))
                below.append(len(rows))
                rows.append([])
        level = below
    child = torch.tensor([row + [-1] * (most + 1 - len(row)) for row in rows])
    reward = torch.from_numpy(rng.normal(size=len(rows)))
    return Table(child, reward, torch.eye(len(rows)))


def ways_down(table: Table) -> Tensor:
    """The product of the numbers of actions from the root to each state of a tree: (S,)."""
    legal = table.legal(torch.arange(table.size))
    ways = legal.sum(1).double()
    for state in range(1, table.size):  # parents have smaller numbers
        parent = int(table.parents(torch.tensor([state])).state[0, 0])
        if legal[state].any():
            ways[state] *= ways[parent]
        else:
            ways[state] = ways[parent]  # a leaf has the product of its parent
    return ways


def equivalence_error(table: Table) -> float:
    """Largest |Q - F f| / (F f) over the edges of a tree."""
    states = torch.arange(table.size)
    ways, legal = ways_down(table), table.legal(states)
    values = uniform_values(table, table.log_reward(states).exp() * ways)
    flows = table.flows().edge * ways[:, None]
    return float(((values - flows)[legal] / flows[legal]).abs().max())


def bias_errors(table: Table) -> tuple[float, float]:
    """Σ |p - q| of both soft optima: to n R / Σ n R, and to R / Z."""
    reward = table.log_reward(torch.arange(table.size))
    blind = table.reach(soft_optimum(table, reward))[1]
    share = log_share_of_parents(table)
    corrected = table.reach(soft_optimum(table, reward, step_reward=share))[1]
    gaps = (blind - table.path_biased(), corrected - table.distribution())
    return float(gaps[0].abs().sum()), float(gaps[1].abs().sum())


def learned_gap(seed: int) -> dict[str, Array]:
    """Total variation of a learner with `--backward tree` to the biased distribution, and to p."""
    agent = _BIASED.agent(seed)
    while agent.progress.steps < _BIASED.edges:
        agent.iterate()
    table = agent.table
    assert table is not None, "the grid can be enumerated"
    sampled = table.reach(policy_table(table, agent.network))[1]
    targets = (table.path_biased(), table.distribution())
    return {"tv": np.array([float((sampled - target).abs().sum() / 2) for target in targets])}


def reproduce(job: Job) -> Report:
    """Compare the optima with path counts, and values with flows."""
    rows: list[Row] = []
    tables = {name: tabulate(grid) for name, (grid, _, _) in GRIDS.items()}
    for name, (_, fair, biased) in GRIDS.items():
        table = tables[name]
        modes = table.modes(torch.arange(table.size)) >= 0
        masses = (table.distribution()[modes].sum(), table.path_biased()[modes].sum())
        for mass, published, law in zip(masses, (fair, biased), ("p", "n R"), strict=True):
            claim = (f"{published}", "enumeration")
            error = abs(float(mass) - published)
            rows.append(exact_row(f"{name}: mode mass of {law}, error", claim, error, 1e-4))
    tables["rings"] = ToyMoleculesOptions("rings").make().rules  # type: ignore[assignment]
    for name, table in tables.items():
        blind, corrected = bias_errors(table)
        rows.append(exact_row(f"{name}: soft optimum for log R against n R", _COUNTS, blind, 1e-9))
        rows.append(exact_row(f"{name}: paid log P_B too, against R", _COUNTS, corrected, 1e-9))
    rng = np.random.default_rng(0)
    worst = max(equivalence_error(random_tree(rng)) for _ in range(TREES))
    claim = ("Q = F f", "proposition 4")
    rows.append(exact_row(f"Q of the uniform policy on {TREES} random trees", claim, worst, 1e-10))
    runs = [
        job.cell(f"tree-s{seed}", (_BIASED, seed), partial(learned_gap, seed))
        for seed in range(job.seeds)
    ]
    gaps = np.stack([run["tv"] for run in runs])
    claim = ("n R", "proposition 1")
    rows.append(worst_row("learned as on a tree: TV to n R", claim, {"tb": gaps[:, 0]}, 0.05))

    def draw(figure: Figure) -> None:
        table, states = tables["2-D"], torch.arange(64)
        reward = table.log_reward(states)
        laws = {
            "R / Z": table.distribution(),
            "n R / Σ n R": table.path_biased(),
            "soft optimum for log R": table.reach(soft_optimum(table, reward))[1],
        }
        for panel, (title, law) in zip(figure.subplots(1, 3), laws.items(), strict=True):
            panel.imshow(law.view(8, 8).numpy(), origin="lower", vmin=0, vmax=0.3)
            panel.set(title=title, xticks=[], yticks=[])

    return Report(rows, draw)
