"""Generative flow networks (Bengio et al. 2021; E. Bengio 2022, chapter 5).

Build objects x with probability R(x)^β / Z. The steps of all constructions are a graph; a network
learns flows through it that start with Z, drain R(x)^β at every x, and lose nothing in between.
Following edges in proportion to their flow then samples as wanted.

What is learned and from which condition is `--loss`: the flows themselves (fm), or a policy with
state flows (db, subtb), with log Z alone (tb) or with neither (modified-db, log-variance). All may
learn from any constructions, so exploration needs no correction: log-probabilities are always
computed anew from what was built.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semigradient.agents.gflownet.batches import Batches
from semigradient.agents.gflownet.config import Config
from semigradient.agents.gflownet.molecules import record_of
from semigradient.agents.gflownet.networks import make_network, require_a_match
from semigradient.domains.flows.constructions import construction_of, log_reward_along, written_down
from semigradient.domains.flows.estimates import Estimates, asked_about, policy_table
from semigradient.domains.flows.objectives import Batch, Penalty, Root
from semigradient.domains.flows.sample_counts import SampleCounts, distance
from semigradient.domains.flows.samples import Samples, draw
from semigradient.domains.flows.table_sampler import Known
from semigradient.domains.flows.trajectories import Trajectories, join
from semigradient.envs.constructions.construction import Table
from semigradient.errors import require
from semigradient.nets.flow_network import ConditionalFlowNetwork
from semigradient.training import parts
from semigradient.training.agent import (
    AgentContext,
    Count,
    LearningRate,
    Policy,
    generator,
)
from semigradient.training.gradients import clip_gradients
from semigradient.training.targets import move_towards

__all__ = ["Config", "GFlowNet"]

_DENSE = 4  # states per trajectory up to which the network is asked about all of a table


class GFlowNet:
    """Builds objects with the current policy and takes one gradient step, by turns."""

    STATE = (
        "known",
        "network",
        "log_z",
        "target",
        "optimizer",
        "generator",
        "visits",
        "batches",
        "record",
        "progress",
        "updates",
        "_exact",
    )
    POLICY = ("network", "log_z")

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        require(not setup.compile, "compile=True: batches of constructions have no fixed shape")
        self.source = construction_of(setup, "gflownet")
        self.rules = written_down(self.source, config.exact_parents)
        self.table = self.rules if isinstance(self.rules, Table) else None
        require_a_match(config, self.rules)
        self.network = make_network(self.rules, config).to(setup.device)
        self.log_z = nn.Parameter(torch.tensor(config.log_z, device=setup.device))
        self.target = copy.deepcopy(self.network) if config.target != "none" else None
        self.optimizer = self._make_optimizer()
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.generator = generator(setup.seed, 1, setup.device)
        self.batches = Batches(self.rules, config, self.network, self.generator)
        self.visits = SampleCounts(self.rules, config.window, config.reward_exponent)
        self.record = record_of(self.rules, config, setup.seed)
        self.progress, self.updates = Count(), 0
        self._exact: dict[str, float] = {}
        few = self.table is not None and self.table.size <= _DENSE * config.batch_size
        self._dense = few
        preference = getattr(self.source, "preference", 0.5)
        self._usual = preference if config.preferences else config.reward_exponent
        self._take(self._usual)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """Build a batch, learn from it and from what is remembered."""
        config, before = self.config, self.progress.steps
        self.rules.evict_unused(self._referenced)
        rate = self.learning_rate.set(self.progress.steps, self.setup.total_steps)
        if self._conditional is not None:
            self._take(self._drawn_condition())
        whole = self._estimates(None) if self._dense else None
        if config.offline == "none":
            with self.timers("act"):
                progress = (self.progress.steps, self.setup.total_steps)
                fresh, known = self.batches.build(self.look, whole, progress)
                self._note(fresh, fresh.length)
                fresh, searched = self._searched(fresh)
                mixed = self.batches.mix(fresh, self.look)
            with self.timers("learn"):
                alone = mixed.paths is fresh and not config.local_search
                at = self._recalled(known) if alone else None
                scalars, penalty = self._learn(mixed.paths, whole or at)
            self.batches.remember(mixed, penalty.by_trajectory())
            scalars = {**scalars, **searched}
        else:
            paths = self.batches.from_fixed_set()
            self.progress.steps += int(paths.length.sum())
            with self.timers("learn"):
                scalars, _ = self._learn(paths, whole)
        self.updates += 1
        if config.exact_every and (self.updates - 1) % config.exact_every == 0:
            self._exact = self._measured()
        # At the end of a run the figures are fresh; a run that is extended goes on without them.
        ends = config.exact_every and before < self.setup.run_steps <= self.progress.steps
        exact = self._measured() if ends else self._exact
        return {**scalars, "lr": rate, **exact, **self._counters()}

    def _measured(self) -> dict[str, float]:
        """The exact figures, and frequencies: over all conditions these have no target."""
        with self.timers("exact"):
            met = {} if self._conditional is not None else self.visits.metrics()
            return {**self.evaluate(), **met}

    def _searched(self, fresh: Trajectories) -> tuple[Trajectories, dict[str, Tensor]]:
        """What was built and, after local search, where that ended; the share of accepted steps."""
        steps = self.batches.search(fresh, self.look)
        if not steps:
            return fresh, {}
        for step in steps:
            self._note(step.proposed, step.built)
        accepted = torch.stack([step.accepted.float() for step in steps]).mean()
        return join([fresh, steps[-1].paths], self.rules.actions - 1), {"accepted": accepted}

    def _counters(self) -> dict[str, float]:
        """What was met and found so far, at every iteration."""
        found = {} if self.record is None else self.record.discoveries.counters()
        return {**self.visits.counters(), **found}

    @property
    def reward_exponent(self) -> float:
        """β of the present batch, or evaluation."""
        return self.batches.exponent

    @contextmanager
    def at(self, condition: float | None) -> Iterator[None]:
        """The agent under a condition that it has learned: β, or the weight of an objective.

        None: the one of evaluation, `reward_exponent` or the environment's `preference`.
        """
        before = self.condition
        wanted = self._usual if condition is None else condition
        low, high = self.config.condition_range or (self._usual, self._usual)
        accepted = f"accepted: {low:g}" + (f" to {high:g}" if high > low else "")
        require(low <= wanted <= high, f"condition={wanted:g}: is not learned; {accepted}")
        self._take(wanted)
        try:
            yield
        finally:
            self._take(before)

    @property
    def _conditional(self) -> ConditionalFlowNetwork | None:
        return self.network if isinstance(self.network, ConditionalFlowNetwork) else None

    def _take(self, condition: float) -> None:
        """Set the condition, for rewards and for networks that see it."""
        self.condition = condition
        if self.config.preferences:
            for rules in (self.rules, self.source):
                rules.prefer(condition)
        else:
            self.batches.exponent = condition
        for network in (self.network, self.target):
            if isinstance(network, ConditionalFlowNetwork):
                network.condition = condition

    def _drawn_condition(self) -> float:
        """That of the next batch, uniform."""
        assert self.config.condition_range is not None, "there is no condition"
        low, high = self.config.condition_range
        draw = torch.rand((), generator=self.generator, device=self.setup.device)
        return low + (high - low) * float(draw)

    def _log_z(self) -> Tensor:
        """The parameter log Z, under the present condition."""
        network = self._conditional
        return self.log_z if network is None else network.log_z(self.log_z)

    def evaluate(self) -> dict[str, float]:
        """How far the policy's own distribution over objects is from R^β / Z; exact on a table.

        Of a conditional network at the ends and in the middle of the range of conditions: means,
        and the total variation at each. Of molecules: what was found, and how log P_T goes with
        β log R on random ones.
        """
        if self._conditional is None or self.table is None:
            return self._evaluate()
        low, high = self._conditional.low, self._conditional.high
        parts = {}
        for condition in (low, (low + high) / 2, high):
            with self.at(condition):
                parts[condition] = self._evaluate()
        names = parts[low].keys() - {"log_z"}
        means = {name: sum(part[name] for part in parts.values()) / 3 for name in sorted(names)}
        return {**means, **{f"tv_{condition:g}": part["tv"] for condition, part in parts.items()}}

    def _evaluate(self) -> dict[str, float]:
        """Under the present condition."""
        if self.record is not None:
            says = self.config.objective.log_z is not None
            log_z = {"log_z": float(self.log_z_estimate())} if says else {}
            return {**self.record.metrics(self.look), **log_z}
        if self.table is None:
            return {}
        _, found = self.table.reach(policy_table(self.table, self.network))
        conditional = self._conditional is not None
        truth = self.table.log_partition(self.reward_exponent)
        wanted = self.table.distribution(self.reward_exponent) if conditional else None
        named = distance(found, self.visits.target if wanted is None else wanted, self.table)
        estimate = float(self.log_z_estimate())
        if math.isnan(estimate):
            return named
        return {**named, "log_z": estimate, "log_z_error": abs(estimate - truth)}

    @torch.no_grad()
    def log_z_estimate(self) -> Tensor:
        """What the network says log Z is, 0-dim; NaN for an objective that does not say."""
        says = self.config.objective.log_z
        if says is None:
            return torch.tensor(math.nan)
        rules, exponent = self.rules, self.reward_exponent
        root = torch.tensor([rules.root], device=rules.device)
        log_reward = lambda: log_reward_along(rules, root, exponent)[0]  # noqa: E731
        return says(Root(self.look(root), root[0], self._log_z(), log_reward))

    def policy(self, deterministic: bool = True) -> Policy:
        """The most probable action, or a sample of P_F from a generator of its own."""
        own = generator(self.setup.seed, 3, self.setup.device)

        @torch.no_grad()
        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            with self.at(None):
                logits = self.network(torch.from_numpy(obs).to(self.setup.device)).forward
            if mask is not None:
                legal = torch.from_numpy(mask).to(self.setup.device)
                logits = logits.masked_fill(~legal, -1e30)
            if deterministic:
                return logits.argmax(1).cpu().numpy()
            return torch.multinomial(logits.softmax(1), 1, generator=own)[:, 0].cpu().numpy()

        return act

    def sample(
        self, count: int = 1000, seed: int = 0, paths: int = 0, condition: float | None = None
    ) -> Samples:
        """Objects of the policy, with their probabilities; see `domains.flows.samples.draw`.

        `condition` is the β, or the weight of the second objective, of a conditional network.
        """
        with self.at(condition):
            return draw(self, count, seed, paths)

    def load_policy_state(self, saved: dict[str, Any]) -> None:
        """Load what was saved; runs from before log Z was part of it have none."""
        parts.restore(self, [name for name in self.POLICY if name in saved], saved, policy=True)

    def pictures(self) -> dict[str, np.ndarray]:
        """Images (H, W, 3) of what was found, by name."""
        return {} if self.record is None else {"best": self.record.discoveries.picture()}

    def _learn(
        self, paths: Trajectories, at: Estimates | None
    ) -> tuple[dict[str, float | Tensor], Penalty]:
        """One gradient step, with estimates `at` all states needed if those are there already."""
        config = self.config
        if at is None:
            at = self._estimates(self._needed(paths))
        batch = Batch(paths, at, self._reward_at(at, paths), self._log_z(), self._frozen(at))
        penalty = config.objective(batch, config.rules)
        loss = penalty.loss(config.rules)
        self.optimizer.zero_grad()
        loss.backward()
        if config.max_grad_norm > 0:
            clip_gradients(list(self.network.parameters()), config.max_grad_norm)
        self.optimizer.step()
        self._move_target()
        own = {} if penalty.log_z is None else {"log_z": penalty.log_z}
        return {"loss": loss.detach(), **penalty.parts(), **own}, penalty

    def _needed(self, paths: Trajectories) -> Tensor | None:
        """States that the objective looks at: (u,); None: all of a table."""
        return asked_about(self.rules, paths.state, self.config.asks_parents)

    def _recalled(self, known: Known | None) -> Estimates | None:
        """Estimates from what was computed to build a batch, if that is all that is needed."""
        if known is None or (self.config.asks_parents and not known.has_parents):
            return None
        network = partial(self.network, known=known.values)
        return Estimates(self.rules, network, known.states, self.config.backward)

    def _reward_at(self, at: Estimates, paths: Trajectories) -> Tensor:
        """Log R^β of the states of `at` (u,) that the objective asks for, 0 for others."""
        rules, exponent, kind = self.rules, self.reward_exponent, at.log_edges.dtype
        if self.config.objective.rewards_all_states:
            return log_reward_along(rules, at.everything, exponent).to(kind)
        if self.table is not None:
            return (exponent * rules.log_reward(at.everything)).to(kind)
        # A reward may be dear: only objects are asked for theirs.
        ends = paths.objects
        ended = (paths.action[-1] == rules.actions - 1) | rules.finished(ends)
        objects = ends[ended].unique()
        reward = torch.zeros(len(at.everything), dtype=kind, device=ends.device)
        reward[at.rows(objects)] = (exponent * rules.log_reward(objects)).to(kind)
        return reward

    def _referenced(self) -> Tensor:
        """States that must not be forgotten."""
        recorded = [] if self.record is None else [self.record.recent, self.record.test]
        return torch.cat([self.batches.referenced(), *recorded]).unique()

    @property
    def known(self) -> dict[str, Tensor]:
        """What remembered states stand for, where their numbers alone do not say it."""
        return self.rules.export_states(self._referenced())

    @known.setter
    def known(self, saved: dict[str, Tensor]) -> None:
        self.rules.import_states(saved)

    def _estimates(self, states: Tensor | None) -> Estimates:
        return Estimates(self.rules, self.network, states, self.config.backward)

    @torch.no_grad()
    def look(self, states: Tensor) -> Estimates:
        """Estimates, without gradient, at increasing states (u,)."""
        return self._estimates(states)

    @torch.no_grad()
    def _frozen(self, at: Estimates) -> Estimates | None:
        """What the target network says at the same states."""
        if self.target is None:
            return None
        return Estimates(self.rules, self.target, at.states, self.config.backward)

    @torch.no_grad()
    def _move_target(self) -> None:
        """An average moves a little at each step, a copy all the way now and then."""
        if self.target is None:
            return
        if self.config.target == "ema":
            move_towards(self.target, self.network, self.config.target_rate)
        elif (self.updates + 1) % self.config.target_period == 0:
            pairs = zip(self.target.parameters(), self.network.parameters(), strict=True)
            for old, new in pairs:
                old.copy_(new)

    def _note(self, fresh: Trajectories, edges: Tensor) -> None:
        """Count what was built, with so many edges (B,) each."""
        self.progress.steps += int(edges.sum())
        objects = fresh.objects
        self.visits.add(objects)
        if self.record is not None:
            self.record.add(objects)
        reward = self.rules.log_reward(objects).exp()
        self.progress.note(reward, fresh.length)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        values = [] if self._conditional is None else [self._conditional.log_z_values]
        others = [p for p in self.network.parameters() if all(p is not each for each in values)]
        groups: list[dict[str, Any]] = [{"params": others}]
        if self.config.objective.learns_log_z:
            groups.append({"params": [self.log_z, *values], "lr": self.config.lr_log_z})
        return self.setup.make_optimizer(groups)
