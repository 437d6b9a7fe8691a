"""Table 5.1 and figures 5.9 to 5.11: flow network, MARS, PPO and others searching for molecules.

Every method gets the same number of scored molecules of up to eight out of 72 blocks. Measured are
the means of the ten, hundred and thousand best, the mean Tanimoto similarity of the best (RDKit's
path fingerprint; at the full scale of a thousand, as published, else of a hundred), how many modes
(less than 0.7 similar to all earlier ones) and Bemis-Murcko scaffolds there are above thresholds.

The quick scale takes 4 000 molecules and the synthetic score `dock_like`, or with `--folder DIR`
10 000 and the published proxy from `DIR/best_params.pkl.gz`, which takes half an hour. The full
scale requires that file: 100 000 molecules, with the numbers of table 5.1 as rows. Published
networks are 256 wide with 10 convolutions; the quick scale's are 64 with 4. At both scales the flow
network has the normalised form (layer norms, messages of unit scale), which is not the published
one (`--graph-form published`).

Published settings: four molecules per update of the flow network, exponent β = 10 for it, 4 for
MARS and PPO (T = 8). The published chain of MARS omits the ratio of proposals; so does this one.
Its published network operates on atoms; here all three operate on blocks, as the text states.

Source: E. Bengio, PhD thesis, section 5.4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from semigradient.errors import require
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.molecules.binding_proxy import FILE
from semigradient.reproductions.molecules.molecule_runs import KEPT, Array, Search, runs
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Searching for molecules: thesis table 5.1, figures 5.9 to 5.11"
SEEDS = {"quick": 2, "full": 3}
TABLE = {
    "gflownet": (8.36, 8.21, 7.98),
    "mars": (8.05, 7.71, 7.13),
    "ppo": (8.06, 7.87, 7.52),
}
"""Means of the 10, 100 and 1000 best of 100 000 molecules."""
_SOURCE = "table 5.1"


def methods(width: int, steps: int) -> dict[str, str]:
    """Flags by method."""
    graph = f"--graph-width {width} --graph-steps {steps}"
    return {
        "gflownet": f"--agent gflownet {graph} --graph-form normalised --batch-size 4 "
        "--reward-exponent 10 --exact-every 0 --test-objects 0",
        "mars": f"--agent mars {graph} --chains 64 --moves 4 --updates 4 --no-proposal-ratio",
        "ppo": f"--agent ppo --torso-width {width} --torso-depth {steps}",
        "genetic": "--agent genetic",
        "random": "--agent random --chains 64",
    }


def searches(job: Job) -> dict[str, Search]:
    """Searches by method."""
    file = str(Path(job.folder) / FILE) if job.folder else ""
    reward = ("reward=proxy", f"reward_file={file}") if file else ("reward=dock_like",)
    if job.full:
        require(bool(file), f"--folder: the full scale requires a folder with {FILE}")
    flags = methods(256, 10) if job.full else methods(64, 4)
    calls = 100_000 if job.full else 10_000 if file else 4_000
    limits = (7.0, 8.0) if file else (6.0, 7.0)
    # PPO has the reward R^β; the others have an option β.
    return {
        name: Search(words, (*reward, *(("exponent=4",) if name == "ppo" else ())), calls, limits)
        for name, words in flags.items()
    }


def reproduce(job: Job) -> Report:
    """Run and compare every method."""
    chosen = searches(job)
    results = {name: runs(job, name, search) for name, search in chosen.items()}
    limits = chosen["random"].thresholds
    rows = _claims(results, limits, KEPT.index(1000 if job.full else 100))
    if job.full:
        rows += _table(results)

    def draw(figure: Figure) -> None:
        (left, right), below = figure.subplots(2, 2)
        for index, (name, runs_) in enumerate(results.items()):
            colour = COLOURS[index % len(COLOURS)]
            left.plot(runs_["calls"][0], runs_["top_100"].mean(0), color=colour, label=name)
            right.plot(runs_["similar"][:, 0], runs_["modes"][:, 0], "o", color=colour)
            for panel, key in zip(below, ("modes", "scaffolds"), strict=True):
                grown = runs_[f"{key}_by_calls"][:, 0].mean(0)
                panel.plot(runs_["calls"][0], grown, color=colour)
        right.set_yscale("symlog")
        left.set(xlabel="molecules scored", ylabel="mean score of the 100 best")
        right.set(xlabel="similarity of the 100 best", ylabel=f"modes above {limits[0]:g}")
        left.legend(fontsize="small")
        for panel, what in zip(below, ("0.7-separated modes", "scaffolds"), strict=True):
            panel.set(xlabel="molecules scored", ylabel=f"{what} above {limits[0]:g}")

    return Report(rows, draw, (9.0, 7.2))


def _claims(
    results: Mapping[str, Mapping[str, Array]], limits: tuple[float, ...], kept: int
) -> list[Row]:
    """Similarity (of `KEPT[kept]`), modes and rewards, paired by seed."""
    similar = {name: runs_["similar"][:, kept] for name, runs_ in results.items()}
    rows = []
    for less, more in (("random", "gflownet"), ("gflownet", "mars"), ("gflownet", "ppo")):
        gap = similar[less] - similar[more]
        quantity = f"similarity of the {KEPT[kept]} best, {less} minus {more}"
        rows.append(_row(quantity, "< 0", gap, -1))
    for other in ("mars", "ppo", "random"):
        gap = results["gflownet"]["modes"][:, 0] - results[other]["modes"][:, 0]
        rows.append(_row(f"modes above {limits[0]:g}, gflownet minus {other}", "> 0", gap, 1))
    for other in ("mars", "ppo", "random"):
        gap = results["gflownet"]["top_100"][:, -1] - results[other]["top_100"][:, -1]
        rows.append(_row(f"mean of the 100 best, gflownet minus {other}", "> 0", gap, 1))
    gap = results["gflownet"]["top_100"][:, -1] - results["genetic"]["top_100"][:, -1]
    rows.append(_row("mean of the 100 best, gflownet minus genetic", "not said", gap, 0))
    return rows


def _row(quantity: str, published: str, values: Array, sign: int) -> Row:
    """Agrees if the mean has the sign; not required for sign 0."""
    low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
    mean = float(values.mean())
    words = {1: "mean > 0", -1: "mean < 0", 0: "–"}[sign]
    agrees = bool(sign * mean > 0) or sign == 0
    return Row(quantity, published, "section 5.4.2", mean, low, high, words, agrees, sign != 0)


def _table(results: Mapping[str, Mapping[str, Array]]) -> list[Row]:
    """Columns of table 5.1 at 100 000 molecules, within 0.3 of the published values."""
    rows = []
    for name, printed in TABLE.items():
        for k, target in zip((10, 100, 1000), printed, strict=True):
            values = results[name][f"top_{k}"][:, -1]
            low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
            mean = float(values.mean())
            agrees = abs(mean - target) <= 0.3
            quantity = f"{name}: mean of the {k} best"
            rows.append(Row(quantity, f"{target}", _SOURCE, mean, low, high, "± 0.3", agrees))
    return rows
