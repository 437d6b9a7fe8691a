"""Learning rules head-to-head on repeated matrix games: shared code of tables 6.2 and 6.3.

Pairs of policies start from standard normal logits; each player applies its own rule, both with
the same step size, and the table has the final returns of the row's player against the column's.
Naive learners and LOLA are exact; MeVa's rows need models, which are trained against their
opponent as by `train.py --agent meva`.

The text does not state the number of updates. 500, as in the authors' public notebook, gives the
published −5.32 of LOLA against itself in Chicken, which changes at every update; 100 or 300 do not.

Source: T. Cooijmans, PhD thesis (2024), section 6.5.2, tables 6.4 to 6.6. M-FOS, which the tables
also show, is in `reproductions.games.meva_baselines`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from semigradient.agents.games.meva import MeVa
from semigradient.domains.games import head_to_head, rules
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
SEEDS = {"quick": 5, "full": 10}
UPDATES = 500
PAIRS = {"quick": 4096, "full": 20480}
MODEL_PAIRS = {"quick": 256, "full": 2048}
"""Pairs evaluated per model."""


@dataclass(frozen=True)
class HeadToHeadTable:
    """One published table.

    Attributes:
        env: the game.
        alpha: step size of all players.
        cells: (row, column) → return and its published standard error (0 where none is given).
        off_diagonal: tolerance for naive learners against LOLA.
        loops: outer loops of training at the quick scale, by opponent.
        source: number of the table.
        symmetric: whether the seats are equivalent, so that self-play returns are averaged over
            both.
        imagined: step size that LOLA imagines against trained models, where it is not `alpha`.
    """

    env: str
    alpha: float
    cells: Mapping[tuple[str, str], tuple[float, float]]
    off_diagonal: float
    loops: Mapping[str, int]
    source: str
    symmetric: bool = True
    imagined: float = -1.0


QUICK = ["--width", "64", "--blocks", "0", "--quantiles", "16", "--batch-size", "64"]
"""Published: twice the width, a residual block, four times the quantiles, twice the pairs."""


def exact(job: Job, table: HeadToHeadTable, first: str, second: str) -> tuple[Array, Array]:
    """Mean returns (2,) of two learners without models, and their standard errors (2,)."""
    pairs = PAIRS[job.scale]
    identity = (table.env, table.alpha, first, second, pairs, UPDATES)

    def work() -> dict[str, Any]:
        game = build(_command(table, "naive", 1)).game  # type: ignore[attr-defined]
        players = _follower(table, first), _follower(table, second)
        returns = head_to_head.returns(game, players, pairs, UPDATES)
        error = returns.std(0) / math.sqrt(pairs)
        return {"mean": returns.mean(0).numpy(), "error": error.numpy()}

    returns = job.cell(f"{first}-{second}", identity, work)
    return returns["mean"], returns["error"]


def _follower(table: HeadToHeadTable, name: str) -> head_to_head.Contestant:
    return head_to_head.follower(rules.rule(name, table.alpha), table.alpha)


def learned(job: Job, table: HeadToHeadTable, opponent: str) -> dict[str, Array]:
    """Mean returns (models, 2) of trained models against `opponent`, and the training curve."""
    loops = 1001 if job.full else table.loops[opponent]
    pairs = MODEL_PAIRS[job.scale]
    chosen = command(job, table, opponent)
    identity = (chosen.identity(), loops, pairs, UPDATES)

    def work() -> dict[str, Any]:
        agent = build(chosen)
        assert isinstance(agent, MeVa)
        course = []
        for loop in range(loops):
            scalars = agent.iterate()
            course.append([float(scalars[key]) for key in ("return", "opponent_return")])
            if (loop + 1) % 10 == 0:
                ours, theirs = np.mean(course[-10:], 0)
                job.say(f"meva-{opponent} {loop + 1}/{loops}: {ours:.2f}, {theirs:.2f}")
        parameters = {
            f"parameter/{k}": v.cpu().numpy() for k, v in agent.target.state_dict().items()
        }
        return {"returns": evaluate(agent, pairs), "course": np.array(course), **parameters}

    return job.cell(f"meva-{opponent}", identity, work)


def command(job: Job, table: HeadToHeadTable, opponent: str) -> Any:
    """The training command of the models, as parsed by `train.py`."""
    return _command(table, opponent, job.seeds, *([] if job.full else QUICK))


def evaluate(agent: MeVa, pairs: int) -> Array:
    """Mean final returns (models, 2) of `pairs` pairs for each model."""
    start = agent.game.draw(pairs, torch.Generator().manual_seed(0))
    x = start.to(agent.setup.device).expand(agent.config.models, -1, -1, -1)
    return agent.game.value(agent.learn_policies(x, UPDATES)).mean(1).cpu().numpy()


def reproduce(job: Job, table: HeadToHeadTable) -> Report:
    """All cells of the table except those of M-FOS."""
    rows = []
    for first, second in (("naive", "naive"), ("naive", "lola"), ("lola", "lola")):
        mean, error = exact(job, table, first, second)
        rows.append(_exact_row(table, first, second, mean[0], error[0]))
        if first != second:
            rows.append(_exact_row(table, second, first, mean[1], error[1]))
    courses = {}
    for opponent in ("naive", "self", "lola"):
        results = learned(job, table, opponent)
        courses[opponent] = results["course"]
        ours, theirs = results["returns"].T
        if opponent == "self":
            either = (ours + theirs) / 2 if table.symmetric else ours
            rows.append(_learned_row(table, "meva", "meva", either))
        else:
            rows.append(_learned_row(table, "meva", opponent, ours))
            rows.append(_learned_row(table, opponent, "meva", theirs))

    def draw(figure: Figure) -> None:
        for axes, (opponent, course) in zip(figure.subplots(1, 3), courses.items(), strict=True):
            for column, label in enumerate(("MeVa", "its opponent")):
                axes.plot(course[:, column], color=COLOURS[column], label=label)
            other = "meva" if opponent == "self" else opponent
            axes.axhline(table.cells["meva", other][0], color="grey", linestyle=":")
            axes.set(title=f"against {opponent}", xlabel="outer loop", ylabel="return, training")
        axes.legend()

    return Report(rows, draw)


def _command(table: HeadToHeadTable, opponent: str, models: int, *flags: str) -> Any:
    """A command as parsed by `train.py`."""
    words = ["--agent", "meva", "--env", table.env, "--opponent", opponent]
    if opponent == "lola" and table.imagined >= 0:
        words += ["--opponent-alpha", str(table.imagined)]
    return parse([*words, "--models", str(models), "--threads", "1", *flags]).command


def _exact_row(table: HeadToHeadTable, first: str, second: str, value: float, error: float) -> Row:
    published, _ = table.cells[first, second]
    allowed = 0.05 if first == second else table.off_diagonal
    # The published value is also a mean over random initial policies.
    allowed = max(allowed, 2 * math.sqrt(2) * error)
    return Row(
        f"{first} against {second}",
        f"{published:.2f}",
        table.source,
        value,
        value - 1.96 * error,
        value + 1.96 * error,
        f"within {allowed:.2f}",
        abs(value - published) <= allowed,
    )


def _learned_row(table: HeadToHeadTable, first: str, second: str, returns: Array) -> Row:
    published, error = table.cells[first, second]
    allowed = max(0.06, 3 * error)
    value = float(returns.mean())
    low, high = bootstrap_interval(np.mean, returns, np.random.default_rng(0))
    return Row(
        f"{first} against {second}",
        f"{published:.2f} ± {error:.2f}",
        table.source,
        value,
        low,
        high,
        f"within {allowed:.2f}",
        abs(value - published) <= allowed,
    )
