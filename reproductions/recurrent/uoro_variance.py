"""The variance of UORO's estimate grows with the size of the network: figure 3.1b.

Untrained GRUs read ten random symbols a hundred times, each time with other signs; the estimate of
the tenth loss' gradient is compared with the exact one, by backpropagation:

    E‖g − ∂l/∂θ‖² / ‖∂l/∂θ‖²

Source: C. Tallec, PhD thesis, 2019, chapter 3, eq. 3.22 and figure 3.1b, a picture without printed
numbers. Sizes, symbols (10, one-hot) and PyTorch's initialisation are choices. Figures 3.1a and
3.1c, of trained networks, are not reproduced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from semigradient.gradients.recurrent import Estimator, make
from semigradient.nets.cells import Headed, make_cell
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.reproductions.rows import averaged, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "UORO's variance by the size of the network: UORO thesis chapter, figure 3.1b"
SEEDS = {"quick": 5, "full": 20}
SIZES = {"quick": (4, 8, 16, 32, 64), "full": (4, 8, 16, 32, 64, 128, 256)}
RUNS, STEPS, SYMBOLS = 100, 10, 10


def relative_variance(size: int, seed: int) -> tuple[float, float]:
    """Eq. 3.22 over the runs; and the distance of their mean in its own standard errors."""
    generator = torch.Generator().manual_seed(seed)
    network = Headed(make_cell("gru", SYMBOLS, size, generator), SYMBOLS, generator).double()
    symbols = torch.randint(SYMBOLS, (STEPS + 1,), generator=generator)
    found = _last(make("uoro", network, RUNS, generator), symbols, RUNS)
    exact = _last(make("bptt", network, 1), symbols, 1)
    squares = (found - exact).square().sum(1).mean()
    off = (found.mean(0) - exact[0]).square().sum()
    return float(squares / exact.square().sum()), float((off / (squares / RUNS)).sqrt())


def measure(sizes: tuple[int, ...], seeds: int) -> dict[str, Array]:
    """Both, (S, sizes)."""
    found = [[relative_variance(size, seed) for size in sizes] for seed in range(seeds)]
    values = np.array(found)
    return {"variance": values[..., 0], "off": values[..., 1]}


def reproduce(job: Job) -> Report:
    """Growth with the size, and the mean over runs as a control."""
    sizes = SIZES[job.scale]
    found = job.cell("sizes", (sizes, RUNS, STEPS, SYMBOLS), lambda: measure(sizes, job.seeds))
    variance = found["variance"]
    logs = np.log(np.asarray(sizes))
    slopes = np.array([np.polyfit(logs, np.log(row), 1)[0] for row in variance])
    rows = [
        signed("power of the number of units in the relative variance", "increases",
               "figure 3.1b", slopes, 1)
    ]  # fmt: skip
    for index, size in enumerate(sizes):
        values = variance[:, index]
        grows = index == 0 or values.mean() > variance[:, index - 1].mean()
        rows.append(averaged(f"relative variance, {size} units", "more than with fewer units",
                             "figure 3.1b", values, "the mean is above that of fewer units", grows,
                             required=False))  # fmt: skip
    off = found["off"]
    worst = float(off.max())
    rows.append(Row("distance of 100 runs' mean from the exact gradient, in standard errors",
                    "unbiased: about 1", "proposition 1", float(off.mean()), float(off.min()),
                    worst, "every case is below 4", worst < 4))  # fmt: skip
    return Report(rows, lambda figure: _draw(figure, sizes, variance), (5.0, 3.6))


def _last(estimator: Estimator, symbols: Tensor, copies: int) -> Tensor:
    """The gradients (copies, P) of the last cross-entropy."""
    hot = torch.nn.functional.one_hot(symbols, SYMBOLS).double()
    for x in hot[:-1]:
        output = estimator.step(x.expand(copies, -1))
    return estimator.gradient(output.softmax(-1) - hot[-1])


def _draw(figure: Figure, sizes: tuple[int, ...], variance: Array) -> None:
    axis = figure.subplots()
    for row in variance:
        axis.plot(sizes, row, "o", color="C0", alpha=0.5)
    axis.plot(sizes, variance.mean(0), color="C0")
    axis.set_xscale("log")
    axis.set_xlabel("units")
    axis.set_ylabel("relative variance")
