"""Which half of UORO's noise costs what, on the queue: figure 4.4.

UORO replaces the influence of parameters on the state by a product of a column and a row. That is
two projections: one in space, of a step's own influence, and one in time, of its sum over steps.
RTRL does neither, "spatial" and "temporal" one each (temporal alone is PreUORO), UORO both. A
network repeats random bits after a delay, and learns online from each step's gradient, averaged
over a minibatch. Published are curves: RTRL is best, UORO clearly last, the others between.

Source: T. Cooijmans, PhD thesis, chapter 4: a delay of 4, an LSTM of 50 units, minibatches of 100,
Adam with momentum 0.5 and rates from a grid search (0.008, 0.008, 0.0008, 0.002). At the quick
scale a plain network of 12 units, minibatches of 32, and each method at the best of those three
rates, by its own mean: they were found for another network. The projections are at the state,
which is the vector of pre-activations of the plain network; PreUORO has those of an LSTM too, while
the others project an LSTM's state where the source projects its pre-activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from semigradient.envs.memory import streams
from semigradient.gradients.recurrent import Estimator, make, set_gradient
from semigradient.gradients.recurrent.forward import Forward
from semigradient.gradients.recurrent.noise import draws
from semigradient.gradients.recurrent.rtrl import Sensitivity
from semigradient.gradients.recurrent.unrolled import Network, Unrolled
from semigradient.nets.cells import Headed, make_cell
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.reproductions.rows import signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "RTRL, PreUORO and UORO on the queue: thesis on the variance of UORO, figure 4.4"
SEEDS = {"quick": 5, "full": 5}
_GRID = (0.0008, 0.002, 0.008)
RATES: dict[str, dict[str, tuple[float, ...]]] = {
    "quick": dict.fromkeys(("neither", "spatial", "temporal", "both"), _GRID),
    "full": {"neither": (0.008,), "spatial": (0.008,), "temporal": (0.0008,), "both": (0.002,)},
}
"""Adam's learning rates, of which the best counts, by what is projected."""
POINTS = 50
"""Of a curve."""


@dataclass(frozen=True)
class Setting:
    """A network, and how long it learns what."""

    kind: str
    hidden: int
    delay: int
    batch: int
    updates: int


SETTINGS = {
    "quick": Setting("rnn", 12, 4, 32, 1500),
    "full": Setting("lstm", 50, 4, 100, 10_000),
}


class Spatial(Sensitivity):
    """RTRL's G with ν νᵀ ∂F/∂θ in the place of ∂F/∂θ: only the newest influence is projected."""

    draw: Callable[[], Tensor]

    def __init__(self, network: Network, examples: int, generator: torch.Generator) -> None:
        super().__init__(network, examples)
        signs, shape = draws("signs", generator, self.value), tuple(self.value.shape[:2])
        self.draw = lambda: signs(shape)

    def advance(self, block: Unrolled) -> None:
        """G ← (∂F/∂s) G + ν (νᵀ ∂F/∂θ)."""
        nu = self.draw()
        units = self.units[:, None].expand(-1, len(nu), -1)
        by_state, by_theta = block.back_from_state(torch.cat([units, nu[None]]))
        moved = torch.einsum("mbn,bnp->bmp", by_state[:-1], self.value)
        self.value = moved + nu[:, :, None] * by_theta[-1][:, None, :]


def estimator(
    projected: str, module: Headed, examples: int, generator: torch.Generator
) -> Estimator:
    """By what is projected: neither, spatial, temporal or both."""
    if projected == "spatial":
        trace = Spatial(Network(module), examples, generator)
        return Forward(module, examples, trace)
    name = {"neither": "rtrl", "temporal": "preuoro", "both": "uoro"}[projected]
    return make(name, module, examples, generator=generator)


def learn(setting: Setting, projected: str, rate: float, seed: int) -> Array:
    """Mean losses in nats (POINTS,) of one pass."""
    stream = streams.make(
        "semigradient/Queue-v0", setting.batch, seed, cut=False, delay=setting.delay
    )
    draw = torch.Generator().manual_seed(seed)
    module = Headed(make_cell(setting.kind, 2, setting.hidden, draw), 2, draw)
    learner = estimator(projected, module, setting.batch, draw)
    optimizer = torch.optim.Adam(module.parameters(), rate, betas=(0.5, 0.999))
    batch = stream.take(setting.delay + setting.updates)
    course = []
    for x, target, is_learned in zip(batch.inputs, batch.targets, batch.is_learned, strict=True):
        outputs = learner.step(x)
        if not is_learned.any():
            continue
        lost, cotangent = _loss(outputs, target)
        course.append(lost)
        set_gradient(module, learner.gradient(cotangent).mean(0))
        optimizer.step()
    return torch.tensor(course).double().view(POINTS, -1).mean(1).numpy()


def _loss(outputs: Tensor, target: Tensor) -> tuple[float, Tensor]:
    """Mean cross-entropy, and each example's derivative by its outputs (B, 2)."""
    chances = outputs.softmax(-1)
    lost = -chances.gather(1, target[:, None]).log().mean().item()
    return lost, chances - torch.nn.functional.one_hot(target, 2)


def reproduce(job: Job) -> Report:
    """Losses over the last tenth, in pairs."""
    setting, found, rates = SETTINGS[job.scale], {}, {}
    for projected, tried in RATES[job.scale].items():
        courses = {rate: _losses(job, setting, projected, rate) for rate in tried}
        means = [float(_last(losses).mean()) for losses in courses.values()]
        rates[projected] = tried[int(np.argmin(means))]
        found[projected] = courses[rates[projected]]
    return Report(
        _rows({name: _last(losses) for name, losses in found.items()}, rates),
        lambda figure: _draw(figure, found, setting.updates),
        (6.0, 4.0),
    )


def _losses(job: Job, setting: Setting, projected: str, rate: float) -> Array:
    """(S, POINTS)."""

    def work() -> dict[str, Array]:
        seeds = range(job.seeds)
        return {"losses": np.stack([learn(setting, projected, rate, seed) for seed in seeds])}

    identity = (setting, projected, rate, POINTS)
    return job.cell(f"{projected}-{rate:g}", identity, work)["losses"]


def _last(losses: Array) -> Array:
    """Means (S,) over the last tenth."""
    return losses[:, -POINTS // 10 :].mean(1)


def _rows(last: Mapping[str, Array], rates: Mapping[str, float]) -> list[Row]:
    """Of losses (S,), and the rates that were best."""
    pairs = [
        ("both", "spatial", "UORO is clearly last"),
        ("both", "temporal", "UORO is clearly last"),
        ("spatial", "neither", "RTRL is best"),
        ("temporal", "neither", "RTRL is best"),
    ]
    rows = [
        signed(
            f"loss with {worse} ({rates[worse]:g}) less that with {better} ({rates[better]:g})",
            words,
            "figure 4.4",
            last[worse] - last[better],
            1,
        )
        for worse, better, words in pairs
    ]
    learned = np.log(2) - last["both"]
    rows.append(signed("ln 2 less the loss with both", "all four learn", "figure 4.4", learned, 1))
    return rows


def _draw(figure: Figure, found: Mapping[str, Array], updates: int) -> None:
    axis = figure.subplots()
    at = (np.arange(POINTS) + 1) * updates / POINTS
    for projected, losses in found.items():
        axis.plot(at, losses.mean(0), label=projected)
        axis.fill_between(at, losses.min(0), losses.max(0), alpha=0.2)
    axis.axhline(np.log(2), color="grey", linestyle=":")
    axis.set_xlabel("updates")
    axis.set_ylabel("cross-entropy in nats")
    axis.legend(title="projected")
