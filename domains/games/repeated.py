"""Repeated 2×2 games of n rounds between memory-one policies: sampled and exact, side by side.

A policy is five logits in the order [start, AA, AB, BA, BB], (own action, other's action) of the
round before, each the log-odds of action A. There are three ways to the expected return and its
derivatives: `sample` and `enumerate_all` give episodes for the estimators of `gradients.dice`, with
and without noise, and `expected_return` follows the distribution of the state, exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from semigradient.envs.games.matrix_games import SEEN_BY_OTHER
from semigradient.errors import require

PRISONERS = torch.tensor([[-1.0, -3.0, 0.0, -2.0], [-1.0, 0.0, -3.0, -2.0]], dtype=torch.float64)
"""Prisoner's dilemma (2, 4): of each player, after AA, AB, BA, BB (first player's action first)."""
_SWAPPED = torch.tensor(SEEN_BY_OTHER)


class Episodes(NamedTuple):
    """B episodes of T rounds; of S pairs of policies at once, (S, B) stands for B."""

    log_probs: Tensor  # (2, T, B): of each player's own actions, with gradients to the policies
    rewards: Tensor  # (2, T, B)
    states: Tensor  # (2, T, B) int64: what each player saw, in its own perspective
    weights: Tensor  # (B,): 1/B, or the probabilities of all episodes


def sample(
    policies: Tensor, payoff: Tensor, rounds: int, count: int, generator: torch.Generator
) -> Episodes:
    """Play `count` games of each pair of policies (2, 5) or (S, 2, 5), with a payoff (2, 4)."""
    probabilities = policies.detach().sigmoid().movedim(-2, 0)  # (2, …, 5)
    shape = (*probabilities.shape[:-1], count)
    noise = torch.rand(rounds, *shape, generator=generator, dtype=probabilities.dtype)
    state = torch.zeros(shape[1:], dtype=torch.int64)
    seen, chosen = [], []
    for t in range(rounds):
        views = torch.stack((state, _SWAPPED[state]))
        second = (noise[t] >= probabilities.gather(-1, views)).long()  # 0 is A, 1 is B
        seen.append(views)
        chosen.append(second)
        state = 1 + 2 * second[0] + second[1]
    weights = torch.full((count,), 1 / count, dtype=policies.dtype)
    return _episodes(policies, payoff, torch.stack(seen, 1), torch.stack(chosen, 1), weights)


def enumerate_all(policies: Tensor, payoff: Tensor, rounds: int) -> Episodes:
    """Every course of the game, 4^rounds of them, with its probability."""
    require(1 <= rounds <= 8, f"rounds={rounds}: must be in [1, 8], there are 4^rounds courses")
    joint = torch.cartesian_prod(*[torch.arange(4)] * rounds).view(-1, rounds).T
    start = torch.zeros_like(joint[:1])
    state = torch.cat((start, 1 + joint[:-1]))
    views, chosen = torch.stack((state, _SWAPPED[state])), torch.stack((joint // 2, joint % 2))
    episodes = _episodes(policies, payoff, views, chosen, torch.empty(0))
    return episodes._replace(weights=episodes.log_probs.detach().sum((0, 1)).exp())


def expected_return(policies: Tensor, payoff: Tensor, rounds: int, discount: float = 1.0) -> Tensor:
    """Exact returns (…, 2) of policies (…, 2, 5), differentiable to any order."""
    first = policies[..., 0, :].sigmoid()
    second = policies[..., 1, :].sigmoid()[..., _SWAPPED]
    ways = (first * second, first * (1 - second), (1 - first) * second)
    joint = torch.stack((*ways, (1 - first) * (1 - second)), -1)  # (…, 5, 4)
    at, total = joint[..., 0, :], joint.new_zeros(())
    for t in range(rounds):
        total = total + discount**t * (at @ payoff.to(at.dtype).T)
        at = (at.unsqueeze(-2) @ joint[..., 1:, :]).squeeze(-2)
    return total


def _episodes(
    policies: Tensor, payoff: Tensor, views: Tensor, chosen: Tensor, weights: Tensor
) -> Episodes:
    """Log-probabilities and rewards of what was chosen (2, T, …, B) where it was seen."""
    is_valid = policies.dim() in (2, 3) and policies.shape[-2:] == (2, 5)
    require(is_valid, f"policies: {tuple(policies.shape)}, must be (2, 5) or (S, 2, 5)")
    require(payoff.shape == (2, 4), f"payoff: {tuple(payoff.shape)}, must be (2, 4)")
    logits = look_up(policies.movedim(-2, 0), views)
    log_probs = F.logsigmoid(torch.where(chosen == 0, logits, -logits))
    rewards = payoff.to(policies.dtype)[:, 2 * chosen[0] + chosen[1]]
    return Episodes(log_probs, rewards, views, weights)


def look_up(tables: Tensor, states: Tensor) -> Tensor:
    """Entries (2, T, …, B) of tables (2, …, 5) for states (2, T, …, B)."""
    rows = states.movedim(1, -2)  # (2, …, T, B)
    return tables.gather(-1, rows.flatten(-2)).view(rows.shape).movedim(-2, 1)
