"""The surrogate loss of stochastic computation graphs: correct to first order only.

    SL = Σ_w log p(w) ⊥Q̂_w + Σ_c c,        Q̂_w = Σ of the sampled costs downstream of w

Its gradient is the score-function estimator. But the costs in Q̂ are stopped, so a second derivative
loses a cross term; of two players whose log-probabilities add up, the mixed second derivative is
zero, and learning with opponent awareness becomes naive learning. It serves as that contrast and
for methods of first order.

Source: the DiCE slides (theorem and corollary of J. Schulman et al. 2015, "Gradient estimation
using stochastic computation graphs").
"""

from __future__ import annotations

from torch import Tensor

from semigradient.errors import require
from semigradient.gradients.dice import average, powers


def surrogate_graph(log_probs: Tensor, costs: Tensor, influence: Tensor) -> Tensor:
    """SL of any graph; arguments and result as those of `dice_graph`."""
    is_valid = influence.shape == (len(log_probs), len(costs))
    require(is_valid, f"influence: {tuple(influence.shape)}, must be (nodes, costs)")
    downstream = influence.to(costs.dtype) @ costs.detach()
    return (log_probs * downstream).sum(0) + costs.sum(0)


def surrogate_return(
    log_probs: Tensor, rewards: Tensor, discount: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """SL of episodes; arguments as those of `dice_return`. Its value is not the return's."""
    discounted = powers(rewards, discount) * rewards.detach()
    to_go = discounted.flip(0).cumsum(0).flip(0)
    return average((log_probs * to_go + discounted).sum(0), weights)
