"""Self-play with reward sharing: the gradient of one policy that sits on both seats.

    ∇_θ E_{τ ~ (π_θ, π_θ)}[R¹(τ)] = E[R¹(τ) Σ_t ∇ log π_θ(a_t|s_t) + ∇ log π_θ(b_t|o_t)]

In a symmetric game this is half the gradient, with respect to both seats, of the sum of both
returns: a player rewarded for the other's return as well. In a symmetric zero-sum game it is zero.

Source: T. Cooijmans, PhD thesis 2023, chapter 5 (best response shaping): eq. 5.4.7, Proposition D.2
and Corollary D.3.
"""

from __future__ import annotations

from torch import Tensor

from semigradient.gradients.dice import average


def self_play_return(
    own_log_probs: Tensor,
    other_log_probs: Tensor,
    advantages: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Objective to be maximised, of first order: Σ_t ⊥A_t (log π(a_t|s_t) + log π(b_t|o_t)).

    Args:
        own_log_probs: (T, B) of the first seat's actions.
        other_log_probs: (T, B) of the second seat's, by the same parameters, from its own view.
        advantages: (T, B) of the first seat: its return to go or anything of that expectation.
        weights: (B,), as in `gradients.dice`.
    """
    both = own_log_probs + other_log_probs
    return average((both * advantages.detach()).sum(0), weights)
