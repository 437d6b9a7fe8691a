"""Exact values, samplers and policies of the chorale of six notes, by enumeration."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from semigradient.envs.music.chorale_fill import FillState
from semigradient.envs.music.toy_chorale import CELLS, FRAMES, PITCHES, VOICES, toy_joint

SIZE = PITCHES**CELLS


def all_contexts() -> tuple[Tensor, Tensor]:
    """Pitches and known cells of every context, (4096, 2, 3) each, by `ToyJoint.number`.

    The empty context is the last.
    """
    digits = torch.cartesian_prod(*[torch.arange(PITCHES + 1)] * CELLS)
    digits = digits.view(-1, VOICES, FRAMES)
    known = digits < PITCHES
    return digits.where(known, 0), known


def states() -> FillState:
    """All contexts as states of `semigradient/ToyChorale-v0`."""
    pitches, known = all_contexts()
    missing = (~known).flatten(1).sum(1)
    nothing = torch.zeros_like(missing)
    events = pitches.new_zeros(len(pitches), 0)
    cell = torch.full_like(missing, -1)
    return FillState(pitches.where(known, -1), cell, missing, nothing, nothing.double(), events)


def children(rows: Tensor, cell: int) -> Tensor:
    """Indices (m, P) of the contexts after writing a pitch into an unknown cell."""
    power = (PITCHES + 1) ** (CELLS - 1 - cell)
    return rows[:, None] + (torch.arange(PITCHES) - PITCHES) * power


def optimal_values(temperature: float, given_order: bool) -> Tensor:
    """Values of all contexts under the reward log p by dynamic programming: (4096,) float64.

    The agent chooses cell and pitch, or the pitch of a uniformly drawn cell; its entropy is
    weighted by `temperature`.
    """
    pitches, known = all_contexts()
    log_p = toy_joint().conditionals(pitches, known).flatten(1, 2)
    unknown = (~known).flatten(1)
    value = torch.zeros(len(log_p), dtype=torch.float64)
    for count in range(1, CELLS + 1):
        now = (unknown.sum(1) == count).nonzero().squeeze(1)
        q = torch.full((len(now), CELLS, PITCHES), -math.inf, dtype=torch.float64)
        for cell in range(CELLS):
            free = unknown[now, cell]
            rows = now[free]
            q[free, cell] = log_p[rows, cell] + value[children(rows, cell)]
        if given_order:
            value[now] = _soft(q, temperature, (2,)).nan_to_num(neginf=0).sum(1) / count
        else:
            value[now] = _soft(q, temperature, (1, 2))
    return value


def ancestral_policy() -> Tensor:
    """π(i, t, p) = p(x_it = p | x_C) / |¬C| in all contexts: (4096, 6, 3) float64."""
    pitches, known = all_contexts()
    p = toy_joint().conditionals(pitches, known).flatten(1, 2).exp()
    unknown = (~known).flatten(1)[..., None]
    return (p * unknown) / unknown.sum(1, keepdim=True).clamp(min=1)


def reach(policy: Tensor) -> tuple[Tensor, Tensor]:
    """Contexts and rolls that a policy (4096, 6, 3) reaches from the empty roll.

    Returns:
        Probabilities (4096,) of passing through each context, and (729,) of ending with each roll.
    """
    pitches, known = all_contexts()
    unknown = (~known).flatten(1)
    mass = torch.zeros(len(policy), dtype=torch.float64)
    mass[-1] = 1.0
    for count in range(CELLS, 0, -1):
        now = (unknown.sum(1) == count).nonzero().squeeze(1)
        for cell in range(CELLS):
            rows = now[unknown[now, cell]]
            flow = mass[rows, None] * policy[rows, cell]
            mass.index_add_(0, children(rows, cell).flatten(), flow.flatten())
    full = (unknown.sum(1) == 0).nonzero().squeeze(1)
    distribution = torch.zeros(SIZE, dtype=torch.float64)
    distribution[toy_joint().index(pitches[full])] = mass[full]
    return mass, distribution


def total_variation(one: Tensor, other: Tensor) -> float:
    """Half the sum of absolute differences."""
    return float((one - other).abs().sum() / 2)


def orderless_loss() -> float:
    """The expected loss of orderless NADE with the exact conditionals, by all 63 sets of cells."""
    joint, total = toy_joint(), 0.0
    p = joint.log_p.exp()
    for hidden in subsets():
        count = int(hidden.sum())
        if count == 0:
            continue
        weight = 1 / (CELLS * math.comb(CELLS, count) * count)
        open_ = hidden.expand(SIZE, -1, -1)
        chosen = joint.conditionals(joint.rolls, ~open_).gather(-1, joint.rolls[..., None])
        total -= weight * float((p[:, None, None] * chosen.squeeze(-1).where(open_, 0.0)).sum())
    return total


def subsets() -> list[Tensor]:
    """All 64 sets of cells, (2, 3) bool each."""
    combinations = itertools.product((False, True), repeat=CELLS)
    return [torch.tensor(cells).view(VOICES, FRAMES) for cells in combinations]


def refill_kernel(known: Tensor) -> Tensor:
    """(729, 729): keep the known cells (2, 3), draw all others jointly from their conditionals."""
    joint = toy_joint()
    log_p = joint.conditionals(joint.rolls, known.expand(SIZE, -1, -1)).flatten(1, 2)
    same = torch.nn.functional.one_hot(joint.rolls.flatten(1), PITCHES).double()
    marginals = same.where(known.flatten()[:, None], log_p.exp())
    kernel = marginals[:, 0]
    for cell in range(1, CELLS):
        kernel = (kernel[:, :, None] * marginals[:, cell, None]).flatten(1)
    return kernel


def one_by_one_kernel(known: Tensor) -> Tensor:
    """(729, 729): keep the known cells, draw the others one by one: from p(rest | kept)."""
    joint = toy_joint()
    rolls = joint.rolls
    kept = ((rolls[:, None] == rolls[None]) | ~known).flatten(2).all(2).double()
    weight = kept * joint.log_p.exp()
    return weight / weight.sum(1, keepdim=True)


def gibbs_laws(alphas: tuple[float, ...]) -> dict[float, Tensor]:
    """Stationary distributions (729,) of independent Gibbs sampling with a constant erase rate."""
    kernels = [(int((~known).sum()), refill_kernel(known)) for known in subsets()]
    stationaries = {}
    for alpha in alphas:
        mixture = torch.zeros(SIZE, SIZE, dtype=torch.float64)
        for count, kernel in kernels:
            mixture += alpha**count * (1 - alpha) ** (CELLS - count) * kernel
        stationaries[alpha] = stationary(mixture)
    return stationaries


def stationary(kernel: Tensor) -> Tensor:
    """The stationary distribution (n,) of a Markov kernel (n, n)."""
    matrix = kernel.T - torch.eye(len(kernel), dtype=kernel.dtype)
    matrix[-1] = 1.0
    right = torch.zeros(len(kernel), dtype=kernel.dtype)
    right[-1] = 1.0
    return torch.linalg.solve(matrix, right)


def _soft(q: Tensor, temperature: float, axes: tuple[int, ...]) -> Tensor:
    if temperature == 0:
        return q.amax(axes)
    return temperature * (q / temperature).logsumexp(axes)
