"""The chorale of six notes: exact values and samplers, and learners that must find them.

Exact results are sums over all 729 rolls and 4096 contexts. The optimal policy of filling with an
entropy bonus of temperature 1 is the ancestral sampler, and the value of the empty roll is log 720;
without the bonus a policy gradient exceeds the sampler's return and collapses to a few rolls.

Source: T. Cooijmans, PhD thesis, chapter 3, for loss, likelihood and samplers; the rest is derived.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from semigradient.agents.pcl import PCL
from semigradient.agents.ppo import PPO
from semigradient.api import make_agent
from semigradient.envs.adapters import CoreVector
from semigradient.envs.music.chorale_fill import ChoraleFill
from semigradient.envs.music.toy_chorale import CELLS, PITCHES, toy_joint
from semigradient.reproductions.gflownet.flow_runs import exact_row
from semigradient.reproductions.music import toy_chorale_exact as exact
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "The chorale of six notes: samplers and optimal policies exactly, and learners beside them"
SEEDS = {"quick": 2, "full": 10}
_ENV = "semigradient/ToyChorale-v0"
_POINTS = 12
_DERIVED = "derived; by enumeration"
_ALPHAS = {0.9: 0.4659, 0.5: 0.1723, 0.25: 0.0726, 0.1: 0.0265, 0.02: 0.0051}
_SOFT = math.lgamma(CELLS + 1)


def reproduce(job: Job) -> Report:
    """Enumerate the exact results, then train."""
    rows = enumerated() + gibbs_rows()
    seeds = range(job.seeds)
    soft = [job.cell(f"pcl-s{s}", job.full, partial(learn_soft, s, job.full)) for s in seeds]
    plain = [job.cell(f"ppo-s{s}", "ppo", partial(learn_plain, s)) for s in seeds]
    rows += soft_rows(soft) + plain_rows(plain)

    def draw(figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3)
        for curve in soft:
            left.plot(curve["steps"], curve["value"], color="C0")
            middle.semilogy(curve["steps"], curve["tv"], color="C0")
        left.axhline(_SOFT, color="grey", linewidth=0.8)
        middle.axhline(0.02, color="grey", linewidth=0.8)
        left.set(title="PCL: V(empty)", xlabel="steps")
        middle.set(title="PCL: TV from p", xlabel="steps")
        for curve in plain:
            right.plot(curve["steps"], curve["return"], color="C1")
        for level in (-toy_joint().entropy(), float(toy_joint().log_p.max())):
            right.axhline(level, color="grey", linewidth=0.8)
        right.set(title="PPO, no bonus: E log p", xlabel="steps")

    return Report(rows, draw)


def enumerated() -> list[Row]:
    """Rows for identities that hold up to rounding."""
    joint = toy_joint()
    p, context = joint.log_p.exp(), exact.all_contexts()
    missing = (~context[1]).flatten(1).sum(1).double()
    values = exact.optimal_values(1.0, False) - torch.lgamma(missing + 1)
    hard = float(exact.optimal_values(0.0, False)[-1])
    residuals = [p @ exact.one_by_one_kernel(known) - p for known in exact.subsets()]

    def near(quantity: str, published: str, error: float, limit: float = 1e-9) -> Row:
        return exact_row(quantity, (published, _DERIVED), abs(error), limit)

    return [
        near("log Z", "8.944255", joint.log_z - 8.944255, 1e-6),
        near("entropy of the joint", "4.673384 nats", joint.entropy() - 4.673384, 1e-6),
        near("D E[orderless loss] - H", "0", CELLS * exact.orderless_loss() - joint.entropy()),
        near("soft value - log |unknown|!, all contexts", "0", float(values.abs().max())),
        near(
            "soft value with a given order, all contexts",
            "0",
            float(exact.optimal_values(1.0, True).abs().max()),
        ),
        near("best deterministic return", "-1.944255", hard + 1.944255, 1e-6),
        near(
            "rolls of the ancestral policy: TV from p",
            "0",
            exact.total_variation(exact.reach(exact.ancestral_policy())[1], p),
        ),
        near(
            "ancestral Gibbs: p less p after a step, all kept sets",
            "0",
            max(float(residual.abs().max()) for residual in residuals),
        ),
    ]


def gibbs_rows() -> list[Row]:
    """Rows for the bias of erasing many cells and drawing them independently."""
    p = toy_joint().log_p.exp()
    rows = []
    for alpha, q in exact.gibbs_laws(tuple(_ALPHAS)).items():
        error = abs(exact.total_variation(q, p) - _ALPHAS[alpha])
        claim = (f"{_ALPHAS[alpha]}", _DERIVED)
        rows.append(
            exact_row(f"independent Gibbs, rate {alpha}: TV from p, error", claim, error, 6e-5)
        )
    return rows


def learn_soft(seed: int, full: bool) -> dict[str, Array]:
    """Train PCL with its preset; exact metrics during training."""
    steps = 256_000 if full else 64_000
    agent: Any = make_agent("pcl", _ENV, seed=seed, threads=1, steps=steps)
    return _curve(agent, steps, lambda: soft_figures(agent))


@torch.no_grad()
def soft_figures(agent: PCL) -> dict[str, float]:
    """Value of the empty roll; distances of policy and rolls from the ancestral sampler's."""
    log_probs, value = agent.evaluate(*_everywhere(agent))
    return {"value": float(value[-1]), **_distances(log_probs.double().exp())}


def _everywhere(agent: PCL | PPO) -> tuple[Tensor, Tensor]:
    """Observations and legal actions of all states, in the order of `exact.states`."""
    envs = agent.setup.envs
    assert isinstance(envs, CoreVector)
    core, state = envs.core, exact.states()
    assert isinstance(core, ChoraleFill)
    return core.observe(state), core.legal(state)


def _distances(probs: Tensor) -> dict[str, float]:
    """Distances of a policy (states, actions) and its rolls from the ancestral sampler's."""
    open_ = exact.states().missing > 0
    policy = probs.view(-1, CELLS, PITCHES).where(open_[:, None, None], 0.0)
    mass, distribution = exact.reach(policy)
    apart = (policy - exact.ancestral_policy()).abs().sum((1, 2)) / 2
    p = toy_joint().log_p.exp()
    return {
        "tv": exact.total_variation(distribution, p),
        "policy_tv": float((mass * apart)[open_].sum() / CELLS),
        "return": float((distribution * toy_joint().log_p).sum()),
        "effective": float(1 / distribution.square().sum()),
    }


def learn_plain(seed: int) -> dict[str, Array]:
    """Train PPO without an entropy bonus."""
    steps = 60_000
    agent: Any = make_agent(
        "ppo",
        _ENV,
        optim_options={"lr": 1e-3},
        seed=seed,
        threads=1,
        steps=steps,
        num_envs=32,
        rollout_steps=24,
        batch_size=256,
        epochs=4,
        gamma=1.0,
    )
    return _curve(agent, steps, lambda: plain_figures(agent))


@torch.no_grad()
def plain_figures(agent: PPO) -> dict[str, float]:
    """Distances of a policy without a soft value."""
    return _distances(agent.network.policy(*_everywhere(agent)).double().softmax(1))


def _curve(agent: Any, steps: int, figures: Any) -> dict[str, Array]:
    rows: list[dict[str, float]] = []
    for point in range(1, _POINTS + 1):
        while agent.progress.steps < steps * point / _POINTS:
            agent.iterate()
        rows.append({"steps": float(agent.progress.steps), **figures()})
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def soft_rows(curves: list[dict[str, Array]]) -> list[Row]:
    """Rows for a maximum-entropy learner."""

    def last(key: str) -> Array:
        return np.array([curve[key][-1] for curve in curves])

    value, entropy = last("value"), toy_joint().entropy()
    claims = [
        ("PCL: V(empty), relative error", "log 720 within 2 %", abs(value / _SOFT - 1), 0.02),
        ("PCL: TV of its rolls from p", "< 0.02", last("tv"), 0.02),
        ("PCL: TV of its policy from the sampler's, where it goes", "< 0.02", last("policy_tv"),
         0.02),
        ("PCL: mean return + H", "0, ancestral sampling's", abs(last("return") + entropy), 0.05),
    ]  # fmt: skip
    return [_bounded(*claim) for claim in claims]


def plain_rows(curves: list[dict[str, Array]]) -> list[Row]:
    """Rows for a policy gradient without a bonus: a known failure."""
    returns = np.array([curve["return"][-1] for curve in curves])
    rolls = np.array([curve["effective"][-1] for curve in curves])
    p = toy_joint().log_p.exp()
    baseline, wide = -toy_joint().entropy(), float(1 / p.square().sum())
    low, high = _interval(returns)
    name = "PPO without a bonus: mean return"
    claim = f"above ancestral sampling's {baseline:.3f}"
    words = f"the interval is above {baseline:.3f}"
    rows = [Row(name, claim, "derived", returns.mean(), low, high, words, low > baseline)]
    low, high = _interval(rolls)
    name = "PPO without a bonus: effective number of rolls, 1 / Σ q²"
    claim, words = f"below the joint's {wide:.1f}", f"the interval is below {wide / 2:.1f}"
    rows.append(Row(name, claim, "derived", rolls.mean(), low, high, words, high < wide / 2))
    return rows


def _bounded(quantity: str, published: str, values: Array, limit: float) -> Row:
    low, high = _interval(values)
    mean = float(values.mean())
    name = f"{quantity} ({len(values)} seeds)"
    text = f"the mean is < {limit:g}"
    return Row(name, published, "acceptance limit", mean, low, high, text, mean < limit)


def _interval(values: Array) -> tuple[float, float]:
    return bootstrap_interval(np.mean, values, np.random.default_rng(0))
