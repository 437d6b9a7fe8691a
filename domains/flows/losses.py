"""Losses of flow networks, as pure functions of log flows and log-probabilities.

A batch holds B trajectories s_0 → … → s_n = x of at most T edges, time-major. Row t of a (T, B)
tensor is the edge s_t → s_{t+1}; row t of a (T+1, B) tensor is the state s_t, and row `length` is
the sink that drains the object x, so that its flow is R(x). Rows beyond are padding.

    flow matching            sum of flows into s' = R(s') + sum of flows out of s'
                             (Bengio et al. 2021; thesis eq. 5.16)
    detailed balance         F(s) P_F(s'|s) = F(s') P_B(s|s')          (Bengio et al. 2023)
    trajectory balance       Z Π P_F = R(x) Π P_B                      (Malkin et al. 2022)
    sub-trajectory balance   the same between any two states of it     (Madan et al. 2023)

All residuals are differences of logarithms and vanish together at the flows of any backward policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

REGRESSIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "squared": torch.square,
    "half": lambda t: 0.5 * t.square(),
    "huber": lambda t: F.huber_loss(t, torch.zeros_like(t), reduction="none"),
    # 2 (cosh t - 1), with t bounded so that the exponential of a first guess is finite.
    "cosh": lambda t: 2 * (torch.cosh(t.clamp(-20, 20)) - 1),
}
"""What is made of a residual, elementwise."""


def flow_matching(log_in: Tensor, log_out: Tensor, log_epsilon: float = -torch.inf) -> Tensor:
    """Log(ε + in) - log(ε + out), for any shape; `log_out` is log R at sinks.

    The gradient goes through both sides; detach one of them for a target network.
    """
    if log_epsilon == -torch.inf:
        return log_in - log_out
    epsilon = torch.full_like(log_in, log_epsilon)
    return torch.logaddexp(log_in, epsilon) - torch.logaddexp(log_out, epsilon)


def inflow(log_edges: Tensor, real: Tensor) -> Tensor:
    """Log of the sum of the flows of the `real` ones of K edges: (…, K) each → (…,)."""
    return log_edges.masked_fill(~real, _NONE).logsumexp(-1)


def detailed_balance(
    log_flow: Tensor, log_forward: Tensor, log_backward: Tensor, next_log_flow: Tensor | None = None
) -> Tensor:
    """Log F(s) + log P_F - log F(s') - log P_B at every edge: (T+1, B), (T, B), (T, B) → (T, B).

    `next_log_flow` (T, B) replaces log F(s'), for a target network.
    """
    reached = log_flow[1:] if next_log_flow is None else next_log_flow
    return log_flow[:-1] + log_forward - reached - log_backward


def trajectory_balance(
    log_z: Tensor, log_forward: Tensor, log_backward: Tensor, log_reward: Tensor, valid: Tensor
) -> Tensor:
    """Log Z + Σ log P_F - log R - Σ log P_B: 0-dim, (T, B), (T, B), (B,), (T, B) bool → (B,)."""
    return log_z + _gain(log_forward, log_backward, valid).sum(0) - log_reward


def log_variance(
    log_forward: Tensor, log_backward: Tensor, log_reward: Tensor, valid: Tensor
) -> Tensor:
    """Trajectory balance with the batch's own mean estimate of log Z, held fixed: (B,).

    Its square has the gradient of the variance of the log ratios (Zhang et al. 2023).
    """
    ratio = _gain(log_forward, log_backward, valid).sum(0) - log_reward
    return ratio - ratio.detach().mean()


def sub_trajectory_balance(
    log_flow: Tensor,
    log_forward: Tensor,
    log_backward: Tensor,
    length: Tensor,
    lambda_: float,
    regression: Callable[[Tensor], Tensor] = torch.square,
) -> Tensor:
    """Weighted mean over 0 ≤ i < j ≤ length, with weights λ^(j-i), of the residuals' penalty: (B,).

    The residual of a piece is a difference of potentials, log F(s_i) - Σ_{t<i} (log P_F - log P_B),
    between its ends. λ → 0 leaves detailed balance, λ → ∞ trajectory balance.

    Args:
        log_flow: (T+1, B), log R(x) in row `length`.
        log_forward: (T, B).
        log_backward: (T, B).
        length: (B,) edges of each trajectory.
        lambda_: λ > 0.
        regression: penalty of a residual.
    """
    steps = torch.arange(len(log_flow), device=length.device)
    gain = _gain(log_forward, log_backward, steps[:-1, None] < length)
    potential = log_flow - F.pad(gain.cumsum(0), (0, 0, 1, 0))
    gap = (steps[None] - steps[:, None])[..., None]  # j - i
    used = (gap > 0) & (steps[None, :, None] <= length)
    residual = torch.where(used, potential[:, None] - potential[None], 0.0)
    # Relative to the longest or shortest piece, so that no power overflows.
    offset = length if lambda_ > 1 else torch.ones_like(length)
    logs = (gap - offset) * torch.log(torch.tensor(lambda_, dtype=potential.dtype))
    weight = torch.where(used, logs, -torch.inf).exp()
    return (weight * regression(residual)).sum((0, 1)) / weight.sum((0, 1))


def modified_detailed_balance(
    log_reward: Tensor, log_forward: Tensor, log_backward: Tensor, log_stop: Tensor
) -> Tensor:
    """Detailed balance without state flows, where every state may stop (Deleu et al. 2022).

    F(s) = R(s) / P_F(stop|s), so the edge s → s' has the residual

        log R(s) + log P_F(s'|s) + log P_F(stop|s') - log R(s') - log P_B(s|s') - log P_F(stop|s).

    Args:
        log_reward: (T+1, B) of every state as an object.
        log_forward: (T, B).
        log_backward: (T, B).
        log_stop: (T+1, B) log P_F(stop|s); 0 where nothing but stopping is left.

    Returns:
        (T, B); edges that stop have no condition of their own.
    """
    potential = log_reward - log_stop
    return potential[:-1] + log_forward - potential[1:] - log_backward


def reduce_edges(
    penalty: Tensor, valid: Tensor, final: Tensor, reduction: str, leaf_weight: float
) -> Tensor:
    """One number of penalties at edges (T, B), as a batch's loss.

    Args:
        penalty: what each edge costs.
        valid: (T, B) bool, which edges there are.
        final: (T, B) bool, which of them end a trajectory.
        reduction: "sum_trajectory", the mean over trajectories of sums over edges;
            "mean_transitions", the mean over edges; "balanced", the mean over edges that do not
            end a trajectory plus `leaf_weight` times that over those that do.
        leaf_weight: of "balanced".

    The mean over no edges is 0: a batch may have none with a condition, as when every trajectory
    stops at the root and stopping has no condition of its own.
    """
    kept = torch.where(valid, penalty, 0.0)
    if reduction == "sum_trajectory":
        return kept.sum() / max(1, valid.shape[1])
    if reduction == "mean_transitions":
        return kept.sum() / valid.sum().clamp(min=1)
    last = final & valid
    inner = valid & ~final
    leaves = torch.where(last, kept, 0.0).sum() / last.sum().clamp(min=1)
    return leaf_weight * leaves + torch.where(inner, kept, 0.0).sum() / inner.sum().clamp(min=1)


def _gain(log_forward: Tensor, log_backward: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, log_forward - log_backward, 0.0)


_NONE = -1e30  # finite, so that a state without parents has a gradient of zero and not NaN
