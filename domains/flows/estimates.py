"""What a flow network says about states, looked up by their numbers.

A batch of trajectories meets the same states again and again, most of all the first ones. The
network is therefore asked once for each state, and everything else is a look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from semigradient.domains.flows.losses import inflow
from semigradient.envs.constructions.construction import Construction, Parents, Table, slot
from semigradient.nets.flow_network import FlowOutputs
from semigradient.training import transfers

Network = Callable[[Tensor], FlowOutputs]
_ILLEGAL = -1e30  # finite: rows without any legal action have gradients of zero and not NaN


class Estimates:
    """Outputs of a network at u states.

    Args:
        rules: of the construction.
        network: features → outputs.
        states: (u,) each once and increasing, in any order and number if of a table; None for
            all of a table's.
        backward: "uniform", "learned" or "tree" (every state is taken to have one parent).

    Attributes:
        log_edges: (u, A) log flows of a flow-matching network; logits of a policy otherwise.
    """

    def __init__(
        self, rules: Construction, network: Network, states: Tensor | None, backward: str
    ) -> None:
        self.rules, self.states, self.backward = rules, states, backward
        self.everything = (
            torch.arange(rules.size, device=rules.device) if states is None else states
        )
        outputs = network(rules.features(self.everything))
        self.legal = rules.legal(self.everything)
        self.log_edges = outputs.forward.masked_fill(~self.legal, _ILLEGAL)
        self._backward, self._flow = outputs.backward, outputs.flow
        self._places: Tensor | None = None
        if states is not None and isinstance(rules, Table):
            # One look-up instead of a search, where there are not too many states.
            order = torch.arange(len(states), device=rules.device)
            self._places = torch.zeros(rules.size, dtype=torch.int64, device=rules.device)
            self._places.index_copy_(0, states, order)

    @cached_property
    def open(self) -> Tensor:
        """Which states have legal actions: (u,) bool."""
        return ~self.rules.finished(self.everything)

    def rows(self, states: Tensor) -> Tensor:
        """Where states of any shape stand."""
        if self.states is None:
            return states
        if self._places is None:
            return torch.searchsorted(self.states, states)
        return _look(self._places, states)

    def log_edges_of(self, states: Tensor, actions: Tensor) -> Tensor:
        """Entries of `log_edges` for edges of any shape."""
        return _pick(self.log_edges, self.rows(states), actions)

    @cached_property
    def log_policy(self) -> Tensor:
        """Log P_F (u, A)."""
        return self.log_edges.log_softmax(1)

    def log_forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Log P_F of edges of any shape."""
        return _pick(self.log_policy, self.rows(states), actions)

    def log_stop(self, states: Tensor) -> Tensor:
        """Log P_F(stop | s) of states of any shape; 0 where an object is complete."""
        rows = self.rows(states)
        return torch.where(_look(self.open, rows), _look(self.log_policy[:, -1], rows), 0.0)

    def log_flow(self, states: Tensor) -> Tensor:
        """The output for the log flow of states of any shape."""
        assert self._flow is not None, "this network has no state flows"
        return _look(self._flow, self.rows(states))

    def log_parents(self, states: Tensor, parents: Parents) -> Tensor:
        """Log P_B (m, K) of the edges into states (m,)."""
        if self.backward == "learned":
            assert self._backward is not None, "this network has no backward policy"
            logits = self._backward.index_select(0, self.rows(states))
            return logits.masked_fill(~parents.real, _ILLEGAL).log_softmax(1)
        edges = parents.real.sum(1, keepdim=True).clamp(min=1)
        return -edges.to(self.log_edges.dtype).log().expand(parents.real.shape)

    def log_backward(self, states: Tensor, actions: Tensor, children: Tensor) -> Tensor:
        """Log P_B of edges (m,) that lead from `states` by `actions` to `children`; 0 for stop."""
        stop = actions == self.rules.actions - 1
        if self.backward == "tree":
            return torch.zeros(len(states), dtype=self.log_edges.dtype, device=states.device)
        if self.backward == "uniform":
            edges = self.rules.edges_into(self.everything).clamp(min=1)
            log_each = -edges.to(self.log_edges.dtype).log()
            return torch.where(stop, 0.0, _look(log_each, self.rows(children)))
        parents = self.rules.parents(children)
        found = self.log_parents(children, parents)
        taken = slot(parents, states, actions)
        return torch.where(stop, 0.0, found.gather(1, taken[:, None]).squeeze(1))

    def log_inflow(self, children: Tensor) -> Tensor:
        """Log Σ of the flows along all edges into states of any shape."""
        repeats = _may_repeat(self.rules)
        once = children.reshape(-1) if repeats else distinct(self.rules, children)
        parents = self.rules.parents(once)
        rows = self.rows(torch.where(parents.real, parents.state, self.rules.root))
        found = inflow(_pick(self.log_edges, rows, parents.action), parents.real)
        if repeats:
            return found.view(children.shape)
        return _look(found, torch.searchsorted(once, children))

    def log_outflow(self, states: Tensor) -> Tensor:
        """Log Σ of the flows out of states of any shape, stop included."""
        return _look(self.log_edges.logsumexp(1), self.rows(states))


def distinct(rules: Construction, states: Tensor) -> Tensor:
    """States of any shape, each once, increasing: (u,)."""
    if not isinstance(rules, Table):
        return states.unique()
    # Marking them all is faster than sorting where there are not many states.
    met = torch.zeros(rules.size, dtype=torch.bool, device=states.device)
    return met.index_fill_(0, states.reshape(-1), True).nonzero().squeeze(1)


def asked_about(rules: Construction, states: Tensor, and_parents: bool) -> Tensor | None:
    """What `Estimates` needs to know of states of any shape, and perhaps of all their parents.

    Each once; with repetitions (or None, all of a table) where the host would have to wait to hear
    how many there are.
    """
    if not _may_repeat(rules):
        return with_parents(rules, states) if and_parents else distinct(rules, states)
    flat = states.reshape(-1)
    if and_parents:
        parents = rules.parents(flat)
        near = torch.where(parents.real, parents.state, rules.root)
        flat = torch.cat([flat, near.reshape(-1)])
    return flat if len(flat) < rules.size else None


def _may_repeat(rules: Construction) -> bool:
    """Whether to ask about a state again is better than to find out that it has been asked about.

    Only tables say where a state stands that occurs several times.
    """
    return isinstance(rules, Table) and not transfers.reading_is_free(rules.device)


def with_parents(rules: Construction, states: Tensor) -> Tensor:
    """States of any shape and all their parents, each once, increasing: (u,)."""
    once = distinct(rules, states)
    parents = rules.parents(once)
    return distinct(rules, torch.cat([once, parents.state[parents.real]]))


@torch.no_grad()
def policy_table(table: Table, network: Network, block: int = 8192) -> Tensor:
    """Log P_F (S, A) of every state of a table; rows without legal actions are not looked at."""
    found = torch.zeros(table.size, table.actions, device=table.device)
    for states in table.interior.split(block):
        outputs = network(table.features(states)).forward
        masked = outputs.masked_fill(~table.legal(states), _ILLEGAL)
        found[states] = masked.log_softmax(1).to(found.dtype)
    return found


def _look(values: Tensor, rows: Tensor) -> Tensor:
    """values[rows] for rows of any shape; index_select has the cheaper gradient."""
    return values.index_select(0, rows.reshape(-1)).view(rows.shape)


def _pick(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """values[rows, columns] of any shape."""
    flat = (rows * values.shape[1] + columns).reshape(-1)
    return values.reshape(-1).index_select(0, flat).view(rows.shape)
