"""Best response shaping on the prisoner's dilemma of six rounds: figure 5.2.

Against the tree-search detective BRS learns cynic tit-for-tat, which defects at first and mirrors
from then on; with self-play with reward sharing (BRS-SP) it learns tit-for-tat. The rows
report the probabilities of cooperation in the five states, and the exact value of each learned
policy against the detective, at most -7.

Source: T. Cooijmans, PhD thesis 2023, sections 5.5.1 and 5.A.1, figure 5.2, which has no numbers.
Published are a two-layer tanh network and SGD at 3e-4 (searched over 1e-4 to 1e-3, SGD and Adam).
The quick scale takes Adam at 1e-2, which needs 400 updates instead of tens of thousands;
widths, batches and numbers of updates are not published.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from semigradient import optim
from semigradient.agents.games.tree_search import Config, TreeSearchLearner, exact_values
from semigradient.domains.games.repeated import PRISONERS
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Best response shaping learns cynic tit-for-tat, with self-play tit-for-tat: figure 5.2"
SEEDS = {"quick": 10, "full": 10}
STATES = ("start", "CC", "CD", "DC", "DD")
PUBLISHED = {"BRS": (0, 1, 0, 1, 0), "BRS-SP": (1, 1, 0, 1, 0)}
NAMES = {"BRS": "cynic tit-for-tat", "BRS-SP": "tit-for-tat"}
BEST = {"BRS": -7.0, "BRS-SP": -8.0}
_CLOSE = 0.05
_POINTS = 100  # of the learning curve


def config(variant: str, full: bool) -> tuple[Config, str, float, int]:
    """Hyperparameters, optimizer and its learning rate, and updates."""
    weight = float(variant == "BRS-SP")
    if full:
        return Config(hidden=64, self_play=weight), "sgd", 3e-4, 60_000
    return Config(self_play=weight), "adam", 1e-2, 400


def train(
    chosen: Config, optimizer: str, rate: float, updates: int, seeds: int
) -> dict[str, Array]:
    """Probabilities of C (points, S, 5) over training, and their updates."""
    make_config: Any = optim.config_class(optimizer)
    make_optimizer = partial(optim.make, make_config(lr=rate))
    learner = TreeSearchLearner(chosen, seeds, make_optimizer=make_optimizer)
    every = max(1, updates // _POINTS)
    at, probabilities = [0], [learner.logits().detach().sigmoid().numpy()]
    for update in range(1, updates + 1):
        learner.iterate()
        if update % every == 0 or update == updates:
            at.append(update)
            probabilities.append(learner.logits().detach().sigmoid().numpy())
    return {"updates": np.array(at, float), "probabilities": np.array(probabilities)}


def reproduce(job: Job) -> Report:
    """Train both variants and compare their policies with the published ones."""
    runs, rows = {}, []
    for variant in PUBLISHED:
        setting = *config(variant, job.full), job.seeds
        runs[variant] = job.cell(variant.lower(), setting, partial(train, *setting))
        rows += claims(variant, runs[variant]["probabilities"][-1])

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        for panel, (variant, run) in zip(axes, runs.items(), strict=True):
            last = run["probabilities"][-1]
            ends = np.array([_interval(column) for column in last.T]).T
            mean = last.mean(0)
            spread = np.abs(ends - mean)
            panel.bar(STATES, mean, yerr=spread, color=COLOURS[0], capsize=3)
            panel.plot(STATES, PUBLISHED[variant], "o", color=COLOURS[1], label="published")
            panel.set(title=f"{variant} ({len(last)} seeds)", ylabel="P(C)", ylim=(-0.05, 1.08))
            panel.legend(loc="upper right")

    return Report(rows, draw)


def _interval(values: Array) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds."""
    return bootstrap_interval(np.mean, values, np.random.default_rng(0))


def claims(variant: str, probabilities: Array) -> list[Row]:
    """Rows for final probabilities (S, 5)."""
    rows = []
    for state, published, column in zip(STATES, PUBLISHED[variant], probabilities.T, strict=True):
        mean = float(column.mean())
        low, high = _interval(column)
        agrees = abs(mean - published) <= _CLOSE
        tolerance = f"within {_CLOSE} of {published}"
        name = f"{variant}: P(C | {state})"
        source = "figure 5.2"
        rows.append(Row(name, str(published), source, mean, low, high, tolerance, agrees))
    same = (probabilities.round() == np.array(PUBLISHED[variant])).all(1)
    share = float(same.mean())
    rows.append(
        Row(
            f"{variant}: share of seeds that learn {NAMES[variant]}",
            "all",
            "section 5.5.1",
            share,
            *_interval(same.astype(float)),
            "1",
            share == 1,
        )
    )
    values = np.array(
        [exact_values(torch.from_numpy(policy), PRISONERS, 6)[0].item() for policy in probabilities]
    )
    agrees = abs(values.mean() - BEST[variant]) <= _CLOSE
    rows.append(
        Row(
            f"{variant}: exact value against the detective",
            f"{BEST[variant]:g}",
            f"{NAMES[variant]}, by dynamic programming",
            float(values.mean()),
            *_interval(values),
            f"within {_CLOSE}",
            bool(agrees),
        )
    )
    return rows
