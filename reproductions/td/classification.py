"""Classification with varying momentums, where the correction is not expected to help: figure 4.2.

Source: E. Bengio, PhD thesis, sections 4.3.1 and 4.3.3.2. The correction is the diagonal one, as in
the text, of the cross-entropy's derivative ∇log p ∇log pᵀ. At full scale the images are SVHN's in
`--folder`; the quick scale draws glyphs, with learning rates at which a few hundred steps suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.agents.supervised import regression
from semigradient.envs.images import datasets
from semigradient.errors import require
from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.forms import FORMS
from semigradient.optim.momentum import Momentum
from semigradient.optim.oracle_momentum import OracleMomentum
from semigradient.optim.temporal_difference import wants_temporal_difference
from semigradient.reproductions.report import Job, Report
from semigradient.reproductions.td.pooled import NAMES, alike, curves, lower, pool

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Classification of images with varying momentums: thesis figure 4.2"
SEEDS = {"quick": 5, "full": 5}
SOURCE = "figure 4.2, section 4.3.1"
CLASSES, SHOWN, LEVEL = 10, 512, 0.05
LOST = 5.0
"""Loss that a diverged run counts as; guessing has ln 10 = 2.3."""
METHODS: dict[str, Callable[[Iterable[Tensor], float, float], torch.optim.Optimizer]] = {
    "momentum": Momentum,
    "oracle": OracleMomentum,
    "diagonal": lambda params, lr, beta: CorrectedMomentum(params, lr, beta, FORMS["diagonal"]()),
}


@dataclass(frozen=True)
class ClassificationPlan:
    """The runs of one scale.

    Attributes:
        dataset: name of the images.
        widths: channels n_h of the first convolution.
        betas: factors of the averages.
        rates: learning rates, of averages with the factor 1 - beta.
        sizes: images in a minibatch.
        steps: updates.
        every: updates between two measurements.
    """

    dataset: str
    widths: tuple[int, ...]
    betas: tuple[float, ...]
    rates: tuple[float, ...]
    sizes: tuple[int, ...]
    steps: int
    every: int


QUICK = ClassificationPlan("small-glyphs", (4,), (0.9,), (0.1, 0.05), (16,), 400, 40)
FULL = ClassificationPlan("svhn", (8, 16), (0.9, 0.99), (0.01, 0.005), (4, 16, 64), 20_000, 1000)


def network(width: int, channels: int, side: int) -> nn.Sequential:
    """The published network on images (channels, side, side); logits (m, 10)."""
    sizes = [(channels, width, 2), (width, 2 * width, 2)]
    sizes += [(2 * width, 2 * width, 2), (2 * width, width, 1)]
    layers: list[nn.Module] = []
    for inputs, outputs, stride in sizes:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU()]
        side = -(-side // stride)
    hidden = 4 * width
    layers += [nn.Flatten(), nn.Linear(width * side * side, hidden), nn.LeakyReLU()]
    layers += [nn.Linear(hidden, hidden), nn.LeakyReLU(), nn.Linear(hidden, CLASSES)]
    return nn.Sequential(*layers)


def images(dataset: str, split: str, folder: str) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) less the mean of each channel, and their classes (N,)."""
    found = datasets.load(dataset, split, folder)
    pixels = found.images.float() / 255
    return pixels - pixels.mean((0, 2, 3), keepdim=True), found.labels


def run(
    method: str,
    plan: ClassificationPlan,
    setting: tuple[int, float, float, int],
    seed: int,
    data: Any,
) -> dict[str, Array]:
    """Losses (T,) on 512 training and 512 test images during one training.

    `setting` is width, beta, learning rate and size; `data` the images of both splits. Minibatches
    and the initial network depend on the seed alone.
    """
    width, beta, rate, size = setting
    (inputs, labels), unseen = data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network(width, inputs.shape[1], inputs.shape[2])
    optimizer = METHODS[method](net.parameters(), rate, beta)
    draw = torch.Generator().manual_seed(1_000_003 + seed)
    measured: dict[str, list[float]] = {"train": [], "test": []}
    for step in range(1, plan.steps + 1):
        chosen = torch.randint(len(inputs), (size,), generator=draw)
        optimizer.zero_grad()
        F.cross_entropy(net(inputs[chosen]), labels[chosen]).backward()
        if wants_temporal_difference(optimizer):
            optimizer.observe(regression(net, inputs[chosen], labels[chosen]))
        optimizer.step()
        if step % plan.every == 0:
            for split, (x, y) in (("train", (inputs, labels)), ("test", unseen)):
                with torch.no_grad():
                    loss = F.cross_entropy(net(x[:SHOWN]), y[:SHOWN]).item()
                measured[split].append(min(loss, LOST) if np.isfinite(loss) else LOST)
    return {split: np.array(losses) for split, losses in measured.items()}


def reproduce(job: Job) -> Report:
    """Train whatever is not cached and compare it with the published claims."""
    require(
        not job.full or job.folder != "", "classification at full scale: needs --folder with SVHN"
    )
    plan = FULL if job.full else QUICK
    data = [images(plan.dataset, split, job.folder) for split in ("train", "test")]
    losses = {
        split: {
            name: pool([part[split] for part in _cells(job, plan, name, data)]) for name in METHODS
        }
        for split in ("train", "test")
    }
    last = {split: {name: v[:, -1] for name, v in runs.items()} for split, runs in losses.items()}
    train, test = last["train"], last["test"]
    words = "4.2: training loss of μ less that of μ*"
    rows = [lower(words, SOURCE, train["momentum"], train["oracle"], job.full, LEVEL)]
    for split, chosen, name in (
        ("training", train, "diagonal"),
        ("test", test, "oracle"),
        ("test", test, "diagonal"),
    ):
        words = f"4.2: {split} loss of {NAMES[name]} less that of μ"
        rows.append(alike(words, SOURCE, chosen[name], chosen["momentum"], LEVEL))

    def draw(figure: Figure) -> None:
        steps = np.arange(plan.every, plan.steps + 1, plan.every)
        for axes, (split, runs) in zip(figure.subplots(1, 2), losses.items(), strict=True):
            curves(axes, steps, runs)
            axes.set(title=f"4.2, {split}", xlabel="step", ylabel="cross-entropy")
        figure.axes[0].legend(fontsize="small")

    return Report(rows, draw)


def _cells(job: Job, plan: ClassificationPlan, method: str, data: Any) -> list[dict[str, Array]]:
    """Losses (1, seeds, T) of every setting of the grid."""
    settings = [
        (width, beta, rate, size)
        for width in plan.widths
        for beta in plan.betas
        for rate in plan.rates
        for size in plan.sizes
    ]

    def trained(setting: tuple[int, float, float, int]) -> dict[str, Array]:
        runs = [run(method, plan, setting, seed, data) for seed in range(job.seeds)]
        return {split: np.stack([one[split] for one in runs])[None] for split in runs[0]}

    return [
        job.cell(
            f"{method}-h{setting[0]}-b{setting[1]:g}-a{setting[2]:g}-m{setting[3]}",
            (method, plan.dataset, plan.steps, plan.every, setting),
            partial(trained, setting),
        )
        for setting in settings
    ]
