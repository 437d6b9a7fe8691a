"""What agents show optimizers that know that targets move, and what they should say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from semigradient.errors import warn
from semigradient.optim.temporal_difference import (
    TemporalDifference,
    wants_temporal_difference,
)


def follows_target(optimizer: object) -> bool:
    """Return whether `optimizer` corrects for the motion of a target network."""
    return bool(getattr(optimizer, "defaults", {}).get("follow_target", False))


def show(optimizer: object, make: Callable[[], Iterable[TemporalDifference]]) -> None:
    """Show `optimizer` its minibatches before its step, if it wants any; `make` is called then.

    No minibatch at all: the loss of this step has no temporal difference, and an optimizer with a
    method `pass_over` is told so.
    """
    if not wants_temporal_difference(optimizer):
        return
    batches = list(make())
    for batch in batches:
        optimizer.observe(batch)
    pass_over = getattr(optimizer, "pass_over", None)
    if not batches and pass_over is not None:
        pass_over()


def warn_of_limits(
    optimizer: object, frozen: bool = False, followed: bool = False, huber: bool = False
) -> None:
    """One line for each setting in which an optimizer that corrects has little to correct.

    Args:
        optimizer: any; others are not warned of.
        frozen: whether the target comes from a target network.
        followed: whether that is shown to the optimizer.
        huber: whether the loss is Huber's, with threshold 1.
    """
    if not wants_temporal_difference(optimizer):
        return
    name = type(optimizer).__name__
    follows = follows_target(optimizer)
    if frozen and not follows:
        more = ", or follow it (--optim.follow-target of corrected-momentum)" * followed
        warn(
            f"{name} beside a target network: the bootstrap counts as standing still, only the "
            f"prediction is corrected; learn without one (--target none of dqn){more}"
        )
    if follows and not followed:
        warn(f"{name}: follow_target has nothing to follow: no target network is shown to it")
    if huber:
        warn(f"{name} with the Huber loss: nothing is corrected where |δ| > 1; --loss mse is ½δ²")


def critic_difference(
    network: nn.Module, obs: Tensor, return_: Tensor, weight: Tensor
) -> TemporalDifference:
    """The regression of an actor-critic's values on fixed returns; the policy's loss is the rest.

    Args:
        network: gives (parameters of the policy, value) of observations.
        obs: (m, *observation).
        return_: (m,).
        weight: (m,) factors of each half square.
    """
    return TemporalDifference(
        network,
        {"obs": obs},
        lambda call, s: call(s["obs"])[1],
        target=return_,
        weight=weight,
        partial=True,
    )
