"""Figures 5.18 to 5.22: reinforcement-learning techniques in a flow network on the grid.

Flow matching on the 4-D grid with H = 8 and R0 = 0.1: optimizers over learning rates, replay,
target networks, exploration. Every setting changes one option of Adam at 1e-3 with 16
trajectories per update; reported is the mean of |p - q| over objects after training, with q the
exact distribution of the policy. The document does not state the values of the options.

At the quick scale 1 000 updates and one or two values per option; at the full scale 20 000 updates
and more values. The document's doubly parameterised network is omitted, because it is not defined
for flows.

Source: E. Bengio, PhD thesis, section 5.4.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.gflownet.flow_runs import Array, FlowRun
from semigradient.reproductions.report import Job, Report, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Reinforcement-learning tricks on the hyper-grid: thesis figures 5.18 to 5.22"
SEEDS = {"quick": 3, "full": 20}
_REPLAY = "--replay transitions --replay-size 20000 --replay-share 1"


def top(share: int, size: int) -> str:
    """Figure 5.20: `share` of 16 trajectories are drawn from the `size` best so far."""
    return (
        f"--batch-size {16 - share} --replay trajectories --replay-size {size} "
        f"--replay-share {share / 16} --replay-top --replay-priority reward --replay-power 0"
    )


QUICK: Mapping[str, str] = {
    "adam 1e-3": "",
    "adam 3e-3": "--optim.lr 3e-3",
    "rmsprop 1e-3": "--optim rmsprop --optim.lr 1e-3",
    "rmsprop 3e-3": "--optim rmsprop --optim.lr 3e-3",
    "momentum 1e-2": "--optim momentum --optim.lr 1e-2",
    "momentum 1e-3": "--optim momentum --optim.lr 1e-3",
    "replay uniform": _REPLAY,
    "replay by loss": f"{_REPLAY} --replay-priority loss --replay-power 0.3",
    **{f"replay top {n} of {k}": top(n, k) for n, k in ((2, 100), (8, 100), (2, 1000))},
    "target ema 0.9": "--target ema --target-rate 0.1",
    "target frozen 100": "--target frozen --target-period 100",
    "random 0.05": "--random-actions 0.05",
    "sharpness 0.5": "--sharpness 0.5",
}
FULL: Mapping[str, str] = {
    **QUICK,
    **{f"adam {lr}": f"--optim.lr {lr}" for lr in ("1e-4", "1e-2")},
    **{f"rmsprop {lr}": f"--optim rmsprop --optim.lr {lr}" for lr in ("1e-4", "1e-2")},
    **{f"momentum {lr}": f"--optim momentum --optim.lr {lr}" for lr in ("1e-1", "1e-4")},
    **{f"replay top {n} of {k}": top(n, k) for n in (1, 2, 4, 8, 12) for k in (10, 100, 1000)},
    "target ema 0.5": "--target ema --target-rate 0.5",
    "target ema 0.99": "--target ema --target-rate 0.01",
    **{f"target frozen {t}": f"--target frozen --target-period {t}" for t in (10, 1000)},
    **{f"random {e}": f"--random-actions {e}" for e in ("0.01", "0.2")},
    **{f"sharpness {k}": f"--sharpness {k}" for k in ("0.8", "1.5")},
}
"""Flags of each setting, appended to the shared ones. Power 0.3 is that of a squared
residual, so that the priority is the residual to the power 0.6."""


def setting(flags: str) -> FlowRun:
    """A run of flow matching with these flags."""
    common = "--loss fm --optim.lr 1e-3 --batch-size 16"
    words = common.split()
    if "--optim " in flags:
        # The rate of another optimizer must follow its name.
        words = ["--loss", "fm", "--batch-size", "16"]
    options = ("dimensions=4", "height=8", "r0=0.1")
    return FlowRun("semigradient/HyperGrid-v0", options, (*words, *flags.split()), 10**9)


def train(flags: str, seed: int, updates: int) -> dict[str, Array]:
    """The exact L1 after half and all of the updates."""
    agent, distances = setting(flags).agent(seed), []
    for update in range(1, updates + 1):
        agent.iterate()
        agent.progress.pop_episodes()
        if update in (updates // 2, updates):
            distances.append(agent.evaluate()["l1"])
    return {"l1": np.array(distances)}


def reproduce(job: Job) -> Report:
    """Train every setting and evaluate the claims."""
    settings, updates = (FULL, 20_000) if job.full else (QUICK, 1_000)
    results = {
        name: np.stack(
            [
                job.cell(
                    f"{name.replace(' ', '-')}-s{seed}",
                    (flags, seed, updates),
                    partial(train, flags, seed, updates),
                )["l1"]
                for seed in range(job.seeds)
            ]
        )
        for name, flags in settings.items()
    }
    final = {name: l1[:, -1] for name, l1 in results.items()}

    def draw(figure: Figure) -> None:
        panel, names = figure.subplots(), list(final)
        for row, name in enumerate(names):
            colour = COLOURS[_family(name) % len(COLOURS)]
            panel.plot(final[name], [row] * job.seeds, "o", color=colour, alpha=0.6)
        panel.set(xscale="log", xlabel="mean |p - q|", yticks=range(len(names)), yticklabels=names)
        panel.invert_yaxis()

    return Report(_claims(final), draw, (7.0, 0.3 * len(settings) + 1.2))


def _family(name: str) -> int:
    return sorted({label.split()[0] for label in FULL}).index(name.split()[0])


def _best(final: Mapping[str, Array], family: str) -> Array:
    """The setting of a family with the lowest mean."""
    return min((l1 for name, l1 in final.items() if name.startswith(family)), key=np.mean)


def _claims(final: Mapping[str, Array]) -> list[Row]:
    plain, momentum = final["adam 1e-3"], _best(final, "momentum")
    adam, rmsprop = _best(final, "adam"), _best(final, "rmsprop")
    average, frozen = final["target ema 0.9"], final["target frozen 100"]
    rows = [
        _ratio("best momentum over best adam", "far behind", momentum, adam, (3, np.inf)),
        _ratio("best rmsprop over best adam", "about alike", rmsprop, adam, (0.5, 2)),
        _ratio("ema target over no target", "not better", average, plain, (1, np.inf)),
        _ratio("frozen target over ema", "worse the older", frozen, average, (1, np.inf)),
    ]
    for name in ("replay uniform", "replay by loss"):
        rows.append(_ratio(f"{name} over none", "clearly helps", final[name], plain, (0, 1), False))
    swept = [name for name in final if name.startswith("replay top")]
    for name in (*swept, "random 0.05", "sharpness 0.5"):
        rows.append(_ratio(f"{name} over none", "not said", final[name], plain, (0, np.inf), False))
    return rows


def _ratio(
    quantity: str,
    published: str,
    one: Array,
    other: Array,
    limits: tuple[float, float],
    required: bool = True,
) -> Row:
    """The ratio of two means over the same seeds, resampled together; agrees if within limits."""

    def ratio_of(pairs: Array) -> float:
        return float(pairs[:, 0].mean() / pairs[:, 1].mean())

    pairs = np.stack([one, other], 1)
    rng = np.random.default_rng(0)
    drawn = [ratio_of(pairs[rng.integers(len(pairs), size=len(pairs))]) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    ratio = ratio_of(pairs)
    words = f"in [{limits[0]:g}, {limits[1]:g}]"
    agrees = limits[0] <= ratio <= limits[1]
    return Row(
        f"L1: {quantity}", published, "section 5.4.4", ratio, low, high, words, agrees, required
    )
