"""The variance of UORO's total gradient, exactly.

An episode of T steps with pre-activations z_s = W a_s is described by

    b[s, t] = ∂L_t/∂z_s   (T, T, N), zero for s > t,        a[s]   (T, A).

One draw of noise u (T, N) with E[u uᵀ] = I gives the estimate of Σ_t ∂L_t/∂W

    g = Σ_t (Σ_{s≤t} b[s, t]ᵀ Q_s u_s) (Σ_{r≤t} (Q_r^−ᵀ u_r) a_rᵀ),

whose mean is the gradient and whose total variance, the expected squared distance from it, is

    Var = V(Q) + Σ_{s,t} ⟨M[s, t], M[t, s]⟩ + κ D(Q),    M[s, t] = Σ_{r≤t} b[r, s] a_rᵀ

with κ the noise's excess kurtosis: 0 if it is normal, −2 for signs. Only V depends on weights α_s
of Q_s = α_s Q₀. All functions are of one episode, and differentiable.

Source: T. Cooijmans, PhD thesis 2023, chapter 4, eq. 4.6.1–4.7.7 and appendices 4.B–4.F. Its second
term, ‖∂L/∂θ‖² (eq. 4.6.3), holds for symmetric products only; the sum above is the general one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev

SIGNS, NORMAL = -2.0, 0.0
"""Excess kurtosis."""


class Episode(NamedTuple):
    """What the variance depends on."""

    b: Tensor  # (T, T, N)
    a: Tensor  # (T, A)

    def gradient(self) -> Tensor:
        """Σ_t ∂L_t/∂W (N, A)."""
        return torch.einsum("stn,sa->na", self.b, self.a)


def record(network: Any, xs: Tensor, losses: Sequence[Callable[[Tensor], Tensor]]) -> Episode:
    """Run one example.

    Args:
        network: with a `cell` that is one layer, and `output(s)`; see `nets.cells`.
        xs: (T, inputs).
        losses: of the outputs of each step.
    """
    cell = network.cell
    features: list[Tensor] = []

    def run(shifts: Tensor) -> Tensor:
        features.clear()
        state, found = xs.new_zeros(network.width), []
        for x, shift, loss in zip(xs, shifts, losses, strict=True):
            a = cell.features(x, state)
            features.append(a)
            state = cell.update(a @ cell.weight.mT + shift, state)
            found.append(loss(network.output(state)))
        return torch.stack(found)

    shifts = xs.new_zeros(len(xs), len(cell.weight))
    b = jacrev(run)(shifts).transpose(0, 1).detach()
    run(shifts)
    return Episode(b, torch.stack(features).detach())


def estimate(episode: Episode, noise: Tensor, shapes: Tensor) -> Tensor:
    """The estimate g (K, N, A) for noises (K, T, N) and matrices Q (T, N, N)."""
    b, a = episode
    shaped = torch.einsum("snm,ksm->ksn", shapes, noise)
    inverse = torch.linalg.inv(shapes)
    rows = torch.einsum("ksm,smn->ksn", noise, inverse)
    losses = torch.einsum("stn,ksn->kt", b, shaped)
    causal = torch.ones(len(a), len(a), dtype=a.dtype, device=a.device).triu()  # [r ≤ t]
    return torch.einsum("kt,rt,krn,ra->kna", losses, causal, rows, a)


def estimate_in_time(episode: Episode, noise: Tensor, alpha: Tensor) -> Tensor:
    """PreUORO's estimate (K, N, A) for noises (K, T) and weights (T,)."""
    b, a = episode
    causal = torch.ones(len(a), len(a), dtype=a.dtype, device=a.device).triu()
    left = torch.einsum("s,ks,stn->ktn", alpha, noise, b)
    right = torch.einsum("rt,r,kr,ra->kta", causal, 1 / alpha, noise, a)
    return torch.einsum("ktn,kta->kna", left, right)


def shaped_by(alpha: Tensor, shape: Tensor) -> Tensor:
    """Q_s = α_s Q₀: (T, N, N)."""
    return alpha[:, None, None] * shape


def correction(episode: Episode) -> Tensor:
    """Σ_{s,t} ⟨M[s, t], M[t, s]⟩, which no choice of Q changes."""
    b, a = episode
    causal = torch.ones(len(a), len(a), dtype=a.dtype, device=a.device).triu()
    m = torch.einsum("rsn,rt,ra->stna", b, causal, a)
    return torch.einsum("stna,tsna->", m, m)


def dominant(episode: Episode, shapes: Tensor) -> Tensor:
    """V(Q) for any matrices (T, N, N), by the definition in section 4.6.4."""
    b, a = episode
    left = torch.einsum("rsn,rnm,rkm,rtk->st", b, shapes, shapes, b)
    inverse = torch.linalg.inv(shapes)
    weights = a.square().sum(1) * inverse.square().sum((1, 2))
    right = torch.cumsum(weights, 0)
    index = torch.arange(len(a), device=a.device)
    return (left * right[torch.minimum(index[:, None], index)]).sum()


def sign_term(episode: Episode, shape: Tensor) -> Tensor:
    """D of Q_s = α_s Q₀, which the weights leave alone."""
    sums = _later(episode)[torch.arange(len(episode.a)), torch.arange(len(episode.a))] @ shape
    rows = torch.linalg.inv(shape).square().sum(1)
    return (episode.a.square().sum(1)[:, None] * rows * sums.square()).sum()


def total(
    episode: Episode, alpha: Tensor, shape: Tensor | None = None, kurtosis: float = NORMAL
) -> Tensor:
    """The exact total variance of UORO's estimate with Q_s = α_s Q₀."""
    shape = torch.eye(episode.b.shape[-1], dtype=alpha.dtype) if shape is None else shape
    exact = weighted(coefficients(episode, shape), alpha) + correction(episode)
    return exact + kurtosis * sign_term(episode, shape)


def total_in_time(episode: Episode, alpha: Tensor, kurtosis: float = NORMAL) -> Tensor:
    """PreUORO's: its V lacks the factor tr((Q₀ Q₀ᵀ)⁻¹) and Q₀."""
    later = _later(episode)
    size = episode.a.square().sum(1)
    v = weighted(size[:, None] * later.square().sum(-1), alpha)
    index = torch.arange(len(size))
    signs = (size * later[index, index].square().sum(-1)).sum()
    return v + correction(episode) + kurtosis * signs


def coefficients(episode: Episode, shape: Tensor) -> Tensor:
    """C (T, T) of eq. 4.7.3: ‖Σ_{t≥q} b[r, t]ᵀ Q₀‖² ‖a_q‖² tr((Q₀ Q₀ᵀ)⁻¹) at q, r."""
    left = (_later(episode) @ shape).square().sum(-1)
    right = episode.a.square().sum(1) * torch.linalg.inv(shape).square().sum()
    return left * right[:, None]


def weighted(c: Tensor, alpha: Tensor) -> Tensor:
    """V = Σ_{q,r} (α_r/α_q)² C_qr."""
    return (c * (alpha / alpha[:, None]).square()).sum()


def spatial(episode: Episode, alpha: Tensor) -> Tensor:
    """B (N, N) of eq. 4.7.7, with V = tr(B Q₀Q₀ᵀ) tr((Q₀Q₀ᵀ)⁻¹)."""
    later = _later(episode)
    weights = (alpha / alpha[:, None]).square() * episode.a.square().sum(1)[:, None]
    return torch.einsum("qr,qrn,qrm->nm", weights, later, later)


def _later(episode: Episode) -> Tensor:
    """Σ_{t≥q} b[r, t] at [q, r]: (T, T, N)."""
    return episode.b.flip(1).cumsum(1).flip(1).transpose(0, 1)
