"""Local search around what was built (Kim et al. 2024, "Local search GFlowNets").

A construction of x is walked back anew by P_B, its last edges are cut off, and P_F builds on from
there, to x'. Whether x' takes the place of x is decided by

    metropolis      min{1, π(τ') q(τ | τ') / (π(τ) q(τ' | τ))} with π(τ) = R(x)^β P_B(τ | x) / Z
                    and q(τ' | τ) = (chance of the cut) · P_F of the edges that were built
    deterministic   R(x') > R(x)

Both steps of the first keep π, and so R^β / Z of the objects, exactly, whatever the network is.
What is learned does not depend on the filter: all conditions may be learned from any constructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.trajectories import (
    Trajectories,
    backward,
    forward,
    join,
    running_sum,
    uniform_draws,
)
from semigradient.envs.constructions.construction import Construction, Parents

Filter = Literal["metropolis", "deterministic"]
Look = Callable[[Tensor], Estimates]


class Found(NamedTuple):
    """After one step of local search."""

    paths: Trajectories  # (B) that stay
    proposed: Trajectories  # (B) that were built
    built: Tensor  # (B,) edges of them that were built anew
    accepted: Tensor  # (B,) bool


def search(
    rules: Construction,
    look: Look,
    objects: Tensor,
    log_target: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    back: float = 0.5,
    filter_: Filter = "metropolis",
) -> Found:
    """One step from objects (B,).

    Args:
        rules: of the construction.
        look: estimates, without gradient, at increasing states.
        objects: where the search is.
        log_target: log R^β of objects (m,).
        generator: decides everything random.
        back: share of a construction's edges that is cut off, at least one; 0: as many as chance
            says, all numbers alike.
        filter_: what accepts.
    """
    count, device = len(objects), rules.device

    def parents_of(states: Tensor, parents: Parents) -> Tensor:
        return look(states.unique()).log_parents(states, parents)

    old = backward(rules, objects, generator, parents_of)
    levels = torch.rand((2, count), generator=generator, device=device)
    cut = _cut(old.length, back, levels[0])
    keep = old.length - cut
    start = old.state.gather(0, keep[None])[0]

    def cumulative(states: Tensor) -> Tensor:
        once = states.unique()
        at = look(once)
        return running_sum(at.log_policy.exp()).index_select(0, at.rows(states))

    tail = forward(rules, cumulative, uniform_draws(rules, count, generator), start)
    new = spliced(old, keep, tail, rules.actions - 1)
    gain = log_target(new.objects) - log_target(objects)
    if filter_ == "deterministic":
        accepted = gain > 0
    else:
        ratio = gain + _moves(look, new, old, keep) - _moves(look, old, new, keep)
        # The way back must cut as much as was built.
        ratio = ratio + _log_cut(new.length, keep, back) - _log_cut(old.length, keep, back)
        accepted = levels[1].double().log() < ratio
    return Found(chosen(accepted, new, old, rules.actions - 1), new, tail.length, accepted)


def _moves(look: Look, to: Trajectories, source: Trajectories, keep: Tensor) -> Tensor:
    """Log P_B(τ' | x') of the edges beyond `keep` plus log P_F of those of τ: (B,) float64."""
    return _beyond(look, to, keep, False) + _beyond(look, source, keep, True)


def _beyond(look: Look, paths: Trajectories, keep: Tensor, forwards: bool) -> Tensor:
    """Log P_F or log P_B of the edges from `keep` on: (B,) float64."""
    at, shape = look(paths.state.unique()), paths.action.shape
    starts, actions, ends = (
        each.flatten() for each in (paths.state[:-1], paths.action, paths.state[1:])
    )
    if forwards:
        found = at.log_forward(starts, actions)
    else:
        found = at.log_backward(starts, actions, ends)
    steps = torch.arange(shape[0], device=keep.device)[:, None]
    used = paths.valid & (steps >= keep)
    return torch.where(used, found.view(shape).double(), 0.0).sum(0)


def _cut(length: Tensor, back: float, level: Tensor) -> Tensor:
    """How many edges (B,) are cut off."""
    if back == 0:
        return (1 + (level * length).long()).clamp(max=length)
    return (back * length).round().long().clamp(min=1)


def _log_cut(length: Tensor, keep: Tensor, back: float) -> Tensor:
    """Log-probability that constructions of so many edges are cut back to `keep`: (B,) float64."""
    if back == 0:
        return -length.double().log()
    fits = length - _cut(length, back, torch.zeros(())) == keep
    return torch.where(fits, 0.0, -torch.inf).double()


def spliced(old: Trajectories, keep: Tensor, tail: Trajectories, stop: int) -> Trajectories:
    """The first `keep` (B,) edges of old constructions, then others that start there."""
    length = keep + tail.length
    total = int(length.max())
    steps = torch.arange(total + 1, device=keep.device)[:, None]
    behind = (steps - keep).clamp(min=0)
    before = steps.clamp(max=len(old.action) - 1).expand(-1, len(keep))
    state = torch.where(
        steps < keep,
        old.state.gather(0, before),
        tail.state.gather(0, behind.clamp(max=len(tail.action))),
    )
    rest = tail.action.gather(0, behind[:-1].clamp(max=len(tail.action) - 1))
    action = torch.where(steps[:-1] < keep, old.action.gather(0, before[:-1]), rest)
    return Trajectories(state, torch.where(steps[:-1] < length, action, stop), length)


def chosen(first: Tensor, one: Trajectories, other: Trajectories, stop: int) -> Trajectories:
    """Of two batches of B the one's where `first` (B,), the other's elsewhere."""
    both, count = join([one, other], stop), len(first)
    rows = torch.arange(count, device=first.device) + torch.where(first, 0, count)
    found = Trajectories(both.state[:, rows], both.action[:, rows], both.length[rows])
    longest = int(found.length.max())
    return Trajectories(found.state[: longest + 1], found.action[:longest], found.length)
