"""Temporal differences of Q-learning, their loss and their form for optimizers: pure functions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.optim.temporal_difference import HALF_SQUARE, TemporalDifference, huber
from semigradient.training.replay import Batch
from semigradient.training.returns import td_target


def td_targets(batch: Batch, bootstrap: Tensor) -> Tensor:
    """R + γⁿ (1 - terminated) · bootstrap, of the shape of the bootstraps: (m,), or (m, K)."""
    columns = (-1, *[1] * (bootstrap.ndim - 1))
    reward, discount = (
        rows.view(columns).expand_as(bootstrap) for rows in (batch.reward, batch.discount)
    )
    return td_target(reward, discount, bootstrap)


def td_loss(prediction: Tensor, target: Tensor, loss: str) -> Tensor:
    """Mean loss of predictions (m,) against constant targets (m,): 0-dim.

    Both kinds are ½δ² near zero, so their derivative by the prediction is -δ.
    """
    if loss == "huber":
        return F.smooth_l1_loss(prediction, target)
    return 0.5 * F.mse_loss(prediction, target)


def temporal_difference(
    network: nn.Module,
    batch: Batch,
    target: Tensor,
    greedy: Tensor | None,
    loss: str,
    weight: Tensor | None = None,
) -> TemporalDifference:
    """A minibatch for an optimizer that knows that targets move.

    Args:
        network: of Q.
        batch: transitions with one discrete action.
        target: (m,) the part of the target that is fixed: with a target network all of it.
        greedy: (m,) actions a* where the bootstrap is Q(s', a*) itself, which moves with Q.
        loss: as in `td_loss`.
        weight: (m,) factor by which the gradient was clipped.
    """
    return TemporalDifference(
        network,
        samples={"obs": batch.obs, "action": batch.action},
        prediction=lambda call, s: call(s["obs"]).gather(0, s["action"]),
        bootstrap=None if greedy is None else {"obs": batch.next_obs, "action": greedy},
        discount=None if greedy is None else batch.discount,
        weight=weight,
        target=target,
        loss=huber() if loss == "huber" else HALF_SQUARE,
    )
