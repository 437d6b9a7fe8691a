"""Gain of one update at nearby steps in time: figures 3.7-3.9, 3.11.

    gain(x) = J_θ(S_{t+x}) - J_θ'(S_{t+x}),    θ' after one update at S_t

Networks regress to an expert's values (`reg`), to one step ahead of them (`td*`) and to sampled
returns (`mc`); others learn by Q-learning from the same recorded episodes (`batch`) or by acting in
the environment (`control`). J is the squared temporal difference with fixed targets: from the
expert's values for the regressions, as in the published code, and from the frozen network for
Q-learning.

The quick scale evaluates the policy that pushes Mountain Car along its velocity, whose exact values
are known, with rewards of -0.1 and gamma 0.95; at the full scale the expert is a run folder.

Source: E. Bengio, PhD thesis, section 3.2.2.4 and 3.2.4.2.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from semigradient.diagnostics import gain
from semigradient.diagnostics.observer import View
from semigradient.experiments.curves import COLOURS
from semigradient.optim.configs import (
    AdamConfig,
    MomentumConfig,
    OptimizerConfig,
    RMSpropConfig,
    SGDConfig,
)
from semigradient.reproductions.report import Job, Report
from semigradient.reproductions.td import mountain_car
from semigradient.reproductions.td.gain_claims import (
    OFFSETS,
    REGRESSIONS,
    Array,
    Runs,
    claims,
    draw_curve,
    known_mean,
)
from semigradient.reproductions.td.recorded import Expert, Recorded, expert, mountain_car_record
from semigradient.reproductions.td.recorded import mountain_car_values as exact_values
from semigradient.reproductions.td.replayed import (
    ReplayedLearner,
    TargetTable,
    nearby_gain,
    network,
    q_learning,
)
from semigradient.training.agent import generator
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.returns import max_q_bootstrap, td_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TITLE = "Gain by distance in time, regressions and Q-learning: thesis figures 3.7-3.9 and 3.11"
SEEDS = {"quick": 2, "full": 10}
OBJECTIVES = (*REGRESSIONS, "batch")


@dataclass(frozen=True)
class GainPlan:
    """The size of the runs.

    Attributes:
        steps: recorded steps.
        updates: of regressions and of Q-learning from recorded steps.
        every: one of `every` updates is measured.
        renewed: updates between copies to the frozen network.
        control: environment steps of learning to act, one update every four.
        acting: the optimizers of the control runs.
        optimizers: the compared optimizers.
    """

    steps: int
    updates: int
    every: int
    renewed: int
    control: int
    acting: tuple[str, ...]
    optimizers: Mapping[str, OptimizerConfig]


QUICK = GainPlan(
    3000,
    1000,
    20,
    100,
    4400,
    ("adam",),
    {
        "adam": AdamConfig(lr=1e-3),
        "rmsprop": RMSpropConfig(lr=1e-3),
        "sgd": SGDConfig(lr=1e-2),
        "momentum": MomentumConfig(lr=1e-1),
    },
)
_DECAY = 1e-4
FULL = GainPlan(
    500_000,
    500_000,
    1000,
    10_000,
    10_000_000,
    ("adam", "rmsprop", "sgd", "momentum"),
    {
        "adam": AdamConfig(lr=1e-4, weight_decay=_DECAY),
        "rmsprop": RMSpropConfig(lr=1e-4, weight_decay=_DECAY),
        "sgd": SGDConfig(lr=1e-4, weight_decay=_DECAY),
        # Without the factor 1 - beta, the published rate.
        "momentum": MomentumConfig(lr=1e-3, weight_decay=_DECAY),
    },
)
_CONTROL = (
    "--preset none --gamma 0.95 --hidden 64 64 --activation leaky_relu --loss mse "
    "--max-grad-norm 0 --learning-starts 400 --buffer-size 4400 --target-update-every 400 "
    "--epsilon-fraction 0.5 --epsilon-end 0.05"
)
_CONTROL_FULL = "--loss mse --max-grad-norm 0 --clip-rewards --buffer-size 500000"


@dataclass(frozen=True)
class ExpertRecord:
    """Recorded episodes with the values of the expert.

    Attributes:
        recorded: the episodes.
        values: the expert's values of the recorded actions, (T,).
        one_step: r + gamma max of the expert's values of successors, (T,).
    """

    recorded: Recorded
    values: Tensor
    one_step: Tensor


def subject(plan: GainPlan, seed: int, player: Expert | None) -> ExpertRecord:
    """Record the expert, or without one the fixed policy on Mountain Car."""
    if player is None:
        recorded = mountain_car_record(plan.steps, seed)
        here, there = exact_values(recorded)
    else:
        recorded = player.record(plan.steps, seed)
        here = recorded.evaluate(player.network)
        there = recorded.evaluate(player.network, successors=True)
    values = here.gather(1, recorded.action[:, None])[:, 0]
    one_step = td_target(recorded.reward, recorded.discount, max_q_bootstrap(there))
    return ExpertRecord(recorded, values, one_step)


def learner(
    record: ExpertRecord, objective: str, plan: GainPlan, optimizer: str, seed: int
) -> ReplayedLearner:
    """A learner of one objective with one optimizer."""
    recorded = record.recorded
    tables: dict[str, TargetTable] = {
        "reg": TargetTable(lambda _: record.values),
        "td*": TargetTable(lambda _: record.one_step),
        "mc": TargetTable(lambda _: recorded.returns()),
        "batch": TargetTable(q_learning(recorded), plan.renewed),
    }
    made = network(recorded, seed)
    return ReplayedLearner(made, recorded, tables[objective], plan.optimizers[optimizer], seed)


def profile(
    record: ExpertRecord, objective: str, plan: GainPlan, optimizer: str, seed: int
) -> Array:
    """Mean gain by distance in time at each measurement, (M, 61)."""
    made = learner(record, objective, plan, optimizer, seed)
    measured = None if objective == "batch" else record.one_step
    curves = []
    chosen = instants(plan, seed)
    for update in range(plan.updates):
        index = made.draw(made.batch_size)
        if update in chosen:
            total, count = nearby_gain(made, index, measured)
            curves.append(total.double() / count)
        else:
            made.learn(index)
    return torch.stack(curves).cpu().numpy()


def instants(plan: GainPlan, seed: int) -> set[int]:
    """Indices of the measured updates: a random one of each `every`.

    At regular intervals too many of them would directly follow a renewal of the frozen network,
    where gains are atypical.
    """
    rng = np.random.default_rng((seed, 6))
    starts = np.arange(0, plan.updates - plan.every + 1, plan.every)
    return set((starts + rng.integers(plan.every, size=len(starts))).tolist())


def control(
    plan: GainPlan, optimizer: str, seed: int, env: str = mountain_car.ID
) -> dict[str, Array]:
    """Control: the gain at each measurement (M, 61), and the last layer's singular values."""
    agent: Any = _agent(plan, optimizer, seed, env)
    # At most one update every four steps; the first one may have hardly any experience.
    chosen = instants(dataclasses.replace(plan, updates=plan.control // 4), seed) - {0}
    curves = []
    while agent.progress.steps < plan.control:
        agent.iterate()
        if agent.updates not in chosen:
            continue
        chosen.remove(agent.updates)
        view = View(agent.experience(), agent.experience, generator(seed, agent.updates), 32)
        by_offset = gain.measure(view).profiles["offset"]
        curve = torch.full((len(OFFSETS),), torch.nan, dtype=torch.float64)
        curve[by_offset.x.cpu() + 30] = by_offset.curves["gain"].double().cpu()
        curves.append(curve)
    values = torch.linalg.svdvals(agent.experience().hidden.detach()).double()
    return {"gain": torch.stack(curves).numpy(), "singular": values.cpu().numpy()}


def _agent(plan: GainPlan, optimizer: str, seed: int, env: str) -> Any:
    """DQN as `train.py` creates it, with the optimizer of the plan."""
    words = ["--agent", "dqn", "--env", env, "--optim", optimizer, "--seed", str(seed)]
    words += ["--steps", str(plan.control), "--threads", "1"]
    command = parse([*words, *(_CONTROL if plan is not FULL else _CONTROL_FULL).split()]).command
    return build(dataclasses.replace(command, optimizer=plan.optimizers[optimizer]))


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    plan = FULL if job.full else QUICK
    player = expert(job.folder, "gain-profiles at full scale") if job.full else None
    runs = trained(job, plan, player, (*OBJECTIVES, "control"), tuple(plan.optimizers))

    def draw(figure: Figure) -> None:
        first, second, third, fourth = figure.subplots(2, 2).flatten()
        for objective in REGRESSIONS:
            draw_curve(first, runs[objective, "adam"], objective)
        first.set(title="3.7, Adam")
        for line, objective in (("-", "control"), ("--", "batch")):
            for colour, name in zip(COLOURS, plan.optimizers, strict=False):
                label = f"{objective}, {name}"
                if (objective, name) in runs:
                    draw_curve(second, runs[objective, name], label, OFFSETS != 0, line, colour)
                if objective == "batch":
                    draw_curve(third, runs[objective, name], name, colour=colour)
        second.set(title="3.8")
        third.set(title="3.9, batch", yscale="symlog")
        third.set_yscale("symlog", linthresh=1e-3)
        shortest = min(len(curves) for curves in runs["control", "adam"])
        image = known_mean([curves[:shortest] for curves in runs["control", "adam"]]).T
        image[30] = np.nan
        largest = float(np.nanquantile(abs(image), 0.98))
        fourth.imshow(image, aspect="auto", cmap="RdBu", vmin=-largest, vmax=largest)
        fourth.set(title="3.11, control, Adam", xlabel="measurement", yticks=(0, 30, 60))
        fourth.set_yticklabels(("-30", "0", "30"))
        for axes in (first, second, third):
            axes.set(xlabel="distance in time", ylabel="gain")
            axes.legend(fontsize="x-small")

    return Report(claims(runs, tuple(plan.optimizers)), draw, inches=(10.0, 8.0))


def trained(
    job: Job,
    plan: GainPlan,
    player: Expert | None,
    objectives: tuple[str, ...],
    optimizers: tuple[str, ...],
) -> Runs:
    """The gains of all requested runs, computed unless cached."""
    runs: Runs = {}
    for seed in range(job.seeds):
        for (objective, name), gains in _of_seed(job, plan, player, objectives, optimizers, seed):
            runs.setdefault((objective, name), []).append(gains)
    return runs


def _of_seed(
    job: Job,
    plan: GainPlan,
    player: Expert | None,
    objectives: tuple[str, ...],
    optimizers: tuple[str, ...],
    seed: int,
) -> Iterator[tuple[tuple[str, str], Array]]:
    """Yield the gains of one seed, whose runs learn from the same episodes."""
    where = player.env if player else mountain_car.ID
    recorded = functools.lru_cache(1)(lambda: subject(plan, seed, player))

    def work(objective: str, name: str) -> dict[str, Array]:
        if objective == "control":
            return control(plan, name, seed, where)
        return {"gain": profile(recorded(), objective, plan, name, seed)}

    for objective in objectives:
        chosen = plan.acting if objective == "control" else optimizers
        for name in chosen:
            setting = (where, job.folder, plan, objective, plan.optimizers[name], seed)
            words = f"{objective.replace('*', '-star')}-{name}-s{seed}"
            cell = job.cell(words, setting, functools.partial(work, objective, name))
            yield (objective, name), cell["gain"]
