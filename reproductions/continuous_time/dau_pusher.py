"""Deep Advantage Updating on problems with known values: linear-quadratic control and the pusher.

Closed forms: the tables of V and A on LQ1 (Q converges to V at rate dt, A keeps its gap), and the
fixed point of the algorithm on LQ1. Learning: on the pusher A*(1, stay) = -0.579 and
A*(1, away) = -1.158 per second whatever the time step, and one set of hyperparameters must learn
them, and the right policy, at time steps two orders of magnitude apart. Q-learning with the same
budget must distinguish actions by differences of dt A*, and fails to rank them at dt = 0.001.

Learned advantages are averages over both sides (x = 1 and x = -1) and over the last quarter of
training, because the learning rate is constant. C. Tallec, PhD thesis, 2019, chapter 8; the closed
forms are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from semigradient.envs.control.closed_forms import lq_values, pusher_values
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.continuous_time import lq_fixed_point
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.build import build
from semigradient.training.cli import parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Deep Advantage Updating on LQ1 and the pusher: theorems 1 to 3 and the fixed point"
SEEDS = {"quick": 2, "full": 5}
STEPS = (0.1, 0.01, 0.001)
GAMMA = 0.8
TABLE = {
    0.1: (-0.48106, 0.79975, -0.89384, -1.88178),
    0.05: (-0.46506, 0.85081, -0.89680, -1.83959),
    0.01: (-0.45280, 0.89004, -0.89907, -1.80718),
    0.001: (-0.45011, 0.89867, -0.89957, -1.80004),
    0.0: (-0.44981, 0.89963, -0.89963, -1.79925),
}
"""V(1), A(1, -2), A(1, 0), A(1, 1) on LQ1 under the policy -s, by dt; dt = 0 is the limit."""
_SOURCE = "thesis, ch. 8 (theorems 1-3); closed form"
_GRID = np.concatenate([np.linspace(-2, -0.2, 10), np.linspace(0.2, 2, 10)])


@dataclass(frozen=True)
class PusherPlan:
    """One set of hyperparameters for every time step.

    Attributes:
        seconds: physical seconds in each of 64 environments.
        gradient_steps: per 10 steps of every environment.
    """

    seconds: float
    gradient_steps: int

    def flags(self, agent: str, actions: str, dt: float, seed: int) -> list[str]:
        """The command line of a run."""
        words = f"--agent {agent} --env semigradient/Pusher-v0 --seed {seed} --threads 1"
        words += " --num-envs 64 --hidden 64 64 --batch-size 64 --sigma 3 --optim rmsprop"
        words += f" --optim.lr 0.1 --optim.alpha 0 --gradient-steps {self.gradient_steps}"
        if agent == "dqn":
            words += " --time scaled --gamma 0.8 --exploration ou --target none --loss mse"
            words += " --max-grad-norm 0 --layer-norm --buffer-size 1000000"
            words += " --train-every 640 --learning-starts 640"
        else:
            words += " --lr-policy 0.1"
        return [*words.split(), "--env-options", f"dt={dt}", "time_limit=2", f"actions={actions}"]


QUICK = PusherPlan(30.0, 10)
FULL = PusherPlan(50.0, 50)
RUNS = (("dau", "discrete"), ("dqn", "discrete"), ("dau", "continuous"))


def ranking(agent: Any, name: str, actions: str, xs: Array) -> Array:
    """(3, n): learned advantages of the actions -1, 0 and 1 at positions (n,)."""
    obs = xs.astype(np.float32)[:, None]
    if name == "dqn":
        with torch.no_grad():
            q = agent.network(torch.from_numpy(obs)).double().numpy().T
        return q - q.max(0)
    candidates: list[Any] = [np.full(len(xs), index) for index in range(3)]
    if actions == "continuous":
        candidates = [np.full((len(xs), 1), a, np.float32) for a in (-1, 0, 1)]
    return np.stack([agent.advantages(obs, action) for action in candidates]).astype(float)


def outward(advantages: Array, xs: Array) -> Array:
    """(3, n): the rows toward, stay and away of advantages (3, n) of the actions -1, 0 and 1."""
    # dx/dt = -a: positive actions lead toward 0 from the right.
    return np.where(xs > 0, advantages[::-1], advantages)


def learn(plan: PusherPlan, name: str, actions: str, dt: float, seed: int) -> dict[str, Array]:
    """Train once.

    Returns:
        `curve` (phases, 2): A(1, stay) and A(1, away), mean of both sides, per second of dt;
        `ranked`: share of positions whose three actions are in the right order; `greedy`: mean of
        the greedy policy's component toward 0.
    """
    command = parse(plan.flags(name, actions, dt, seed)).command
    agent: Any = build(command)
    per_second = 1 / dt if name == "dqn" else 1.0
    sides, curve = np.array([-1.0, 1.0]), []
    total = round(plan.seconds / dt) * command.run.num_envs
    # Equal numbers of readings at every time step.
    period, due = total // 100, 0
    while agent.progress.steps < total:
        agent.iterate()
        if agent.progress.steps >= due:
            due += period
            advantages = outward(ranking(agent, name, actions, sides), sides)
            curve.append(per_second * (advantages - advantages[:1])[1:].mean(1))
    advantages = outward(ranking(agent, name, actions, _GRID), _GRID)
    ordered = (advantages[0] > advantages[1]) & (advantages[1] > advantages[2])
    policy = agent.policy(True)(_GRID.astype(np.float32)[:, None], None)
    chosen = policy[:, 0] if actions == "continuous" else policy - 1
    toward = (chosen * np.sign(_GRID)).mean()
    return {"curve": np.array(curve), "ranked": ordered.mean(), "greedy": np.asarray(toward)}


def closed_forms() -> list[Row]:
    """Tables and the fixed point on LQ1."""
    s, a = torch.tensor(1.0).double(), torch.tensor([-2.0, 0, 1]).double()
    rows, worst, gaps = [], 0.0, {}
    for dt, published in TABLE.items():
        value, advantage = lq_values(s, a, 1, GAMMA, dt)
        values = np.array([value.item(), *advantage.tolist()])
        worst = max(worst, float(np.abs(values - published).max()))
        if dt:
            gaps[dt] = dt * float(advantage[0] - advantage[2])
    rows.append(_exact("LQ1: V(1), A(1, ·) of five time steps, largest difference", worst, 6e-6))
    ratio = gaps[0.01] / gaps[0.001]
    text = "the gap of Q is O(dt): 10"
    agrees = abs(ratio / 10 - 1) < 0.02
    row = Row(
        "LQ1: Q's gap at dt = 0.01 over that at 0.001",
        text,
        _SOURCE,
        ratio,
        ratio,
        ratio,
        "within 2 %",
        agrees,
    )
    rows.append(row)
    for dt in (0.1, 0.01):
        error = (lq_fixed_point.iterate(dt) - lq_fixed_point.exact(dt)).abs().max().item()
        rows.append(_exact(f"LQ1: fixed point by full-batch iteration, dt = {dt}", error, 1e-8))
    return rows


def _exact(quantity: str, difference: float, tolerance: float) -> Row:
    return Row(
        quantity,
        "0",
        _SOURCE,
        difference,
        difference,
        difference,
        f"≤ {tolerance:g}",
        difference <= tolerance,
    )


def learned(runs: dict[tuple[str, str, float], list[dict[str, Array]]]) -> list[Row]:
    """Rows comparing the advantages learned on the pusher with their limits."""
    _, stay = pusher_values(torch.tensor(1.0), GAMMA)
    rows = []
    for (name, actions, dt), seeds in runs.items():
        where = f"{name}, {actions}, dt = {dt:g}"
        if name == "dqn":
            if dt == min(STEPS):
                rows.append(_share(f"{where}: share of states ranked right", seeds, "ranked", 0.5))
            continue
        late = np.array([run["curve"][-len(run["curve"]) // 4 :].mean(0) for run in seeds])
        for column, action, limit in ((0, "stay", stay.item()), (1, "away", 2 * stay.item())):
            values = late[:, column]
            mean = float(values.mean())
            agrees = abs(mean / limit - 1) < 0.1
            rows.append(
                Row(
                    f"{where}: A(1, {action})",
                    f"{limit:.4f}",
                    _SOURCE,
                    mean,
                    float(values.min()),
                    float(values.max()),
                    "within 10 %",
                    agrees,
                )
            )
        rows.append(_share(f"{where}: greedy policy toward 0", seeds, "greedy", 0.9))
    return rows


def _share(quantity: str, runs: Sequence[dict[str, Array]], key: str, bound: float) -> Row:
    values = np.array([float(run[key]) for run in runs])
    mean = float(values.mean())
    above = key == "greedy"
    agrees = mean >= bound if above else mean <= bound
    text = "the right policy" if above else "actions are no longer distinguished"
    sign = "≥" if above else "≤"
    return Row(
        quantity,
        text,
        "thesis, §8.3",
        mean,
        float(values.min()),
        float(values.max()),
        f"{sign} {bound}",
        bool(agrees),
    )


def reproduce(job: Job) -> Report:
    """Evaluate the closed forms, then train whatever is not cached."""
    plan = FULL if job.full else QUICK
    runs: dict[tuple[str, str, float], list[dict[str, Array]]] = {}
    for name, actions in RUNS:
        for dt in STEPS:
            key = (name, actions, dt)
            for seed in range(job.seeds):
                measured = job.cell(
                    f"{name}-{actions}-dt{dt:g}-s{seed}",
                    (plan, plan.flags(*key, seed)),
                    partial(learn, plan, name, actions, dt, seed),
                )
                runs.setdefault(key, []).append(measured)

    def draw(figure: Figure) -> None:
        _, stay = pusher_values(torch.tensor(1.0), GAMMA)
        panels = figure.subplots(1, len(RUNS), sharey=True)
        for axes, (name, actions) in zip(panels, RUNS, strict=True):
            for dt, colour in zip(STEPS, COLOURS, strict=False):
                for run in runs[name, actions, dt]:
                    seconds = np.linspace(0, plan.seconds, len(run["curve"]))
                    axes.plot(seconds, run["curve"][:, 1], color=colour, label=f"dt = {dt:g}")
                    axes.plot(seconds, run["curve"][:, 0], color=colour, linestyle="--")
            for limit in (stay, 2 * stay):
                axes.axhline(limit.item(), color="black", linewidth=0.8)
            axes.set(title=f"{name}, {actions}", xlabel="seconds per environment", ylim=(-3, 1))
        panels[0].set_ylabel("A(1, away), dashed A(1, stay), per second")
        handles, labels = panels[0].get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        panels[0].legend(unique.values(), unique.keys())

    return Report([*closed_forms(), *learned(runs)], draw)
