"""Interference: inner products and cosines of gradients of different examples.

    ρ_uv = ∇J(u)·∇J(v)    ρ̄_uv = ∇f(u)·∇f(v)    stiffness = cosine of ∇J(u), ∇J(v)

E. Bengio, PhD thesis, eq. 3.6, 3.12, 3.13; stiffness (§3.2.3.1, Fig. 3.12) is that of Fort et al.
2019, "Stiffness: a new perspective on generalization in neural networks": the mean of the cosine
or of its sign. Positive: a step for one example also helps the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.diagnostics.derivatives import loss_rows, paired, products, rows
from semigradient.diagnostics.examples import Examples, Params
from semigradient.diagnostics.observer import Findings, Profile, View, masked_mean
from semigradient.optim.temporal_difference import Rows

OFFSETS = 30
"""Largest distance in time (thesis, Fig. 3.7 and 3.12)."""
WINDOWS = 16
"""Steps around which profiles are measured."""


def loss_interference(u: Examples, v: Examples, params: Params | None = None) -> Tensor:
    """ρ of all pairs: (m, k)."""
    return products(loss_rows(u, params), loss_rows(v, params))


def function_interference(u: Examples, v: Examples, params: Params | None = None) -> Tensor:
    """ρ̄ of all pairs, of each example's head: (m, k)."""
    return products(head_rows(u, params), head_rows(v, params))


def head_rows(examples: Examples, params: Params | None = None) -> Rows:
    """Gradients of the output that function interference compares."""
    return rows(examples.head or examples.prediction, examples, params)


def stiffness(u: Rows, v: Rows) -> Tensor:
    """Cosines of all pairs of rows: (m, k) in [-1, 1], 0 where a row vanishes."""
    sizes = paired(u, u).sqrt()[:, None] * paired(v, v).sqrt()
    return _ratio(products(u, v), sizes)


def pair_mean(pairs: Tensor) -> Tensor:
    """Mean over the N(N-1)/2 pairs of different examples in a symmetric (N, N): 0-dim."""
    count = len(pairs)
    return (pairs.sum() - pairs.diagonal().sum()) / (count * (count - 1))


def measure(view: View) -> Findings:
    """Means over pairs of train examples, and over pairs of a train and a test example."""
    train, test = loss_rows(view.train), loss_rows(view.test)
    scalars = _summary("", products(train, train), stiffness(train, train), pair_mean)
    scalars |= _summary("_test", products(train, test), stiffness(train, test), torch.mean)
    del train, test
    train, test = head_rows(view.train), head_rows(view.test)
    scalars["function"] = pair_mean(products(train, train))
    scalars["function_test"] = products(train, test).mean()
    return Findings(scalars)


def measure_stiffness(view: View) -> Findings:
    """Cosine of gradients at a step and at its neighbours in time, by distance."""
    experience = view.experience
    centre = experience.draw(min(view.samples, WINDOWS), view.generator)
    offsets = sparse(reach(experience.times, experience.device))
    index, valid = experience.around(centre, offsets)
    here = loss_rows(experience.at(centre))
    size = paired(here, here).sqrt()
    cosines = []
    for numbers in index:  # one offset at a time: rows of all would not fit
        there = loss_rows(experience.at(numbers))
        cosines.append(_ratio(paired(here, there), size * paired(there, there).sqrt()))
    cosine = torch.stack(cosines)
    curves = {
        "cosine": masked_mean(cosine, valid, 1),
        "sign": masked_mean(cosine.sign(), valid, 1),
        "count": valid.sum(1),
    }
    near = valid & ((offsets != 0) & (offsets.abs() <= 10))[:, None]
    scalars = {"near": masked_mean(cosine.flatten(), near.flatten(), 0)}
    return Findings(scalars, {"offset": Profile("distance in time", offsets, curves)})


def reach(times: int, device: torch.device) -> Tensor:
    """Offsets in time, as far as `times` instants allow: (2k+1,)."""
    far = min(OFFSETS, times - 1)
    return torch.arange(-far, far + 1, device=device)


def sparse(offsets: Tensor) -> Tensor:
    """Of symmetric offsets, all near ones and a few far: rows of gradients are expensive."""
    chosen = torch.tensor([0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30], device=offsets.device)
    return offsets[torch.isin(offsets.abs(), chosen)]


def _summary(suffix: str, pairs: Tensor, cosines: Tensor, mean) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    return {
        f"loss{suffix}": mean(pairs),
        f"stiffness{suffix}": mean(cosines),
        f"stiffness_sign{suffix}": mean(cosines.sign()),
    }


def _ratio(product: Tensor, size: Tensor) -> Tensor:
    return torch.where(size > 0, product / size, torch.zeros_like(product)).clamp(-1, 1)
