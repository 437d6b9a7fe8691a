"""Basins of attraction and paths of learning in the Logistic Game: figure 6.2.

From each point of a 29×29 grid over [−10, 10]² both players learn by one rule for 200 updates with
step size 1. A cell is white if both end above zero, at the solution that both prefer. Published is
a picture; the counts were computed for this project with independent code.

Some cells depend on rounding: those on the anti-diagonal, which the saddle at the origin attracts,
and those where a large α makes learning chaotic. They are identified by perturbing the start by
1e-12. A count agrees if it lies between the certain white cells and those plus the uncertain ones.

The paths of figure 6.2a are in `logistic_paths`.

Source: T. Cooijmans, PhD thesis (2024), figure 6.2b, section 6.5.1 and appendix 6.D; grid, step
size and number of updates are those of its published code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.agents.games.cola import COLA
from semigradient.agents.games.meva import MeVa
from semigradient.domains.games import rules
from semigradient.envs.games.differentiable import simultaneous_gradient
from semigradient.envs.games.logistic import LogisticGame
from semigradient.reproductions.games import logistic_paths
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.build import build
from semigradient.training.cli import parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Cells = NDArray[np.bool_]
TITLE = "Basins of attraction in the Logistic Game: meta-value thesis, figure 6.2"
SEEDS = {"quick": 3, "full": 3}
SIDE, UPDATES = 29, 200
WHITE = {
    ("naive", 0.0): 427,
    ("lola", 0.1): 435,
    ("lola", 1.0): 445,
    ("lola", 5.0): 443,
    ("lola", 10.0): 435,
    ("lola", 20.0): 508,
    ("hola2", 0.1): 435,
    ("hola2", 1.0): 451,
    ("hola2", 5.0): 470,
    ("hola2", 10.0): 466,
    ("hola2", 20.0): 208,
}
"""White cells of 841, by rule and α."""
GAMMAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
ALPHAS = (0.0, 1.0, 5.0, 10.0)
PATHS = {"naive": 0.0, "lola": 10.0, "hola2": 5.0}
"""Exact rules whose paths are drawn, with α."""
_FAR, _CONSISTENT = 0.95, 5.0
"""MeVa's γ and COLA's α there."""
_QUICK_MEVA = ["--blocks", "0", "--batch-size", "64", "--no-full-gradient"]
"""With a fixed bootstrap: the published residual gradient needs more updates."""
_QUICK_COLA = ["--blocks", "0", "--batch-size", "128"]
_MEVA_LOOPS = {"quick": 400, "full": 1000}
_COLA_STEPS = {"quick": 2000, "full": 10001}
_GRID_SOURCE = "figure 6.2b; counts: own reference"


def grid() -> Tensor:
    """Starting pairs (841, 2, 1)."""
    axis = torch.linspace(-10, 10, SIDE, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2, 1)


def follow(direction: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Whether both players of each pair (…, 2, 1) end above zero: (…,) bool; False if diverged."""
    x = start
    for _ in range(UPDATES):
        x = x + direction(x)
    return (x.squeeze(-1) > 0).all(-1)


def exact(job: Job, name: str, alpha: float) -> tuple[Cells, Cells]:
    """White cells (841,) of a rule, and the cells (841,) that depend on rounding."""

    def work() -> dict[str, Any]:
        game, rule = LogisticGame(), rules.rule(name, alpha)
        noise = torch.randn(3, SIDE**2, 2, 1, generator=torch.Generator().manual_seed(0))
        noise[0] = 0
        white = follow(
            lambda x: torch.stack([rule(game, x, player) for player in (0, 1)], -2),
            grid() + 1e-12 * noise.double(),
        )
        tie = torch.eye(SIDE, dtype=torch.bool).fliplr().reshape(-1)
        return {"white": white[0].numpy(), "tie": (tie | (white != white[0]).any(0)).numpy()}

    arrays = job.cell(f"{name}-{alpha:g}", (name, alpha, SIDE, UPDATES, "ties"), work)
    return arrays["white"], arrays["tie"]


def exact_paths(name: str, alpha: float) -> Array:
    """Paths (T, 17, 2) of a rule."""
    game, rule = LogisticGame(), rules.rule(name, alpha)
    return logistic_paths.paths(
        lambda x: torch.stack([rule(game, x, player) for player in (0, 1)], -2),
        logistic_paths.starts(),
        UPDATES,
    )


def meta_values(job: Job) -> tuple[Cells, Array]:
    """White cells (discounts, models, 841) of trained models, and paths (T, models, 17, 2)."""
    loops = _MEVA_LOOPS[job.scale]
    words = ["--agent", "meva", "--env", "semigradient/LogisticGame-v0", "--threads", "1"]
    flags = [] if job.full else _QUICK_MEVA
    command = parse([*words, "--models", str(job.seeds), *flags]).command

    def work() -> dict[str, Any]:
        agent = build(command)
        assert isinstance(agent, MeVa)
        course = []
        for loop in range(loops):
            scalars = agent.iterate()
            course.append([float(scalars["loss"]), float(scalars["return"])])
            if (loop + 1) % 50 == 0:
                job.say(f"meva {loop + 1}/{loops}: loss {course[-1][0]:.3f}")
        start = grid().expand(job.seeds, -1, -1, -1)
        white = [
            follow(lambda x, g=gamma: agent.direction(x, g), start).numpy()  # type: ignore[misc]
            for gamma in GAMMAS
        ]
        sparse = logistic_paths.starts().expand(job.seeds, -1, -1, -1)
        paths = logistic_paths.paths(lambda x: agent.direction(x, _FAR), sparse, UPDATES)
        return {"white": np.stack(white), "course": np.array(course), "paths": paths}

    arrays = job.cell("meva", (command.identity(), loops, GAMMAS, SIDE, UPDATES, _FAR), work)
    return arrays["white"], arrays["paths"]


def consistent(job: Job) -> tuple[Cells, Array, Array]:
    """COLA's white cells (alphas, 841), |ĝ − ∇f| (841,) at α = 0 on the trained area, and paths."""
    steps = _COLA_STEPS[job.scale]
    words = ["--agent", "cola", "--env", "semigradient/LogisticGame-v0", "--threads", "1"]
    command = parse([*words, *([] if job.full else _QUICK_COLA)]).command

    def work() -> dict[str, Any]:
        agent = build(command)
        assert isinstance(agent, COLA)
        for step in range(steps):
            scalars = agent.iterate()
            if (step + 1) % 500 == 0:
                job.say(f"cola {step + 1}/{steps}: loss {float(scalars['loss']):.2e}")
        start = grid()
        white = [
            follow(lambda x, a=alpha: agent.direction(x, a), start).numpy()  # type: ignore[misc]
            for alpha in ALPHAS
        ]
        inside = start[(start.abs() <= 8).flatten(1).all(1)]
        off = agent.direction(inside, 0.0) - simultaneous_gradient(agent.game, inside)
        paths = logistic_paths.paths(
            lambda x: agent.direction(x, _CONSISTENT), logistic_paths.starts(), UPDATES
        )
        error = off.norm(dim=(1, 2)).numpy()
        return {"white": np.stack(white), "error": error, "paths": paths}

    key = (command.identity(), steps, ALPHAS, SIDE, UPDATES, _CONSISTENT)
    arrays = job.cell("cola", key, work)
    return arrays["white"], arrays["error"], arrays["paths"]


def reproduce(job: Job) -> Report:
    """Basins of every rule, compared with the counts."""
    pictures: dict[str, Cells] = {}
    rows = []
    for (name, alpha), count in WHITE.items():
        white, tie = exact(job, name, alpha)
        pictures[f"{name}, α = {alpha:g}"] = white
        rows.append(_count_row(name, alpha, count, white, tie))
    white, meta = meta_values(job)
    shares = white.mean(-1)
    for gamma, cells in zip(GAMMAS, white, strict=True):
        pictures[f"MeVa, γ = {gamma:g}"] = cells[0]
    rows += _share_rows(shares)
    cola, error, consistent_paths = consistent(job)
    for alpha, cells in zip(ALPHAS, cola, strict=True):
        pictures[f"COLA, α = {alpha:g}"] = cells
    rows += _cola_rows(cola.mean(-1), error)
    paths = {f"{name}, α = {alpha:g}": exact_paths(name, alpha) for name, alpha in PATHS.items()}
    rows += logistic_paths.rows(next(iter(paths.values())), meta)
    paths[f"COLA, α = {_CONSISTENT:g}"] = consistent_paths
    paths[f"MeVa, γ = {_FAR:g}"] = meta[:, 0]

    def draw(figure: Figure) -> None:
        shape = (-(-len(pictures) // 7) + 1, 7)
        logistic_paths.draw_all(figure, shape, 7 * (shape[0] - 1) + 1, paths)
        for index, (title, cells) in enumerate(pictures.items()):
            axes = figure.add_subplot(*shape, index + 1)
            # The first player's policy is on the x-axis.
            axes.imshow(cells.reshape(SIDE, SIDE).T, "gray", origin="lower", vmin=0, vmax=1)
            axes.set_title(title, fontsize=8)
            axes.set_axis_off()

    return Report(rows, draw, (11.0, 7.2))


def _count_row(name: str, alpha: float, published: int, white: Cells, tie: Cells) -> Row:
    count, certain, most = int(white.sum()), int(white[~tie].sum()), int((white | tie).sum())
    return Row(
        f"white cells of {name}, α = {alpha:g}",
        str(published),
        _GRID_SOURCE,
        count,
        certain,
        most,
        f"between {certain} and {most}, as rounding decides",
        certain <= published <= most,
    )


def _share_rows(shares: Array) -> list[Row]:
    """Rows for MeVa's shares of white cells (discounts, models)."""
    rows = []
    means, lows, highs = shares.mean(1), shares.min(1), shares.max(1)
    growth = float(np.diff(means).min())
    rows.append(
        Row(
            "least growth of MeVa's white share, γ = " + ", ".join(f"{g:g}" for g in GAMMAS),
            "grows with γ",
            "section 6.5.1",
            growth,
            float(np.diff(shares, axis=0).min()),
            float(np.diff(shares, axis=0).max()),
            "the mean never falls by more than 0.01",
            growth >= -0.01,
        )
    )
    for gamma, mean, low, high in zip(GAMMAS, means, lows, highs, strict=True):
        if gamma > 0.9:
            text, claim = "≥ 0.99 in every model", "everything above γ = 0.9"
            agrees = low >= 0.99
        else:
            text, claim, agrees = "no claim", "a picture", True
        quantity = f"MeVa's white share, γ = {gamma:g}"
        rows.append(Row(quantity, claim, "figure 6.2b", mean, low, high, text, bool(agrees)))
    return rows


def _cola_rows(shares: Array, error: Array) -> list[Row]:
    """Rows for COLA's error where the exact gradient is known, and for its basins."""
    low, high = np.quantile(error, [0.025, 0.975])
    mean = float(error.mean())
    rows = [
        Row(
            "COLA's mean |ĝ − ∇f| at α = 0 within ±8",
            "0",
            "equation 6.2.4",
            mean,
            float(low),
            float(high),
            "below 0.05",
            mean < 0.05,
        )
    ]
    gain = float(shares[2:].mean() - shares[0])
    rows.append(
        Row(
            "COLA's white share at α = 5, 10 less that at 0",
            "significant improvements",
            "section 6.5.1",
            gain,
            float(shares[2:].min() - shares[0]),
            float(shares[2:].max() - shares[0]),
            "above 0",
            gain > 0,
        )
    )
    return rows
