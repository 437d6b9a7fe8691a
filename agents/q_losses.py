"""Temporal differences of Q-learning, their loss and their form for optimizers: pure functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.optim.temporal_difference import (
    HALF_SQUARE,
    TargetNetwork,
    TemporalDifference,
    huber,
)
from semigradient.training.replay import Batch
from semigradient.training.returns import td_target


def td_targets(batch: Batch, bootstrap: Tensor) -> Tensor:
    """R + γⁿ (1 - terminated) · bootstrap, of the shape of the bootstraps: (m,), or (m, K)."""
    reward, discount = batch.reward, batch.discount
    if bootstrap.ndim > reward.ndim:
        reward, discount = (rows.unsqueeze(-1).expand_as(bootstrap) for rows in (reward, discount))
    return td_target(reward, discount, bootstrap)


def td_loss(
    prediction: Tensor, target: Tensor, loss: str, weight: Tensor | None = None, runs: int = 0
) -> Tensor:
    """Mean loss of predictions (m,), or (m, K), against constant targets of that shape: 0-dim.

    Both kinds are ½δ² near zero, so their derivative by the prediction is -δ; `weight` (m,)
    multiplies the loss of each sample. With `runs` = 1 the first axis counts runs, each of which
    has a loss.
    """
    reduction = "mean" if weight is None and not runs else "none"
    if loss == "huber":
        losses = F.smooth_l1_loss(prediction, target, reduction=reduction)
    else:
        losses = 0.5 * F.mse_loss(prediction, target, reduction=reduction)
    if runs:
        return mean_of(losses, runs)
    return losses if weight is None else weighted_mean(losses, weight)


def mean_of(rows: Tensor, runs: int = 0) -> Tensor:
    """Mean of rows (m, …): 0-dim; with `runs` = 1 of each run's (runs, m, …): (runs,)."""
    return rows.flatten(1).mean(1) if runs else rows.mean()


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of losses (m,), or (m, K), of samples with weights (m,): 0-dim."""
    if weight is None:
        return losses.mean()
    return (losses.reshape(len(weight), -1).mean(1) * weight).mean()


def mean_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean |δ| (m,) over the choices of each sample."""
    error = (target - prediction).abs()
    return error if error.ndim == 1 else error.mean(1)


def temporal_difference(
    network: nn.Module,
    batch: Batch,
    target: Tensor,
    greedy: Tensor | None,
    loss: str,
    weight: Tensor | None = None,
    place: Callable[[Tensor], Tensor] = lambda action: action,
    following: nn.Module | None = None,
) -> TemporalDifference:
    """A minibatch for an optimizer that knows that targets move.

    Several choices side by side, (m, K), become m K samples whose losses are added.

    Args:
        network: of Q.
        batch: transitions.
        target: (m, …) the part of the target that is fixed: with a target network all of it.
        greedy: (m, …) actions a* where the bootstrap is Q(s', a*), which moves.
        loss: as in `td_loss`.
        weight: (m,) factor by which the gradient was clipped.
        place: where in a row of values an action's value stands.
        following: the target network that Q(s', a*) is of; None: `network`.
    """
    action, later = place(batch.action), None if greedy is None else place(greedy)
    choices = action.shape[1] if action.ndim > 1 else 1

    def each(rows: Tensor) -> Tensor:
        return rows if choices == 1 else rows.repeat_interleave(choices, 0)

    bootstrap = None if later is None else {"obs": each(batch.next_obs), "action": later.flatten()}
    discount = None if later is None else each(batch.discount)
    if choices > 1:
        weight = choices * each(torch.ones_like(batch.reward) if weight is None else weight)
        target = each(target) if target.ndim == 1 else target.flatten()
    moves = following is None
    network_of_target = None
    if following is not None and bootstrap is not None and discount is not None:
        network_of_target = TargetNetwork(following, bootstrap, discount)
    return TemporalDifference(
        network,
        samples={"obs": each(batch.obs), "action": action.flatten()},
        prediction=lambda call, s: call(s["obs"]).gather(0, s["action"]),
        bootstrap=bootstrap if moves else None,
        discount=discount if moves else None,
        weight=weight,
        target=target,
        target_network=network_of_target,
        loss=huber() if loss == "huber" else HALF_SQUARE,
    )
