"""Sensitivity of later losses to training examples, real and random: figures 3.2 and 3.3.

A small classifier learns from one example at a time. The sensitivity ḡ of an example is how much
the loss at later times changes with its input through all the updates in between
(`diagnostics.sensitivity`). An even distribution, with a low Gini coefficient, means that every
example had to be memorised; otherwise few sufficed. Labels are classes, or one class per example;
inputs are the original ones or uniform noise.

The quick scale draws 200 examples around ten prototypes of 49 numbers. The full scale has 1000
digits of MNIST, from the folder given, averaged down to 14x14 pixels.

Source: E. Bengio, PhD thesis, section 3.1.2, eq. 3.2-3.5. Learning rate, nonlinearity and seeds are
not stated there; losses are differentiated at a few updates instead of all.
"""

from __future__ import annotations

import functools
import gzip
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad

from semigradient.diagnostics.examples import Params
from semigradient.diagnostics.sensitivity import gini, sizes, unrolled
from semigradient.errors import UserError, require
from semigradient.nets.bricks import mlp
from semigradient.optim.temporal_difference import Samples
from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.rows import signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Loss sensitivity of real and random examples: thesis figures 3.2 and 3.3"
SEEDS = {"quick": 2, "full": 3}
LABELS = ("classes", "own")
INPUTS = ("real", "random")
CLASSES = 10
HIGH = 0.1
"""Fraction of the largest sensitivity above which an example counts as sensitive."""
_MAGIC = {"images": (b"\x00\x00\x08\x03", 16), "labels": (b"\x00\x00\x08\x01", 8)}


@dataclass(frozen=True)
class SensitivityPlan:
    """The size of the runs.

    Attributes:
        examples: N.
        updates: of one example each, T.
        times: number of updates at which losses are differentiated.
        lr: learning rate.
        folder: folder of MNIST's files; empty: prototypes are drawn.
    """

    examples: int
    updates: int
    times: int
    lr: float = 0.05
    folder: str = ""


QUICK = SensitivityPlan(200, 800, 8)


def full_plan(folder: str) -> SensitivityPlan:
    """The published runs, on MNIST from `folder`."""
    require(folder != "", "sensitivity at full scale: needs --folder with MNIST's training files")
    return SensitivityPlan(1000, 100_000, 50, folder=folder)


def prototypes(count: int, seed: int, pixels: int = 49, spread: float = 0.25) -> Samples:
    """Examples around ten prototypes in the unit box: `x` (N, pixels) and `y` (N,)."""
    source = torch.Generator().manual_seed(seed)
    centres = torch.rand(CLASSES, pixels, generator=source)
    y = torch.randint(CLASSES, (count,), generator=source)
    return {"x": centres[y] + spread * torch.randn(count, pixels, generator=source), "y": y}


def mnist(folder: str, count: int, seed: int) -> Samples:
    """Digits of MNIST's training set, a random choice: `x` (N, 196) in [0, 1] and `y` (N,)."""
    images = _idx(Path(folder).expanduser(), "train-images-idx3-ubyte", "images")
    labels = _idx(Path(folder).expanduser(), "train-labels-idx1-ubyte", "labels")
    require(len(images) == 784 * len(labels), f"--folder {folder!r}: images and labels differ")
    require(len(labels) >= count, f"--folder {folder!r}: needs {count} digits")
    chosen = np.random.default_rng(seed).choice(len(labels), count, replace=False)
    pixels = images.reshape(-1, 14, 2, 14, 2)[chosen].mean((2, 4)) / 255
    x = torch.from_numpy(pixels).float().flatten(1)
    return {"x": x, "y": torch.from_numpy(labels[chosen].astype(np.int64))}


def _idx(folder: Path, name: str, kind: str) -> NDArray[np.uint8]:
    """The bytes behind the header of one of MNIST's files, compressed or not."""
    magic, header = _MAGIC[kind]
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
            require(raw[:4] == magic, f"{path}: is not a file of MNIST's {kind}")
            return np.frombuffer(raw[header:], np.uint8)
    raise UserError(f"--folder {str(folder)!r}: has no {name} or {name}.gz")


def dataset(plan: SensitivityPlan, labels: str, inputs: str, seed: int) -> Samples:
    """The examples of one case."""
    if plan.folder:
        real = mnist(plan.folder, plan.examples, seed)
    else:
        real = prototypes(plan.examples, seed)
    x, y = real["x"], real["y"]
    if inputs == "random":
        source = torch.Generator().manual_seed(seed + 1)
        x = torch.rand(x.shape, generator=source)
        y = torch.randint(CLASSES, y.shape, generator=source)
    return {"x": x, "y": y if labels == "classes" else torch.arange(len(y))}


def measure(plan: SensitivityPlan, labels: str, inputs: str, seed: int) -> dict[str, Array]:
    """Train one classifier with two hidden layers of 16 tanh units.

    Returns `sensitivities` (K, N): sensitivity of the loss at each instant to each example;
    with `classes`, `table` (10, 10): mean sensitivity of the loss of
    class i to examples of class j.
    """
    data = dataset(plan, labels, inputs, seed)
    kinds = CLASSES if labels == "classes" else plan.examples
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = mlp((data["x"].shape[1], 16, 16, kinds), "tanh")
    params: Params = {name: p.detach() for name, p in network.named_parameters()}

    def log_p(params: Params, x: Tensor) -> Tensor:
        return functional_call(network, params, (x,)).log_softmax(-1)

    def loss(params: Params, sample: Samples) -> Tensor:
        return -log_p(params, sample["x"]).gather(-1, sample["y"][..., None])[..., 0]

    def of_classes(params: Params, sample: Samples) -> Tensor:
        return -log_p(params, sample["x"])

    measured = of_classes if labels == "classes" else lambda p, s: loss(p, s)[None]
    order = torch.randint(
        plan.examples, (plan.updates,), generator=torch.Generator().manual_seed(seed + 2)
    )
    times = [round((plan.updates - 1) * (k + 1) / plan.times) for k in range(plan.times)]
    sensitivities = sizes(
        unrolled(grad(loss), measured, params, data, order, plan.lr, times, inputs="x")
    )
    if labels != "classes":
        return {"sensitivities": sensitivities[:, 0].double().numpy()}
    own = sensitivities[torch.arange(plan.times), data["y"][order[times]]]
    member = torch.nn.functional.one_hot(data["y"], CLASSES).float()
    table = sensitivities.mean(0) @ (member / member.sum(0))
    return {"sensitivities": own.double().numpy(), "table": table.double().numpy()}


Runs = dict[tuple[str, str], list[dict[str, Array]]]
"""Results of `measure` for each seed, by labels and inputs."""


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    plan = full_plan(job.folder) if job.full else QUICK
    runs: Runs = {}
    for labels, inputs, seed in itertools.product(LABELS, INPUTS, range(job.seeds)):
        work = functools.partial(measure, plan, labels, inputs, seed)
        run = job.cell(f"{labels}-{inputs}-s{seed}", (plan, labels, inputs, seed), work)
        runs.setdefault((labels, inputs), []).append(run)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 4)
        time = plan.updates * np.arange(1, plan.times + 1) / plan.times
        for ax, labels in zip(axes[:2], LABELS, strict=True):
            for inputs in INPUTS:
                curves = [running_gini(run["sensitivities"]) for run in runs[labels, inputs]]
                ax.plot(time, np.mean(curves, 0), label=inputs)
            ax.set(title=f"3.2, {labels}", xlabel="update", ylabel="Gini coefficient", ylim=(0, 1))
            ax.legend(fontsize="small")
        for ax, inputs in zip(axes[2:], INPUTS, strict=True):
            table = np.mean([run["table"] for run in runs["classes", inputs]], 0)
            ax.imshow(np.log10(np.maximum(table, 1e-12)))
            ax.set(title=f"3.3, {inputs}", xlabel="class of example", ylabel="class of loss")

    return Report(claims(runs), draw, inches=(14.0, 3.6))


def running_gini(sensitivities: Array) -> Array:
    """Gini coefficient (K,) of the sensitivities averaged up to each instant, from (K, N)."""
    means = np.cumsum(sensitivities, 0) / np.arange(1, len(sensitivities) + 1)[:, None]
    return np.array([gini(torch.from_numpy(row)).item() for row in means])


def claims(runs: Runs) -> list[Row]:
    """Rows comparing the published statements with the runs."""
    rows = []
    for labels in LABELS:
        coefficient, share = (
            {inputs: _of(runs[labels, inputs], number) for inputs in INPUTS}
            for number in (_final_gini, _share)
        )
        words = f"Gini coefficient of the sensitivities, real less random inputs, {labels}"
        apart = coefficient["real"] - coefficient["random"]
        rows.append(signed(words, "clearly higher for real ones", "figure 3.2", apart, 1))
        words = f"share of sensitive examples, real less random inputs, {labels}"
        published = "a subset of real, virtually all random examples"
        rows.append(signed(words, published, "section 3.1.2", share["real"] - share["random"], -1))
    ratio = {inputs: _of(runs["classes", inputs], _off_diagonal) for inputs in INPUTS}
    for inputs in INPUTS:
        words = f"sensitivity of the loss of one class to examples of another, {inputs} inputs"
        below = ratio[inputs] - 1
        rows.append(
            signed(f"{words}, over that of the same, less 1", "lower", "figure 3.3", below, -1)
        )
    words = "the same ratio, real less random inputs"
    apart = ratio["real"] - ratio["random"]
    rows.append(signed(words, "more spread out for real data", "figure 3.3", apart, 1))
    return rows


def _of(seeds: list[dict[str, Array]], number: Callable[[dict[str, Array]], float]) -> Array:
    return np.array([number(run) for run in seeds])


def _final_gini(run: dict[str, Array]) -> float:
    return float(running_gini(run["sensitivities"])[-1])


def _share(run: dict[str, Array]) -> float:
    """Fraction of examples with more than a tenth of the largest sensitivity."""
    mean = run["sensitivities"].mean(0)
    return float((mean > HIGH * mean.max()).mean())


def _off_diagonal(run: dict[str, Array]) -> float:
    """Mean of a table (10, 10) off its diagonal, over that on it."""
    table = run["table"]
    count = len(table)
    on = np.trace(table) / count
    return float((table.sum() - np.trace(table)) / (count * (count - 1)) / on)
