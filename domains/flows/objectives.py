"""The objectives of flow networks by name: from a batch and a network's estimates to penalties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.losses import (
    REGRESSIONS,
    detailed_balance,
    flow_matching,
    log_variance,
    modified_detailed_balance,
    reduce_edges,
    sub_trajectory_balance,
    trajectory_balance,
)
from semigradient.domains.flows.trajectories import Trajectories


@dataclass(frozen=True)
class Rules:
    """What an objective needs besides the estimates.

    Attributes:
        lambda_: λ of sub-trajectory balance.
        log_epsilon: log ε of flow matching, -inf for none.
        regression: a key of `domains.flows.losses.REGRESSIONS`.
        reduction: of objectives on edges; see `domains.flows.losses.reduce_edges`.
        leaf_weight: of the balanced reduction.
    """

    lambda_: float = 0.9
    log_epsilon: float = -torch.inf
    regression: str = "squared"
    reduction: str = "mean_transitions"
    leaf_weight: float = 10.0


@dataclass
class Batch:
    """Trajectories with what the network and the reward say about them.

    Attributes:
        paths: the trajectories.
        at: the network's estimates at all their states.
        reward_at: log R^β of all states of `at` (u,).
        log_z: the parameter log Z, where there is one.
        frozen: the estimates of a target network.
    """

    paths: Trajectories
    at: Estimates
    reward_at: Tensor
    log_z: Tensor
    frozen: Estimates | None = None

    @cached_property
    def rows(self) -> Tensor:
        """Where the states stand among the estimates: (T+1, B)."""
        return self.at.rows(self.paths.state)

    @cached_property
    def valid(self) -> Tensor:
        """Which rows are edges: (T, B)."""
        return self.paths.valid

    @cached_property
    def stop(self) -> Tensor:
        """Which edges stop: (T, B)."""
        return (self.paths.action == self.at.rules.actions - 1) & self.valid

    @cached_property
    def final(self) -> Tensor:
        """Which edges are the last ones of their trajectory, and end in an object: (T, B)."""
        complete = ~self.at.open[self.rows[1:]]
        return (self.stop | complete) & self.valid

    @property
    def log_reward(self) -> Tensor:
        """Log R^β of the objects: (B,)."""
        return self.reward_at[self.rows[-1]]

    def log_forward(self) -> Tensor:
        """(T, B)."""
        return self.at.log_forward(self.paths.state[:-1], self.paths.action)

    def log_backward(self) -> Tensor:
        """(T, B)."""
        states, actions = self.paths.state[:-1].flatten(), self.paths.action.flatten()
        children = self.paths.state[1:].flatten()
        return self.at.log_backward(states, actions, children).view(self.paths.action.shape)

    def log_flow(self, looking_forward: bool) -> Tensor:
        """Log F (T+1, B), with log R^β of the object behind the last edge.

        Looking forward, the network gives log F(s) - log R(s), for rewards of any state.
        """
        rows = self.rows
        flow = self.at.log_flow(self.paths.state)
        if looking_forward:
            flow = flow + self.reward_at[rows]
        ends = torch.zeros_like(flow, dtype=torch.bool)
        ends[1:] = self.final
        return torch.where(ends, self.reward_at[rows], flow)


class Penalty(NamedTuple):
    """What each edge (T, B) costs, or with `valid` None each trajectory (B,)."""

    value: Tensor
    valid: Tensor | None
    final: Tensor | None
    log_z: Tensor | None = None  # 0-dim, the batch's own estimate, of an objective that makes one

    def loss(self, rules: Rules) -> Tensor:
        """The batch's loss, 0-dim."""
        if self.valid is None or self.final is None:
            return self.value.mean()
        return reduce_edges(self.value, self.valid, self.final, rules.reduction, rules.leaf_weight)

    def parts(self) -> dict[str, Tensor]:
        """Mean over edges that end a trajectory and over others, 0-dim; none of trajectories."""
        if self.valid is None or self.final is None:
            return {}
        value, last = self.value.detach(), self.final & self.valid
        inner = self.valid & ~self.final
        pairs = (("leaf_loss", last), ("inner_loss", inner))
        return {name: (value * part).sum() / part.sum().clamp(min=1) for name, part in pairs}

    def by_trajectory(self) -> Tensor:
        """(B,) detached: sums over edges."""
        value = self.value.detach()
        return value if self.valid is None else torch.where(self.valid, value, 0.0).sum(0)


def fm(batch: Batch, rules: Rules) -> Penalty:
    """Flow matching at every state that is reached, and at every sink."""
    paths, at = batch.paths, batch.at
    children, stop, final = paths.state[1:], batch.stop, batch.final
    own = at.log_edges_of(paths.state[:-1], paths.action)
    if at.backward == "tree":
        log_in = own
    else:
        log_in = torch.where(stop, own, at.log_inflow(children))
    ahead = at if batch.frozen is None else batch.frozen
    log_out = torch.where(final, batch.reward_at[batch.rows[1:]], ahead.log_outflow(children))
    residual = flow_matching(log_in, log_out, rules.log_epsilon)
    return _of_edges(residual, batch.valid, final, rules)


def db(batch: Batch, rules: Rules) -> Penalty:
    """Detailed balance."""
    return _detailed(batch, rules, False)


def fl_db(batch: Batch, rules: Rules) -> Penalty:
    """Forward-looking detailed balance (Pan et al. 2023)."""
    return _detailed(batch, rules, True)


def modified_db(batch: Batch, rules: Rules) -> Penalty:
    """Detailed balance where every state may stop."""
    paths, at = batch.paths, batch.at
    reward = batch.reward_at[batch.rows]
    residual = modified_detailed_balance(
        reward, batch.log_forward(), batch.log_backward(), at.log_stop(paths.state)
    )
    return _of_edges(residual, batch.valid & ~batch.stop, batch.final, rules)


def tb(batch: Batch, rules: Rules) -> Penalty:
    """Trajectory balance."""
    residual = trajectory_balance(
        batch.log_z, batch.log_forward(), batch.log_backward(), batch.log_reward, batch.valid
    )
    return Penalty(REGRESSIONS[rules.regression](residual), None, None)


def log_var(batch: Batch, rules: Rules) -> Penalty:
    """Trajectory balance without a parameter for log Z."""
    parts = (batch.log_forward(), batch.log_backward(), batch.log_reward, batch.valid)
    residual = log_variance(*parts)
    nothing = torch.zeros((), dtype=residual.dtype, device=residual.device)
    log_z = -trajectory_balance(nothing, *parts).mean().detach()
    return Penalty(REGRESSIONS[rules.regression](residual), None, None, log_z)


def subtb(batch: Batch, rules: Rules) -> Penalty:
    """Sub-trajectory balance."""
    return _pieces(batch, rules, False)


def fl_subtb(batch: Batch, rules: Rules) -> Penalty:
    """Forward-looking sub-trajectory balance."""
    return _pieces(batch, rules, True)


class Root(NamedTuple):
    """What says log Z, the flow through the root.

    Attributes:
        at: estimates at the root.
        state: its number, 0-dim.
        log_z: the parameter log Z.
        log_reward: gives log R^β of the root, 0-dim.
    """

    at: Estimates
    state: Tensor
    log_z: Tensor
    log_reward: Callable[[], Tensor]


@dataclass(frozen=True)
class Objective:
    """A condition that flows fulfil, and what it asks for.

    Attributes:
        penalty: from a batch to what its edges or trajectories cost.
        log_z: what the network says log Z is (0-dim); None: it does not say.
        on_edges: judges single edges, and so may learn from edges out of context.
        has_state_flows: estimates the flow of every state.
        has_target: may learn towards a target network.
        has_backward_policy: the backward policy may be learned.
        rewards_all_states: asks for the reward of every state, not of objects alone.
        learns_log_z: log Z is a parameter.
        stops_everywhere: needs every state to allow stopping.
    """

    penalty: Callable[[Batch, Rules], Penalty]
    log_z: Callable[[Root], Tensor] | None
    on_edges: bool = False
    has_state_flows: bool = False
    has_target: bool = False
    has_backward_policy: bool = True
    rewards_all_states: bool = False
    learns_log_z: bool = False
    stops_everywhere: bool = False

    def __call__(self, batch: Batch, rules: Rules) -> Penalty:
        """What the edges or trajectories of a batch cost."""
        return self.penalty(batch, rules)


def _outflow(root: Root) -> Tensor:
    return root.at.log_outflow(root.state)


def _state_flow(root: Root) -> Tensor:
    return root.at.log_flow(root.state)


def _forward_looking_flow(root: Root) -> Tensor:
    return root.at.log_flow(root.state) + root.log_reward()


def _flow_of_stopping(root: Root) -> Tensor:
    return root.log_reward() - root.at.log_stop(root.state)


OBJECTIVES = {
    "fm": Objective(fm, _outflow, on_edges=True, has_target=True, has_backward_policy=False),
    "db": Objective(db, _state_flow, on_edges=True, has_state_flows=True, has_target=True),
    "tb": Objective(tb, lambda root: root.log_z.detach(), learns_log_z=True),
    "subtb": Objective(subtb, _state_flow, has_state_flows=True),
    "fl-db": Objective(
        fl_db,
        _forward_looking_flow,
        on_edges=True,
        has_state_flows=True,
        has_target=True,
        rewards_all_states=True,
    ),
    "fl-subtb": Objective(
        fl_subtb, _forward_looking_flow, has_state_flows=True, rewards_all_states=True
    ),
    "modified-db": Objective(
        modified_db,
        _flow_of_stopping,
        on_edges=True,
        rewards_all_states=True,
        stops_everywhere=True,
    ),
    "log-variance": Objective(log_var, None),
}


def _detailed(batch: Batch, rules: Rules, looking_forward: bool) -> Penalty:
    flow, reached = batch.log_flow(looking_forward), None
    if batch.frozen is not None:
        target = Batch(batch.paths, batch.frozen, batch.reward_at, batch.log_z)
        reached = target.log_flow(looking_forward)[1:]
    residual = detailed_balance(flow, batch.log_forward(), batch.log_backward(), reached)
    return _of_edges(residual, batch.valid, batch.final, rules)


def _pieces(batch: Batch, rules: Rules, looking_forward: bool) -> Penalty:
    value = sub_trajectory_balance(
        batch.log_flow(looking_forward),
        batch.log_forward(),
        batch.log_backward(),
        batch.paths.length,
        rules.lambda_,
        REGRESSIONS[rules.regression],
    )
    return Penalty(value, None, None)


def _of_edges(residual: Tensor, valid: Tensor, final: Tensor, rules: Rules) -> Penalty:
    clean = torch.where(valid, residual, 0.0)
    return Penalty(REGRESSIONS[rules.regression](clean), valid, final)
