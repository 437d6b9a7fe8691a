"""The best weights in time and the best matrix in space for UORO, and what can be had online.

Source: T. Cooijmans, PhD thesis 2023, chapter 4, section 4.7.1 and appendices 4.B–4.F; b, a, C
and B are those of `variance`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.errors import require


def best_alpha(
    c: Tensor, tolerance: float = 1e-12, steps: int = 200, damping: float = 1e-8
) -> Tensor:
    """The minimiser (T,) of Σ_{q,r} (α_r/α_q)² C_qr, which has a product of 1 (appendix 4.C).

    With α² = exp ζ the sum is convex in ζ. At its minimum the rows of C̄ = exp(−ζ_q) C_qr exp(ζ_r)
    have the sums of its columns: matrix equilibration. The Newton step is −(H + λ I)⁻¹ (C̄ᵀ − C̄) 1;
    the text's has the sign of ascent. It is halved until the sum falls.

    Args:
        c: (T, T), not negative.
        tolerance: of |row − column|, relative to the sum of C̄.
        steps: at most.
        damping: λ, relative to the mean of H's diagonal.
    """
    require(bool((c >= 0).all()), "C has negative coefficients; sums of squares are accepted")
    zeta = torch.zeros(len(c), dtype=c.dtype, device=c.device)
    eye = torch.eye(len(c), dtype=c.dtype, device=c.device)

    def scaled(zeta: Tensor) -> Tensor:
        return c * (zeta - zeta[:, None]).exp()

    for _ in range(steps):
        bar = scaled(zeta)
        gradient = bar.sum(0) - bar.sum(1)
        if gradient.abs().max() <= tolerance * bar.sum():
            break
        hessian = torch.diag(bar.sum(0) + bar.sum(1)) - bar - bar.mT
        ridge = damping * hessian.diagonal().mean() * eye
        step = torch.linalg.solve(hessian + ridge, gradient)
        length = 1.0
        while scaled(zeta - length * step).sum() > bar.sum() * (1 + 1e-15) and length > 1e-10:
            length /= 2
        zeta = zeta - length * step
        zeta = zeta - zeta.mean()
    return (zeta / 2).exp()


def separable_alpha(m: Tensor, n: Tensor) -> Tensor:
    """The same for C_qr = m_q n_r: α⁴ = m/n (appendix 4.B)."""
    return (m / n) ** 0.25


def ratios(alpha: Tensor) -> tuple[float, Tensor]:
    """γ and β_s with β_s γ^(T−s) = α_s: γ is the geometric mean of α_s/α_{s+1}.

    Section 4.7.2 has one γ for all steps of an episode; β takes up the rest.
    """
    steps = len(alpha) - 1
    gamma = (alpha[0] / alpha[-1]) ** (1 / max(steps, 1))
    left = steps - torch.arange(len(alpha), dtype=alpha.dtype, device=alpha.device)
    return float(gamma), alpha / gamma**left


def best_shape(b: Tensor, damping: float = 0.0) -> Tensor:
    """Q₀ = (B + λ tr(B)/N I)^(−1/4), which makes V = tr(B^½)² at λ = 0.

    The text's practical formulas have the exponent +1/4, which makes V larger than I does.

    Args:
        b: (N, N), symmetric and not negative.
        damping: λ, to be > 0 where B may be singular.
    """
    n = len(b)
    damped = b + damping * b.trace() / n * torch.eye(n, dtype=b.dtype, device=b.device)
    values, vectors = torch.linalg.eigh(damped)
    require(
        bool(values.min() > 0),
        f"damping={damping}: B is singular (least eigenvalue {float(values.min()):.3g}): no "
        "finite matrix is best, and a damping > 0 is accepted",
    )
    return (vectors * values**-0.25) @ vectors.mT


def best_product(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The A that minimises tr(X A) tr(Y A⁻¹), and the minimum tr((X Y)^½)² (theorem 5)."""
    root = _power(x, 0.5)
    inner = _power(root @ y @ root, 0.5)
    inverse = torch.linalg.inv(root)
    return inverse @ inner @ inverse, inner.trace() ** 2


def greedy_beta(row: Tensor, column: Tensor) -> Tensor:
    """GIR's β (or γ): √(‖row‖/‖column‖), of theta's side over the state's."""
    return (row.norm() / column.norm()).sqrt()


def online_weights(
    own: Tensor, features: Tensor, previous: Tensor, past: Tensor, limit: float = 1e3
) -> tuple[Tensor, Tensor]:
    """β_s and γ_s of appendix 4.D, which treats the future as zero.

    β⁴ = ‖Q₀⁻¹ J_s‖² / ‖b[s, s]ᵀ Q₀‖²,    γ⁴ = E‖w̃_{s−1}‖² / E‖(∂L_s/∂h_{s−1}) h̃_{s−1}‖².

    Where a denominator or a numerator is zero (the first step, steps without loss) the weight is 1;
    others are kept within `limit`.

    Args:
        own: ‖b[s, s]ᵀ Q₀‖², or an average of one sample's square.
        features: ‖Q₀⁻¹ J_s‖².
        previous: ‖w̃_{s−1}‖² on average.
        past: the square of the projected h̃ on average.
    """
    return _fourth_root(features, own, limit), _fourth_root(previous, past, limit)


def online_alpha(b: Tensor, a: Tensor, shape: Tensor) -> Tensor:
    """All weights α_s (T,) that the exact expectations of appendix 4.D give (T = the last time)."""
    steps = len(a)
    own = torch.einsum("ssn,nm->sm", b, shape).square().sum(1)
    features = a.square().sum(1) * torch.linalg.inv(shape).square().sum()
    alpha = torch.zeros(0, dtype=a.dtype, device=a.device)
    for s in range(steps):
        previous = (features[:s] / alpha.square()).sum()
        past = (alpha.square() * (b[:s, s] @ shape).square().sum(1)).sum()
        beta, gamma = online_weights(own[s], features[s], previous, past)
        alpha = torch.cat((alpha * gamma, beta[None]))
    return alpha


def spatial_estimate(
    b: Tensor, a: Tensor, alpha: Tensor, sigma: Tensor, tau: Tensor, nu: Tensor, mu: Tensor
) -> Tensor:
    """Estimates (K, N, N) of B, ½ (m̃ ñᵀ + ñ m̃ᵀ) of appendix 4.F, without bias.

    Args:
        b: (T, T, N).
        a: (T, A).
        alpha: (T,).
        sigma: (K, T) noise of the features' sum.
        tau: (K, T) noise in time.
        nu: (K, T, N) noise in space.
        mu: the same, independently.
    """
    causal = torch.ones(len(a), len(a), dtype=a.dtype, device=a.device).triu()
    features = torch.einsum("kq,q,qs->ks", sigma, a.norm(dim=1) / alpha, causal)

    def side(noise: Tensor) -> Tensor:
        losses = torch.einsum("kr,r,rsn,krn->ks", tau, alpha, b, noise)
        sums = torch.einsum("krn,rs->ksn", noise, causal)
        return torch.einsum("ks,ks,ksn->kn", features, losses, sums)

    m, n = side(nu), side(mu)
    outer = m[:, :, None] * n[:, None]
    return (outer + outer.mT) / 2


def _fourth_root(above: Tensor, below: Tensor, limit: float) -> Tensor:
    usable = (above > 0) & (below > 0)
    ratio = torch.where(usable, above / torch.where(usable, below, 1), 1)
    return (ratio**0.25).clamp(1 / limit, limit)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.mT
