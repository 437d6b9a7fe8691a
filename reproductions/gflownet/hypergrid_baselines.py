"""Figure 5.2: a flow network and the baselines MCMC, PPO and random on the 4-D grid with H = 8.

Measured over states visited (edges constructed, proposals of the chain): the mean of |p - q| over
objects between the target and the sampled distribution, and the number of the 16 modes found.

For the flow network, PPO and random, q is the exact distribution of the policy; for a chain it is
the frequencies of all its samples. Rejected moves of the chain repeat its object, as required;
`accepted only` is the published count, which does not converge to p.

Source: E. Bengio, PhD thesis, section 5.4.1 (PPO with entropy coefficient 0.5); what it does
not state is from its published code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.agents.gflownet.walkers import Walker
from semigradient.domains.flows.sample_counts import SampleCounts, distance, floor
from semigradient.envs.adapters import Arrays, CoreVector
from semigradient.envs.constructions.building import Building
from semigradient.envs.constructions.construction import Table, tabulate
from semigradient.envs.constructions.hypergrid import HyperGridOptions
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.gflownet.flow_runs import POINTS, draw_curves
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.agent import AgentContext
from semigradient.training.build import build, create
from semigradient.training.cli import parse
from semigradient.training.command import Command
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Hyper-grid, n = 4, H = 8: flow network, Metropolis-Hastings, PPO: thesis figure 5.2"
SEEDS = {"quick": 2, "full": 10}
R0 = (0.1, 0.01, 0.001)
MODES = 16
FLAGS: Mapping[str, str] = {
    "gflownet": "--agent gflownet --loss fm --optim.lr 1e-3 --batch-size 16 --exact-every 0",
    "metropolis": "--agent metropolis --chains 16 --moves 20",
    "accepted only": "--agent metropolis --chains 16 --moves 20 --accepted-only",
    "ppo": "--agent ppo --num-envs 16 --rollout-steps 96 --batch-size 384 --epochs 4 --gamma 1 "
    "--gae-lambda 0 --entropy-coefficient 0.5 --no-normalise-advantages --clip 0.2 "
    "--hidden 256 256 --activation leaky_relu --optim.lr 1e-3",
    "random": "--agent random --chains 16",
}
_SOURCE = "figure 5.2"


class CountingVector(CoreVector):
    """The vector environment of a construction, which counts the constructed objects."""

    def __init__(self, command: Command) -> None:
        run = command.run
        super().__init__(
            "semigradient.envs.constructions.hypergrid:HyperGridOptions",
            run.num_envs,
            run.seed,
            **run.environment(),
        )
        assert isinstance(self.core, Building)
        self.table: Table = tabulate(self.core.rules)
        self.visits: SampleCounts = SampleCounts(self.table)

    def step(self, actions: np.ndarray) -> Arrays:
        """Step, and count the finished objects."""
        arrays = super().step(actions)
        terminated, infos = arrays[2], arrays[4]
        if terminated.any():
            self.visits.add(torch.from_numpy(infos["final_info"]["state"][terminated]))
        return arrays


def learner(method: str, r0: float, seed: int, states: int) -> tuple[Any, SampleCounts, Table]:
    """The agent, its sample counts, and the exact table."""
    words = [*FLAGS[method].split(), "--env", "semigradient/HyperGrid-v0", "--steps", str(states)]
    words += ["--seed", str(seed), "--threads", "1", "--env-options", "dimensions=4", f"r0={r0}"]
    command = parse(words).command
    if method != "ppo":
        agent = build(command)
        assert isinstance(agent, (GFlowNet, Walker))
        table = agent.table
        assert table is not None, "the grid can be enumerated"
        return agent, agent.visits, table
    return recorded(command)


def recorded(command: Command) -> tuple[Any, SampleCounts, Table]:
    """The same for agents that step environments."""
    run = command.run
    envs = CountingVector(command)
    setup = AgentContext(
        envs,
        torch.device("cpu"),
        run.seed,
        run.steps,
        command.optimizer,
    )
    return create(run.agent, command.agent, setup), envs.visits, envs.table


def measure(agent: Any, visits: SampleCounts, table: Table) -> tuple[float, float]:
    """Mean |p - q| of the exact policy (for a chain: of its samples), and modes found."""
    if isinstance(agent, Walker) and agent.config.kind == "metropolis":
        l1 = visits.metrics()["empirical_l1"]
    elif isinstance(agent, GFlowNet):
        l1 = agent.evaluate()["l1"]
    elif isinstance(agent, Walker):
        l1 = agent.exact()["l1"]
    else:
        states = torch.arange(table.size)
        with torch.no_grad():
            logits = agent.network.policy(table.features(states), table.legal(states))
        l1 = distance(table.reach(logits.log_softmax(1))[1], visits.target, table)["l1"]
    return l1, float(visits.modes_found)


def curve(method: str, r0: float, seed: int, states: int) -> dict[str, Array]:
    """States, L1 and modes at `POINTS` points, and the states until all modes (inf: never)."""
    agent, visits, table = learner(method, r0, seed, states)
    rows, all_met = [], np.inf
    for point in range(1, POINTS + 1):
        while agent.progress.steps < states * point / POINTS:
            agent.iterate()
            agent.progress.pop_episodes()
            if all_met == np.inf and visits.modes_found == MODES:
                all_met = float(agent.progress.steps)
        rows.append((agent.progress.steps, *measure(agent, visits, table)))
    steps, l1, modes = np.array(rows, dtype=float).T
    return {"steps": steps, "l1": l1, "modes": modes, "all_met": np.array([all_met])}


def reproduce(job: Job) -> Report:
    """Run and compare every method at every R0."""
    states = 1_000_000 if job.full else 200_000
    results: dict[tuple[str, float], dict[str, Array]] = {}
    for r0 in R0:
        for method in FLAGS:
            parts = [_cell(job, method, r0, seed, states) for seed in range(job.seeds)]
            results[method, r0] = {key: np.stack([p[key] for p in parts]) for key in parts[0]}
    rows = [row for r0 in R0 for row in _claims(results, r0, states)]
    floors = {r0: _floor(r0) for r0 in R0}

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, len(R0), sharex=True)
        for column, r0 in enumerate(R0):
            chosen = {method: results[method, r0] for method in FLAGS}
            draw_curves(panels[0, column], chosen, "steps", "l1", COLOURS)
            draw_curves(panels[1, column], chosen, "steps", "modes", COLOURS)
            panels[0, column].axhline(floors[r0], color="grey", linewidth=0.8)
            panels[0, column].set(title=f"R0 = {r0}", yscale="log")
            panels[1, column].set(xlabel="states visited")
        panels[0, 0].set_ylabel("mean |p - q|")
        panels[1, 0].set_ylabel("modes met, of 16")
        panels[0, 0].legend(fontsize="small")

    return Report(rows, draw, (12.0, 6.0))


def _cell(job: Job, method: str, r0: float, seed: int, states: int) -> dict[str, Array]:
    name = f"{method.replace(' ', '-')}-{r0}-s{seed}"
    work: Callable[[], dict[str, Array]] = lambda: curve(method, r0, seed, states)  # noqa: E731
    return job.cell(name, (FLAGS[method], r0, seed, states), work)


def _claims(
    results: Mapping[tuple[str, float], Mapping[str, Array]], r0: float, states: int
) -> Any:
    """GFlowNet has the lowest L1 and is first to find all modes; paired by seed."""
    for other in ("metropolis", "accepted only", "ppo", "random"):
        ours, theirs = (results[m, r0]["l1"][:, -1] for m in ("gflownet", other))
        yield _below(f"R0={r0}: L1, gflownet minus {other}", ours - theirs)
    for other in ("metropolis", "ppo"):
        # A method that has not found all of them counts with its entire budget.
        ours, theirs = (
            np.minimum(results[m, r0]["all_met"][:, 0], states) for m in ("gflownet", other)
        )
        yield _below(f"R0={r0}: states to all modes, gflownet minus {other}", ours - theirs)


def _below(quantity: str, difference: Array) -> Row:
    """Agrees if the 95 % interval of the paired difference lies below zero."""
    low, high = bootstrap_interval(np.mean, difference, np.random.default_rng(0))
    mean = float(difference.mean())
    return Row(quantity, "< 0", _SOURCE, mean, low, high, "interval < 0", high < 0)


def _floor(r0: float) -> float:
    """Expected L1 of the frequencies of 200 000 exact samples."""
    table = tabulate(HyperGridOptions(4, 8, r0=r0).rules())
    return floor(table.distribution(), table, 200_000)
