"""DiCE: one objective whose n-th derivative estimates the n-th derivative of an expectation.

    □(W) = exp(τ - ⊥τ),  τ = Σ_{w in W} log p(w; θ),        L_□ = Σ_c □(W_c) c

with ⊥ the stop-gradient and W_c the sampled nodes that a cost c depends on through θ. The box is
worth 1 and ∇□(W) = □(W) ∇τ, so every differentiation restores the dependence that sampling hides:
E[∇ⁿ L_□] = ∇ⁿ E[Σ c] for every n.

Sources: the DiCE slides (J. Foerster et al. 2018, "DiCE: the infinitely differentiable Monte Carlo
estimator"), their proof by induction; the baseline is of the paper's section 4.4; loaded DiCE is
Farquhar, Whiteson & Foerster 2019.

Episodes are time-major. `log_probs` (T, B) is the log-probability of what all learning players did
at each step, added up; `weights` (B,) are the episodes' shares of the average: 1/B each when they
were sampled (the default), their probabilities when all of them are listed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.errors import require


def magic_box(log_prob: Tensor) -> Tensor:
    """□: one everywhere, with the derivatives of the probability (any shape)."""
    return (log_prob - log_prob.detach()).exp()


def dice_graph(log_probs: Tensor, costs: Tensor, influence: Tensor) -> Tensor:
    """Σ_c □(W_c) c of any stochastic computation graph.

    Costs that depend on θ directly keep their own gradient.

    Args:
        log_probs: (W, B), one row for each sampled node.
        costs: (C, B).
        influence: (W, C) bool, whether a node is upstream of a cost.

    Returns:
        (B,), one value for each sample.
    """
    is_valid = influence.shape == (len(log_probs), len(costs))
    require(is_valid, f"influence: {tuple(influence.shape)}, must be (nodes, costs)")
    upstream = influence.to(log_probs.dtype).T @ log_probs
    return (magic_box(upstream) * costs).sum(0)


def dice_return(
    log_probs: Tensor,
    rewards: Tensor,
    discount: float = 1.0,
    weights: Tensor | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """Discounted return of episodes, differentiable to any order: a scalar to be maximised.

        Σ_t □({a^t' : t' ≤ t}) γ^t r_t  +  Σ_t (1 - □(a^t)) γ^t b(s_t)

    Args:
        log_probs: (T, B).
        rewards: (T, B), constants.
        discount: γ in [0, 1].
        weights: (B,), see above.
        values: (T, B) b(s_t), known before the actions at t: a baseline for the first derivative,
            which changes no expectation. Detached here.
    """
    _check(log_probs, rewards, "rewards")
    terms = magic_box(log_probs.cumsum(0)) * rewards
    if values is not None:
        _check(log_probs, values, "values")
        terms = terms + (1 - magic_box(log_probs)) * values.detach()
    return average((powers(rewards, discount) * terms).sum(0), weights)


def loaded_dice(
    log_probs: Tensor,
    advantages: Tensor,
    discount: float = 1.0,
    decay: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Loaded DiCE: advantages instead of rewards, for less variance at every order.

        Σ_t γ^t (□(w_t) - □(w_t - l_t)) A_t,      w_t = λ w_{t-1} + l_t,  l_t = log p(a^t)

    Worth 0; its derivatives are those of the return. λ = 1 is unbiased, λ < 1 discounts earlier
    actions, which adds bias at second order and above and reduces variance.

    Args:
        log_probs: (T, B).
        advantages: (T, B), detached here.
        discount: γ in [0, 1].
        decay: λ in [0, 1].
        weights: (B,), see above.
    """
    _check(log_probs, advantages, "advantages")
    require(0 <= decay <= 1, f"decay={decay}: must be in [0, 1]")
    upstream = log_probs.cumsum(0) if decay == 1 else _decayed(log_probs, decay)
    terms = (magic_box(upstream) - magic_box(upstream - log_probs)) * advantages.detach()
    return average((powers(advantages, discount) * terms).sum(0), weights)


def average(per_episode: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of (…, B), or the sum weighted with (B,)."""
    return per_episode.mean(-1) if weights is None else (per_episode * weights.detach()).sum(-1)


def powers(like: Tensor, discount: float) -> Tensor:
    """γ^t as (T, 1, …), to multiply (T, …) with; `UserError` unless γ is in [0, 1]."""
    require(0 <= discount <= 1, f"discount={discount}: must be in [0, 1]")
    steps = torch.arange(len(like), dtype=like.dtype, device=like.device)
    return (discount**steps).view(-1, *[1] * (like.dim() - 1))


def _decayed(log_probs: Tensor, decay: float) -> Tensor:
    rows = [log_probs[0]]
    for row in log_probs[1:]:
        rows.append(decay * rows[-1] + row)
    return torch.stack(rows)


def _check(log_probs: Tensor, other: Tensor, name: str) -> None:
    is_valid = log_probs.shape == other.shape
    require(
        is_valid, f"{name}: {tuple(other.shape)}, must be that of log_probs {(*log_probs.shape,)}"
    )
