"""What the theses on recurrent gradients claim exactly, checked on networks of few units.

Real-time recurrent learning equals backpropagation. UORO, NoBackTrack, PreUORO and ARTBP equal it
on average over all signs or cuts, which are few enough to be enumerated. The variance of UORO's
total gradient is a closed form, with a best weight for every time and a best matrix for space.
REINFORCE with perturbed states goes to UORO as its noise goes to zero.

Sources: C. Tallec, PhD thesis, 2019, chapters 3 and 4; T. Cooijmans, PhD thesis, 2023, chapter 4.
Every seed is another random network and sequence. Where the source's formula is found wrong, the
corrected one is required and the printed one is reported beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from semigradient.gradients.recurrent import make, shaping, variance
from semigradient.gradients.recurrent.artbp import PowerLaw
from semigradient.nets.cells import CELLS
from semigradient.reproductions.recurrent.exact_rows import Case, over_cuts, over_signs
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.reproductions.rows import averaged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Exact properties of recurrent gradients: UORO, ARTBP and variance theses"
SEEDS = {"quick": 3, "full": 20}
DRAWS = {"quick": 40_000, "full": 400_000}
"""Of Monte Carlo."""
SIGMAS = (1e-1, 1e-2, 1e-3, 1e-4)
_STEPS, _UNITS = 5, 4
_UORO, _VARIANCE = "chapter 3", "chapter 4 (variance)"


def means(seed: int) -> dict[str, float]:
    """Largest deviations of exact and of enumerated means from backpropagation."""
    found = {}
    whole = [Case(kind, 3, 6, seed) for kind in CELLS]
    for name in ("rtrl", "bptt"):
        found[name] = max(_off(c.run(make(name, c.network, 1))[0], c) for c in whole)
    long = Case("lstm", 2, 6, seed)
    found["tbptt"] = _off(long.run(make("tbptt", long.network, 1, length=6))[0], long)
    plain, lstm = Case("rnn", 2, 4, seed), Case("lstm", 1, 3, seed)
    uoro = {
        "uoro": over_signs(plain, "uoro", (1, 2), 3),
        "uoro, noise in the last step": over_signs(plain, "uoro", (1, 2), 4, exact_last_step=False),
        "uoro, blocks of 2": over_signs(plain, "uoro", (1, 2), 1, memory=2),
        "uoro, rank 2": over_signs(plain, "uoro", (2, 2), 3, rank=2),
        "nobacktrack": over_signs(plain, "nobacktrack", (1, 2), 3),
    }
    found |= {name: _off(values.mean(0), plain) for name, values in uoro.items()}
    found["uoro on an lstm"] = _off(over_signs(lstm, "uoro", (1, 2), 2).mean(0), lstm)
    shape = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)).double()
    shaped: list[dict[str, Any]] = [{}, {"alpha": [1.0, 3.0, 0.2], "shape": shape}]
    found["shaped-uoro"] = max(
        _off(over_signs(lstm, "shaped-uoro", (4,), 2, **options).mean(0), lstm)
        for options in shaped
    )
    found["preuoro"] = _off(over_signs(lstm, "preuoro", (1,), 2).mean(0), lstm)
    cut = Case("rnn", 2, 6, seed)
    laws: list[dict[str, Any]] = [{"alpha": 6.0, "mean": 4.0}, {"constant": 0.3}]
    found["artbp"] = max(_off(over_cuts(cut, **law), cut) for law in laws)
    hidden = Case("hidden", 2, 4, seed)
    two = {name: over_signs(hidden, name, (1, 2), 3) for name in ("uoro", "nobacktrack")}
    found["nobacktrack, state after tanh"] = _off(two["nobacktrack"].mean(0), hidden)
    spread = {name: float(values.var(0).sum()) for name, values in two.items()}
    found["nobacktrack over uoro"] = spread["nobacktrack"] / spread["uoro"]
    return found


def variances(seed: int, draws: int) -> dict[str, float]:
    """The total variance, its best weights and matrix, and PreUORO's."""
    episode = Case("rnn", _UNITS, _STEPS, seed).episode()
    generator = torch.Generator().manual_seed(seed)
    eye, ones = torch.eye(_UNITS).double(), torch.ones(_STEPS).double()
    noise = torch.randn(draws, _STEPS, _UNITS, generator=generator, dtype=torch.float64)
    truth = episode.gradient()

    def squares(estimates: Tensor) -> Tensor:
        return (estimates - truth).square().sum((1, 2))

    normal = squares(variance.estimate(episode, noise, variance.shaped_by(ones, eye)))
    signs = squares(variance.estimate(episode, noise.sign(), variance.shaped_by(ones, eye)))
    in_time = squares(variance.estimate_in_time(episode, noise[..., 0], ones))
    error = float(normal.std()) / draws**0.5
    total = variance.total(episode, ones)
    c, b = variance.coefficients(episode, eye), variance.spatial(episode, ones)
    v = variance.weighted(c, ones)
    alpha = shaping.best_alpha(c)
    bar = c * (alpha / alpha[:, None]).square()
    shape = shaping.best_shape(b)

    def by_shape(q: Tensor) -> Tensor:
        return (b @ q @ q.mT).trace() * torch.linalg.inv(q @ q.mT).trace()

    m, n = torch.randn(2, _STEPS, generator=generator, dtype=torch.float64).exp()
    one = m[:, None] * n
    closed = float(variance.weighted(one, shaping.separable_alpha(m, n)))
    plain = variance.total_in_time(episode, ones) - variance.correction(episode)
    both, roots = _alternated(episode, ones, eye)
    return {
        "z": float(normal.mean() - total) / error,
        "z of signs": float(signs.mean() - variance.total(episode, ones, eye, variance.SIGNS))
        / (float(signs.std()) / draws**0.5),
        "z in time": float(in_time.mean() - variance.total_in_time(episode, ones))
        / (float(in_time.std()) / draws**0.5),
        "printed": float(v + truth.square().sum() - total) / float(total),
        "gir": _greedy(*torch.randn(4, 5, generator=generator, dtype=torch.float64)),
        "separable": closed
        / _least(lambda zeta: variance.weighted(one, zeta.exp()).log(), torch.zeros_like(ones)),
        "imbalance": float((bar.sum(0) - bar.sum(1)).abs().max() / bar.sum()),
        "alpha": float(variance.weighted(c, alpha))
        / _least(lambda zeta: variance.weighted(c, zeta.exp()).log(), torch.zeros_like(ones)),
        "alpha gain": float(variance.weighted(c, alpha) / v),
        "shape": float(by_shape(shape)) / _least(lambda q: by_shape(q).log(), eye),
        "roots": float(by_shape(shape) / torch.linalg.eigvalsh(b).sqrt().sum() ** 2),
        "shape gain": float(by_shape(shape) / v),
        "printed shape": float(by_shape(torch.linalg.inv(shape)) / v),
        "alternated": both / roots,
        "both gain": both / float(v),
        "pre": float(v / plain),
    }


def limits(seed: int) -> dict[str, Array]:
    """REINFORCE's distance to UORO and its variance, for each σ."""
    case, rows = Case("rnn", 3, 4, seed), 400
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(4, rows, 3, generator=generator, dtype=torch.float64)
    cell = slice(case.network.head.numel(), None)
    uoro: Any = make("shaped-uoro", case.network, rows, alpha=[1.0] * 4, exact_last_step=False)
    first = iter(noise)
    uoro.trace.draw = lambda shape: next(first)
    theirs = case.run(uoro, rows)[:, cell]
    distances, without = [], []
    for sigma in SIGMAS:
        ours: Any = make("reinforce", case.network, rows, sigma=sigma)
        draws = iter(noise)
        ours.draw = lambda draws=draws: next(draws)
        total, bare = torch.zeros(1).double(), torch.zeros(1).double()
        for x, target in zip(case.xs, case.targets, strict=True):
            losses = 0.5 * (ours.step(x.expand(rows, -1)) - target).square().sum(1)
            quiet = 0.5 * (ours.quiet_output - target).square().sum(1)
            total = total + ours.gradient(losses, quiet)
            bare = bare + losses[:, None] * ours.score
        distances.append(float((total[:, cell] - theirs).norm() / theirs.norm()))
        without.append(float(bare[:, cell].var(0).sum() / theirs.var(0).sum()))
    return {"distances": np.array(distances), "without": np.array(without)}


def reproduce(job: Job) -> Report:
    """All of it."""
    parts = [
        job.cell("means", ("means",), lambda: _each(job.seeds, means)),
        job.cell(
            "variances",
            ("variances", DRAWS[job.scale]),
            lambda: _each(job.seeds, lambda seed: variances(seed, DRAWS[job.scale])),
        ),
    ]
    found = {name: values for part in parts for name, values in part.items()}
    limit = job.cell("limits", ("limits", SIGMAS), lambda: _each(job.seeds, limits))
    law = PowerLaw(6.0, 16.0)
    rows = [*_mean_rows(found), *_variance_rows(found), *_limit_rows(limit)]
    lengths = sum(law.survival(steps) for steps in range(200_000))
    rows += [
        _row("ARTBP (6, 16): mean length", "L₀ = 16", "eq. 4.14", np.array([lengths]), 16, 1e-3),
        _row(
            "ARTBP (6, 16): standard deviation of lengths",
            "20, from the law",
            "eq. 4.14",
            np.array([law.variance() ** 0.5]),
            20,
            1e-9,
        ),
    ]
    return Report(rows, lambda figure: _draw(figure, found, limit), (9.0, 3.6))


def _mean_rows(found: dict[str, Array]) -> list[Row]:
    rows = []
    for name, bound, source in (
        ("rtrl", 1e-10, "lines 275–334"),
        ("bptt", 1e-12, "lines 275–334"),
        ("tbptt", 1e-12, "lines 275–334"),
        ("uoro", 1e-12, "algorithm 1"),
        ("uoro, noise in the last step", 1e-12, "chapter 4 (variance), eq. 4.5.1"),
        ("uoro, blocks of 2", 1e-12, "lines 601–611"),
        ("uoro, rank 2", 1e-12, "lines 601–611"),
        ("uoro on an lstm", 1e-12, "algorithm 1"),
        ("nobacktrack", 1e-12, "proposition 1"),
        ("nobacktrack, state after tanh", 1e-12, "proposition 1"),
        ("shaped-uoro", 1e-12, "chapter 4 (variance), section 4.6.3"),
        ("preuoro", 1e-12, "chapter 4 (variance), appendix 4.H"),
        ("artbp", 1e-12, "chapter 4, proposition 2"),
    ):
        what = "gradient" if name in ("rtrl", "bptt", "tbptt") else "enumerated mean"
        note = " as long as the sequence" if name == "tbptt" else ""
        rows.append(
            _row(
                f"{name}{note}: {what} less backpropagation's, largest entry",
                "equal",
                source,
                found[name],
                0,
                bound,
                worst=True,
            )
        )
    ratio = found["nobacktrack over uoro"]
    rows.append(
        averaged(
            "total variance of NoBackTrack over UORO's, state after tanh",
            "NoBackTrack's step has the least variance of such tricks",
            "proposition 1",
            ratio,
            "below 1 in every case",
            (ratio < 1).all(),
            required=False,
        )
    )
    return rows


def _variance_rows(found: dict[str, Array]) -> list[Row]:
    rows = [
        _row(
            f"{what}: standard errors from Monte Carlo, pooled",
            "the closed form",
            source,
            found[name].sum(keepdims=True) / len(found[name]) ** 0.5,
            0,
            3,
        )
        for name, what, source in (
            ("z", "total variance, normal noise", "eq. 4.6.3, corrected"),
            ("z of signs", "total variance, signs", "eq. 4.6.3, corrected, κ = −2"),
            ("z in time", "total variance of PreUORO", "section 4.8, corrected"),
        )
    ]  # fmt: skip
    for name, quantity, published, source, target, tolerance in (
        ("imbalance", "best α: row sums less column sums of C̄, relative", "equal",
         "appendix 4.C", 0.0, 1e-11),
        ("gir", "variance of a step's signs at GIR over a numerical optimiser's", "least",
         "section 4.5.2", 1.0, 1e-9),
        ("separable", "V of one time's estimate at its closed form over an optimiser's", "least",
         "appendix 4.B", 1.0, 1e-9),
        ("alpha", "V at the best α over a numerical optimiser's", "least", "eq. 4.7.4", 1.0, 1e-6),
        ("shape", "V at Q₀ = B^(−1/4) over a numerical optimiser's", "least", "eq. 4.7.6", 1.0,
         1e-6),
        ("roots", "V at Q₀ = B^(−1/4) over tr(B^½)²", "1", "section 4.7.1", 1.0, 1e-9),
        ("alternated", "V with both in turn over tr(B^½)²", "1", "section 4.7.1", 1.0, 1e-9),
        ("pre", "V of UORO over PreUORO's, N = 4", "N", "section 4.8", 4.0, 1e-9),
    ):  # fmt: skip
        rows.append(_row(quantity, published, source, found[name], target, tolerance, worst=True))
    printed = found["printed"]
    rows.append(
        averaged(
            "printed V + ‖gradient‖² over the exact total variance, less 1",
            "equal",
            "eq. 4.6.3 as printed",
            printed,
            "within 1e-6 in every case",
            (abs(printed) < 1e-6).all(),
            required=False,
        )
    )
    for name, quantity, source, required in (
        ("alpha gain", "V at the best α over V at 1", "eq. 4.7.4", True),
        ("shape gain", "V at Q₀ = B^(−1/4) over V at I", "section 4.7.1", True),
        ("both gain", "V with both over V with neither", "section 4.7.1", True),
        ("printed shape", "V at the printed Q₀ = B^(+1/4) over V at I", "line 1385", False),
    ):
        values, text = found[name], "at most 1 in every case"
        fits = (values <= 1).all()
        rows.append(averaged(quantity, "at most 1", source, values, text, fits, required))
    return rows


def _limit_rows(limit: dict[str, Array]) -> list[Row]:
    decades = np.log10(SIGMAS)
    small = slice(1, None)
    slopes = [np.polyfit(decades[small], np.log10(d[small]), 1)[0] for d in limit["distances"]]
    growth = [np.polyfit(decades[small], np.log10(w[small]), 1)[0] for w in limit["without"]]
    return [
        _row("REINFORCE's distance to UORO: power of σ", "1: linear", "eq. 4.9.3",
             np.array(slopes), 1, 0.02, worst=True),
        _row("REINFORCE without baseline: power of σ in its variance", "−2", "section 4.9",
             np.array(growth), -2, 0.05, worst=True),
    ]  # fmt: skip


def _row(
    quantity: str,
    published: str,
    source: str,
    values: Array,
    target: float,
    tolerance: float,
    worst: bool = False,
) -> Row:
    """A row whose every seed is within a tolerance; the value shown is the worst one's."""
    off = np.abs(values - target)
    shown = values[off.argmax()] if worst else values.mean()
    text = f"every case is within {tolerance:g} of {target:g}"
    low, high = float(values.min()), float(values.max())
    agrees = bool((off <= tolerance).all())
    return Row(quantity, published, source, float(shown), low, high, text, agrees)


def _off(found: Tensor, case: Case) -> float:
    return float((found - case.exact()).abs().max())


def _least(function: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """The exponential of a function's minimum by L-BFGS, which knows nothing of the theory."""
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = function(point)
        value.backward()
        return value

    optimizer.step(closure)
    return float(function(point.detach()).exp())


def _alternated(episode: variance.Episode, alpha: Tensor, shape: Tensor) -> tuple[float, float]:
    """V after best weights and best matrix in turn, and tr(B^½)² of the last B."""
    for _ in range(200):
        alpha = shaping.best_alpha(variance.coefficients(episode, shape))
        b = variance.spatial(episode, alpha)
        shape = shaping.best_shape(b)
    v = variance.weighted(variance.coefficients(episode, shape), alpha)
    return float(v), float(torch.linalg.eigvalsh(b).sqrt().sum() ** 2)


def _greedy(moved: Tensor, row: Tensor, new_state: Tensor, new_row: Tensor) -> float:
    """The variance that one sign brings at GIR's γ and β, over the least that any others have."""

    def cross(log_ratio: Tensor) -> Tensor:
        ratio = log_ratio.exp()  # γ/β
        return (ratio * torch.outer(moved, new_row) + torch.outer(new_state, row) / ratio).square()

    gamma, beta = shaping.greedy_beta(row, moved), shaping.greedy_beta(new_row, new_state)
    best = _least(lambda log: cross(log).sum().log(), torch.zeros(()).double())
    return float(cross((gamma / beta).log()).sum()) / best


def _each(seeds: int, work: Callable[[int], dict[str, Any]]) -> dict[str, Array]:
    found = [work(seed) for seed in range(seeds)]
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def _draw(figure: Figure, found: dict[str, Array], limit: dict[str, Array]) -> None:
    left, right = figure.subplots(1, 2)
    names = ["alpha gain", "shape gain", "both gain", "printed shape"]
    for index, name in enumerate(names):
        left.plot([index] * len(found[name]), found[name], "o", color=f"C{index}")
    left.axhline(1, color="grey", linestyle=":")
    left.set_xticks(range(4), ["best α", "Q₀ = B^−¼", "both", "B^+¼, as printed"])
    left.set_yscale("log")
    left.set_ylabel("V over V without either")
    for distances, without in zip(limit["distances"], limit["without"], strict=True):
        right.loglog(SIGMAS, distances, "o-", color="C0")
        right.loglog(SIGMAS, without, "s--", color="C1")
    right.set_xlabel("σ")
    right.set_title(
        "REINFORCE: distance to UORO (blue), variance\nover UORO's without baseline (orange)"
    )
