"""Runs of `gflownet` shared by several reproductions, and the rows that evaluate them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.losses import flow_matching, inflow
from semigradient.domains.flows.objectives import OBJECTIVES, Batch, Rules
from semigradient.domains.flows.trajectories import forward, uniform, uniform_draws
from semigradient.envs.constructions.construction import Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.nets.flow_network import FlowOutputs
from semigradient.reproductions.report import Job, Row
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.summary import bootstrap_interval

Array = NDArray[np.float64]
POINTS = 25
CURVE = ("steps", "objects", "tv", "l1", "log_z_error", "modes", "empirical_l1")


@dataclass(frozen=True)
class FlowRun:
    """One setting of a learner.

    Attributes:
        env: environment id.
        options: of the environment, KEY=VALUE.
        flags: of `train.py`.
        edges: length of the run in constructed edges.
    """

    env: str
    options: tuple[str, ...]
    flags: tuple[str, ...]
    edges: int

    def agent(self, seed: int) -> GFlowNet:
        """The untrained learner."""
        words = ["--agent", "gflownet", "--env", self.env, "--seed", str(seed), "--threads", "1"]
        words += ["--steps", str(self.edges), "--exact-every", "0", *self.flags]
        built = build(parse([*words, "--env-options", *self.options]).command)
        assert isinstance(built, GFlowNet)
        return built

    def curve(self, seed: int) -> dict[str, Array]:
        """Train; return the metrics of `CURVE` at `POINTS` points, evenly spaced in edges."""
        agent, rows = self.agent(seed), []
        for point in range(1, POINTS + 1):
            while agent.progress.steps < self.edges * point / POINTS:
                agent.iterate()
            metrics = {**agent.evaluate(), **agent.visits.metrics(), "steps": agent.progress.steps}
            rows.append([metrics.get(name, np.nan) for name in CURVE])
        return dict(zip(CURVE, np.array(rows, dtype=float).T, strict=True))


def curves(job: Job, name: str, run: FlowRun) -> dict[str, Array]:
    """The curves of all seeds, (seeds, points) each, computed unless cached."""

    def one(seed: int) -> dict[str, Array]:
        return job.cell(f"{name}-s{seed}", (run, seed), lambda: run.curve(seed))

    runs = [one(seed) for seed in range(job.seeds)]
    return {key: np.stack([curve[key] for curve in runs]) for key in CURVE}


def worst_row(
    quantity: str,
    claim: tuple[str, str],
    settings: Mapping[str, Array],
    limit: float,
) -> Row:
    """The mean over seeds of the worst setting, which agrees if at most `limit`."""
    name = max(settings, key=lambda key: float(np.mean(settings[key])))
    scores = settings[name]
    low, high = bootstrap_interval(np.mean, scores, np.random.default_rng(0))
    measured = float(np.mean(scores))
    return Row(
        f"{quantity} (worst of {len(settings)}: {name}, {len(scores)} seeds)",
        *claim,
        measured,
        low,
        high,
        f"≤ {limit:g}",
        measured <= limit,
    )


def exact_row(quantity: str, claim: tuple[str, str], error: float, limit: float) -> Row:
    """A deterministic error against its limit."""
    return Row(quantity, *claim, error, error, error, f"≤ {limit:g}", error <= limit)


def small_grid(rule: str) -> Table:
    """3×3 cells with R = 1 + x0 + 2 x1, whose flows are computed by hand."""
    rules = HyperGridOptions(2, 3, rule, reward="sparse").rules()  # type: ignore[arg-type]
    states = torch.arange(rules.size)
    written, cells = tabulate(rules), rules.cells(states).double()
    child = torch.where(written.legal(states), _children(written), -1)
    return Table(child, (1 + cells[:, 0] + 2 * cells[:, 1]).log(), rules.features(states))


def penalty_at_exact_flows(table: Table, objective: str, jitter: float = 0.0) -> float:
    """The largest penalty of a trajectory at exact flows, optionally with noise.

    Args:
        table: the construction.
        objective: a key of `domains.flows.objectives.OBJECTIVES`.
        jitter: standard deviation of noise on the log flows.
    """
    flows, noise = table.flows(), torch.Generator().manual_seed(0)
    drawn = torch.randn(flows.edge.shape, generator=noise, dtype=torch.float64)
    edge = flows.edge.clamp(min=1e-300).log() + jitter * drawn
    state, reward = flows.state.clamp(min=1e-300).log(), table.log_reward(torch.arange(table.size))
    if objective.startswith("fl-"):
        state = state - reward

    def network(features: Tensor) -> FlowOutputs:
        return FlowOutputs(edge, None, state)

    at = Estimates(table, network, None, "uniform")
    paths = forward(table, uniform(table), uniform_draws(table, 200, noise))
    batch = Batch(paths, at, reward, flows.state[table.root].log())
    return float(OBJECTIVES[objective](batch, Rules()).by_trajectory().max())


def tabular_flow_matching(table: Table, exponent: float, seed: int) -> tuple[float, float]:
    """Minimise flow matching over free edge flows; return its loss and total variation."""
    states, noise = torch.arange(table.size), torch.Generator().manual_seed(seed)
    legal, parents = table.legal(states), table.parents(states)
    reward, reached = exponent * table.log_reward(states), table.reachable.clone()
    reached[table.root] = False
    free = torch.randn(legal.shape, generator=noise, dtype=torch.float64).requires_grad_()

    def loss() -> Tensor:
        edges = free.masked_fill(~legal, -1e30)
        out = torch.where(table.complete, reward, edges.logsumexp(1))
        gap = flow_matching(inflow(edges[parents.state, parents.action], parents.real), out)
        sinks = (edges[:, -1] - reward)[legal[:, -1] & table.reachable]
        return gap[reached].square().sum() + sinks.square().sum()

    optimizer = torch.optim.LBFGS(
        [free],
        max_iter=3000,
        tolerance_grad=1e-14,
        tolerance_change=1e-18,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    policy = free.detach().masked_fill(~legal, -1e30).log_softmax(1)
    gap = (table.reach(policy)[1] - table.distribution(exponent)).abs().sum() / 2
    return float(loss().detach()), float(gap)


def final(curves: Mapping[str, Array], key: str) -> Array:
    """Final values of a curve, (seeds,)."""
    return curves[key][:, -1]


def relative(curves: Mapping[str, Array], log_z: float) -> Array:
    """Final |log Ẑ - log Z| / |log Z|, (seeds,)."""
    return final(curves, "log_z_error") / abs(log_z)


def log_partition(run: FlowRun) -> float:
    """The true log Z of a run's construction."""
    agent = run.agent(0)
    assert agent.table is not None, "the construction cannot be enumerated"
    return agent.table.log_partition(agent.config.reward_exponent)


def mean_band(values: Array) -> tuple[Array, Array, Array]:
    """Mean, minimum and maximum over seeds of (seeds, points)."""
    return values.mean(0), values.min(0), values.max(0)


def draw_curves(
    axes: Any, curves: Mapping[str, Mapping[str, Array]], x: str, y: str, colours: Sequence[str]
) -> None:
    """One line per name, the mean over seeds, with a band from minimum to maximum."""
    for index, (name, curve) in enumerate(curves.items()):
        colour = colours[index % len(colours)]
        middle, low, high = mean_band(curve[y])
        style = "-" if index < len(colours) else "--"
        axes.plot(curve[x].mean(0), middle, color=colour, linestyle=style, label=name)
        axes.fill_between(curve[x].mean(0), low, high, color=colour, alpha=0.15, linewidth=0)


def _children(table: Table) -> Tensor:
    states = torch.arange(table.size).repeat_interleave(table.actions)
    actions = torch.arange(table.actions).repeat(table.size)
    return table.child(states, actions).view(table.size, table.actions)
