"""Objects drawn from a trained flow network, with what it says about them.

    python -m semigradient.domains.flows runs/<gflownet run> --samples 1000

draws, writes a table and prints this; from Python, `semigradient.load(run).sample(1000)`.

The probability of an object, all orders of building summed, is exact where states can be
enumerated, and where an object has few ancestors (a molecule of eight blocks at most 2⁸). Elsewhere
it is an importance estimate from K constructions walked back from the object,

    log P(x) ≈ log 1/K Σ_k P_F(τ_k) / P_B(τ_k | x),    τ_k ~ P_B(· | x),

which is named `log_prob_estimate` and errs downwards on average.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from semigradient.domains.flows.bounds import exact_bounds, log_ratios, sampled_bounds
from semigradient.domains.flows.estimates import Estimates, policy_table
from semigradient.domains.flows.sample_counts import distance
from semigradient.domains.flows.terminal import few_ancestors, log_terminal
from semigradient.domains.flows.trajectories import (
    Trajectories,
    backward,
    forward,
    join,
    running_sum,
    uniform_draws,
)
from semigradient.envs.constructions.construction import Construction, Parents, Table
from semigradient.errors import UserError, require
from semigradient.training.agent import generator

TOP = (10, 100)
_BLOCK, _AT_ONCE, _ANCESTORS = 256, 16, 20_000


class FlowAgent(Protocol):
    """What draws: an agent that has learned flows, such as `agents.gflownet.gflownet.GFlowNet`.

    Attributes:
        rules: of the construction, a table where it can be one.
        source: the rules as the environment has them, which know what objects are called.
        network: features → outputs.
    """

    rules: Construction
    source: Construction
    network: Any

    @property
    def reward_exponent(self) -> float:
        """β."""
        ...

    def look(self, states: Tensor) -> Estimates:
        """Estimates, without gradient, at increasing states (u,)."""
        ...

    def log_z_estimate(self) -> Tensor:
        """What the network says log Z is, 0-dim; NaN where it does not say."""
        ...


@dataclass(frozen=True)
class Samples:
    """n objects drawn from a policy.

    Attributes:
        states: (n,) their numbers.
        objects: what people call them: SMILES, cells, sequences.
        score: (n,) float64, what they are worth on the environment's own scale.
        log_reward: (n,) float64, log R^β.
        log_prob: (n,) float64, log P_F of each object.
        exact: whether that is exact, and no importance estimate.
        figures: by name: `distinct`, `top_k`, `diversity` (mean distance within the 100 best
            distinct objects), modes; `log_z_network`, where the network says it, `elbo`,
            `log_z` and `eubo`; on a table these three are exact and so is `tv`.
        enumerated: whether states can be enumerated, and `figures` are exact.
    """

    states: Tensor
    objects: list[str]
    score: Tensor
    log_reward: Tensor
    log_prob: Tensor
    exact: bool
    figures: dict[str, float]
    enumerated: bool

    def write(self, path: str | Path) -> None:
        """Write one line per object: object, score, log_reward, log_prob (or its estimate)."""
        name = "log_prob" if self.exact else "log_prob_estimate"
        columns = (each.tolist() for each in (self.score, self.log_reward, self.log_prob))
        try:
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["object", "score", "log_reward", name])
                writer.writerows(zip(self.objects, *columns, strict=True))
        except OSError as problem:
            raise UserError(f"--out {str(path)!r}: {problem.strerror}") from None


@torch.no_grad()
def draw(agent: FlowAgent, count: int, seed: int = 0, paths: int = 0) -> Samples:
    """Draw objects from the policy, without exploration.

    Args:
        agent: a trained one.
        count: n.
        seed: decides the draws.
        paths: K of the importance estimate of probabilities; 0 computes exact ones where that is
            feasible, and takes 32 elsewhere.
    """
    require(count >= 1, f"samples={count}: must be ≥ 1")
    require(seed >= 0, f"seed={seed}: must be ≥ 0")
    require(paths >= 0, f"paths={paths}: must be ≥ 0")
    rules, look = agent.rules, _look(agent)
    random = generator(seed, 13, rules.device)
    table = rules if isinstance(rules, Table) else None
    log_policy = None if table is None else policy_table(table, agent.network)
    built = _build(rules, look, log_policy, count, random)
    objects = built.objects
    names, score = agent.source.names(objects), agent.source.score(objects)
    figures = _figures(agent.source, objects, names, score)
    figures |= _flow_figures(agent, built, log_policy)
    exact = paths == 0 and (table is not None or _is_exact(rules, objects))
    if not exact:
        log_prob = _estimated(rules, look, objects, paths or 32, random)
    elif table is not None and log_policy is not None:
        log_prob = table.reach(log_policy)[1][objects].log()
    else:
        log_prob = torch.cat([log_terminal(rules, look, p) for p in objects.split(_AT_ONCE)])
    return Samples(
        objects.cpu(),
        names,
        score.double().cpu(),
        (agent.reward_exponent * rules.log_reward(objects)).cpu(),
        log_prob.cpu(),
        exact,
        figures,
        table is not None,
    )


def _flow_figures(
    agent: FlowAgent, built: Trajectories, log_policy: Tensor | None
) -> dict[str, float]:
    """How far the policy is from R^β / Z, and log Z, exact where there is a table (S, A)."""
    rules, look, exponent = agent.rules, _look(agent), agent.reward_exponent
    said = float(agent.log_z_estimate())
    figures = {} if math.isnan(said) else {"log_z_network": said}
    if isinstance(rules, Table) and log_policy is not None:
        reached, target = rules.reach(log_policy)[1], rules.distribution(exponent)
        figures["tv"] = distance(reached, target, rules)["tv"]
        bounds = exact_bounds(rules, look, log_policy, exponent)
    else:
        log_reward = exponent * rules.log_reward(built.objects)
        bounds = sampled_bounds(log_reward + log_ratios(look, built))
    return {**figures, **bounds._asdict()}


def _look(agent: FlowAgent) -> Callable[[Tensor], Estimates]:
    """The agent's estimates, with a backward policy that sums to one."""

    def look(states: Tensor) -> Estimates:
        at = agent.look(states)
        if at.backward == "tree":
            at.backward = "uniform"
        return at

    return look


def _build(
    rules: Construction,
    look: Callable[[Tensor], Estimates],
    log_policy: Tensor | None,
    count: int,
    random: torch.Generator,
) -> Trajectories:
    """Trajectories of P_F, some at a time."""
    sums = None if log_policy is None else running_sum(log_policy.exp())

    def cumulative(states: Tensor) -> Tensor:
        if sums is not None:
            return sums.index_select(0, states)
        once = states.unique()
        at = look(once)
        return running_sum(at.log_policy.exp()).index_select(0, at.rows(states))

    sizes = [min(_BLOCK, count - start) for start in range(0, count, _BLOCK)]
    parts = [forward(rules, cumulative, uniform_draws(rules, size, random)) for size in sizes]
    return join(parts, rules.actions - 1)


def _is_exact(rules: Construction, objects: Tensor) -> bool:
    """Whether objects have few enough ancestors for exact probabilities."""
    return few_ancestors(rules, objects[:_AT_ONCE], _ANCESTORS)


def _estimated(
    rules: Construction,
    look: Callable[[Tensor], Estimates],
    objects: Tensor,
    count: int,
    random: torch.Generator,
) -> Tensor:
    """Importance estimates of log P_F from `count` constructions walked back from each: (n,)."""

    def log_backward(states: Tensor, parents: Parents) -> Tensor:
        once = states.unique()
        at = look(once)
        return at.log_parents(states, parents)

    found = []
    for part in objects.split(max(1, 4096 // count)):
        paths = backward(rules, part.repeat_interleave(count), random, log_backward)
        log_weight = -log_ratios(look, paths).view(len(part), count)
        found.append(log_weight.logsumexp(1) - math.log(count))
    return torch.cat(found)


def _figures(
    rules: Construction, objects: Tensor, names: list[str], score: Tensor
) -> dict[str, float]:
    """How good and how different the objects (n,) of these names and scores are."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        first.setdefault(name, index)
    rows = torch.tensor(list(first.values()), device=objects.device)
    ranked = rows[score[rows].argsort(descending=True, stable=True)]
    found = {"distinct": float(len(ranked)), "mean_score": float(score.mean())}
    for k in TOP:
        if len(ranked) >= k:
            found[f"top_{k}"] = float(score[ranked[:k]].mean())
    best = objects[ranked[: TOP[-1]]]
    if len(best) > 1:
        found["diversity"] = float(rules.distance(best).sum() / (len(best) * (len(best) - 1)))
    if rules.mode_count:
        modes = rules.modes(objects)
        found["modes"] = float(len(modes[modes >= 0].unique()))
    for threshold in rules.thresholds:
        high = ranked[score[ranked] > threshold]
        found[f"modes_{threshold:g}"] = float(_apart(rules, objects[high]))
    return found


def _apart(rules: Construction, objects: Tensor) -> int:
    """How many objects, in this order, are `rules.apart` from every one before that counts."""
    if not len(objects):
        return 0
    far, kept = rules.distance(objects) > rules.apart, [0]
    for index in range(1, len(objects)):
        if bool(far[index, kept].all()):
            kept.append(index)
    return len(kept)
