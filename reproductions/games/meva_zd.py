"""A meta-value learner exploits a naive one by extortion and beyond: figure 6.4.

A memory-one policy determines which pairs of returns are possible against it. These are sampled
with 1000 random opponents for the first player's policy at several stages of its learning: a policy
of zero-determinant extortion with slope χ puts all of them on a line through mutual defection with
that slope. Learned policies need not be exact: measured is the inverse slope of the right edge
of the cloud, the largest return of an opponent for each return of the first player. It is 1 for a
fair policy, 1/χ for extortion and 0 where the edge is vertical and no response helps the opponent.

Claims: the policy is soon extortionate, the edge is almost vertical later, the naive learner is
held near −2 and the other earns about −0.57.

Source: T. Cooijmans, PhD thesis (2024), appendix 6.F; times, numbers of opponents and their
distribution are those of the public code. The models are those of `meva-ipd` against naive
learners.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.agents.games.meva import MeVa
from semigradient.envs.games.differentiable import Game
from semigradient.envs.games.matrix_games import MatrixGame, extortion
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.games import meva_ipd, meva_tables
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.build import build
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "A meta-value learner against a naive one, by the returns that it allows: figure 6.4"
SEEDS = {"quick": 5, "full": 4}
TIMES = (0, 5, 10, 20, 35, 50)
OPPONENTS = 1000
PAIRS = 32
"""Pairs of policies per model; the figure shows one of them."""
_BINS = 12
_SLOPE = 3.0


def clouds(game: Game, policies: Tensor, random: torch.Generator) -> Tensor:
    """Returns (…, 1000, 2) of policies (…, 5) against random opponents, the same for all."""
    others = (torch.rand(OPPONENTS, 5, generator=random, dtype=policies.dtype) * 2 - 1) * 5
    shape = (*policies.shape[:-1], OPPONENTS, 5)
    pairs = torch.stack((policies.unsqueeze(-2).expand(shape), others.expand(shape)), -2)
    return game.value(pairs)


def edge(cloud: Array) -> tuple[float, float]:
    """Inverse slope and offset of the right edge of a cloud (N, 2) of (own, opponent's) returns.

    The own returns are divided into bins of equal width, and a line is fitted to the opponent's
    best return in each: opponent's = offset + inverse slope · own.
    """
    own, other = cloud.T
    bins = np.clip(((own - own.min()) / (np.ptp(own) + 1e-12) * _BINS).astype(int), 0, _BINS - 1)
    best = [np.flatnonzero(bins == b) for b in range(_BINS)]
    tops = [rows[other[rows].argmax()] for rows in best if len(rows)]
    inverse, offset = np.polyfit(own[tops], other[tops], 1)
    return float(inverse), float(offset)


def courses(agent: MeVa) -> Tensor:
    """Policies (times, S, pairs, 2, 5) at the times of the figure."""
    models = agent.config.models
    x = agent.game.draw(models * PAIRS, torch.Generator().manual_seed(2))
    x = x.view(models, PAIRS, 2, -1)
    kept = [x]
    for before, after in pairwise(TIMES):
        x = agent.learn_policies(x, after - before)
        kept.append(x)
    return torch.stack(kept)


def measure(job: Job) -> dict[str, Array]:
    """Clouds (times, S, pairs, 1000, 2) and the pairs' own returns (times, S, pairs, 2)."""
    parameters = meva_tables.learned(job, meva_ipd.TABLE, "naive")
    agent = build(meva_tables.command(job, meva_ipd.TABLE, "naive"))
    assert isinstance(agent, MeVa)
    state = {
        name.removeprefix("parameter/"): torch.from_numpy(value)
        for name, value in parameters.items()
        if name.startswith("parameter/")
    }
    agent.target.load_state_dict(state)

    def work() -> dict[str, Any]:
        x = courses(agent)
        random = torch.Generator().manual_seed(3)
        return {
            "clouds": clouds(agent.game, x[..., 0, :], random).numpy(),
            "returns": agent.game.value(x).numpy(),
        }

    return job.cell("clouds", (TIMES, OPPONENTS, PAIRS, parameters["returns"].tolist()), work)


def exact_cloud() -> Array:
    """The cloud (1000, 2) of an exact extortioner."""
    game = MatrixGame()
    probabilities = extortion(game.payoff, game.discount, _SLOPE).clamp(1e-15, 1 - 1e-15)
    return clouds(game, torch.logit(probabilities), torch.Generator().manual_seed(3)).numpy()


def reproduce(job: Job) -> Report:
    """Train the models and measure the clouds of returns."""
    measured = measure(job)
    all_clouds = measured["clouds"].reshape(-1, OPPONENTS, 2)
    edges = np.array([edge(cloud) for cloud in all_clouds])
    edges = edges.reshape(*measured["clouds"].shape[:3], 2)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(TIMES), sharex=True, sharey=True)
        corners = np.array([(-1, -1), (0, -3), (-2, -2), (-3, 0), (-1, -1)])
        for column, (panel, time) in enumerate(zip(panels, TIMES, strict=True)):
            cloud, (ours, theirs) = (
                measured["clouds"][column, 0, 0],
                measured["returns"][column, 0, 0],
            )
            panel.plot(*corners.T, color="grey", linewidth=0.8)
            panel.scatter(cloud[:, 1], cloud[:, 0], s=1, color=COLOURS[0], alpha=0.4)
            inverse, offset = edges[column, 0, 0]
            line = np.array([cloud[:, 0].min(), cloud[:, 0].max()])
            panel.plot(offset + inverse * line, line, color=COLOURS[2], linewidth=1)
            panel.plot(theirs, ours, "x", color=COLOURS[1])
            panel.set(title=f"after {time} updates", xlabel="naive learner's return")
        panels[0].set_ylabel("MeVa's return")

    return Report(rows(edges[..., 0].mean(2), measured["returns"][-1].mean(1)), draw, (14.0, 2.9))


def rows(inverse: Array, returns: Array) -> list[Row]:
    """Rows for inverse slopes (times, S) and the last returns (S, 2), means over pairs."""
    source = "appendix 6.F, figure 6.4"
    exact, offset = edge(exact_cloud())
    through = offset + exact * -2 + 2
    early, late = inverse[TIMES.index(10)], inverse[-1]
    result = [
        Row(
            "exact extortion with slope 3: inverse slope of the edge",
            "1/3, through (−2, −2)",
            "W. Press and F. Dyson 2012, with a discount",
            exact,
            exact,
            exact,
            "within 1e-6 of both",
            abs(exact - 1 / 3) < 1e-6 and abs(through) < 1e-6,
        ),
        _mean_row(
            "after 10 updates: inverse slope of the edge",
            "extortionate: a slope above 1",
            source,
            early,
            "the interval is below 1",
            lambda low, high: high < 1,
        ),
        _mean_row(
            "after 50 updates: inverse slope of the edge",
            "almost vertical",
            source,
            late,
            "the interval is in (−1/3, 1/3)",
            lambda low, high: low > -1 / 3 and high < 1 / 3,
        ),
    ]
    for seat, name, value in ((1, "the naive learner", -2.0), (0, "MeVa", -0.57)):
        row = _mean_row(
            f"after 50 updates: return of {name}",
            f"about {value:g}",
            source,
            returns[:, seat],
            "the mean is within 0.25",
            lambda low, high: True,
        )
        result.append(replace(row, agrees=abs(row.measured - value) <= 0.25))
    return result


def _mean_row(
    what: str,
    published: str,
    source: str,
    values: Array,
    tolerance: str,
    agrees: Callable[[float, float], bool],
) -> Row:
    low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
    mean = float(values.mean())
    return Row(what, published, source, mean, low, high, tolerance, agrees(low, high))
