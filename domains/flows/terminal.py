"""Exact probabilities of objects under a policy, where objects cannot be enumerated.

An object of a few pieces has few ancestors: of a molecule of eight blocks at most 2⁸, the connected
parts of its tree. The probability of visiting a state is the sum over the edges into it, so one
pass over the ancestors gives log P_T(x), all orders of building included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from semigradient.domains.flows.estimates import Estimates
from semigradient.envs.constructions.construction import Construction


def ancestors(rules: Construction, objects: Tensor) -> Tensor:
    """Objects (m,) and all their ancestors up to the root, unique and increasing: (u,)."""
    root = torch.tensor([rules.root], device=objects.device)
    return torch.cat([root, *_levels(rules, objects)]).unique()


def few_ancestors(rules: Construction, objects: Tensor, most: int) -> bool:
    """Whether objects (m,) have at most so many ancestors, counted by their distance."""
    met = 0
    for level in _levels(rules, objects):
        met += len(level)
        if met > most:
            return False
    return True


def _levels(rules: Construction, objects: Tensor) -> Iterator[Tensor]:
    """Objects, their parents, the parents of these, …: unique and increasing (u,) each."""
    frontier = objects.unique()
    yield frontier
    for _ in range(rules.horizon):
        frontier = frontier[frontier != rules.root]
        if not len(frontier):
            return
        parents = rules.parents(frontier)
        frontier = parents.state[parents.real].unique()
        yield frontier


@torch.no_grad()
def log_terminal(
    rules: Construction, estimate: Callable[[Tensor], Estimates], objects: Tensor
) -> Tensor:
    """Log P_T (m,) float64 that a construction ends with objects (m,).

    Args:
        rules: of the construction.
        estimate: estimates at increasing states (u,).
        objects: states that may be kept.
    """
    states = ancestors(rules, objects)
    estimates, parents = estimate(states), rules.parents(states)
    source = torch.where(parents.real, parents.state, rules.root)
    edge = estimates.log_forward(source, parents.action).double()
    edge = edge.masked_fill(~parents.real, -torch.inf)
    rows, is_root = estimates.rows(source), states == rules.root
    # Estimates over a whole table have other rows than these states.
    reach = torch.full(
        (len(estimates.everything),), -torch.inf, dtype=torch.float64, device=edge.device
    )
    own = estimates.rows(states)
    reach[own[is_root]] = 0.0
    for _ in range(rules.horizon):
        now = (reach[rows] + edge).logsumexp(1)
        reach = reach.index_copy(0, own, torch.where(is_root, 0.0, now))
    return reach[estimates.rows(objects)] + estimates.log_stop(objects).double()
