"""Batches of constructions: sampled forwards, sampled backwards from objects, and remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semigradient.envs.constructions.construction import Construction, Parents


class Trajectories(NamedTuple):
    """B constructions of at most T edges; the rows that follow a trajectory's end repeat it."""

    state: Tensor  # (T+1, B) int64; the last one of a trajectory is its object
    action: Tensor  # (T, B) int64; stop beyond the end
    length: Tensor  # (B,) int64, edges, stop included

    @property
    def objects(self) -> Tensor:
        """What was built: (B,)."""
        return self.state[-1]

    @property
    def valid(self) -> Tensor:
        """Which rows of `action` are edges: (T, B) bool."""
        steps = torch.arange(len(self.action), device=self.length.device)
        return steps[:, None] < self.length


def forward(
    rules: Construction,
    cumulative: Callable[[Tensor], Tensor],
    draws: Tensor,
    start: Tensor | None = None,
) -> Trajectories:
    """Build B objects.

    Args:
        rules: of the construction.
        cumulative: for states (m,) the running sums (m, A) of the probabilities of actions, 1 at
            the end; asked only for states with legal actions.
        draws: (horizon, B) uniform on [0, 1), which decide the actions.
        start: (B,) states with legal actions to start from; default: the root.
    """
    stop, device, count = rules.actions - 1, rules.device, draws.shape[1]
    alive = torch.arange(count, device=device)
    now = torch.full((count,), rules.root, device=device) if start is None else start
    length, states, actions = torch.zeros_like(now), [now], []
    for draw in draws:
        whole = len(alive) == count
        level = draw if whole else draw.index_select(0, alive)
        taken = choose(cumulative(now), rules.legal(now), level)
        now = rules.child(now, taken)
        # What has ended repeats its object, and stops.
        states.append(now if whole else states[-1].index_copy(0, alive, now))
        blank = torch.full_like(length, stop)
        actions.append(taken if whole else blank.index_copy_(0, alive, taken))
        going = (taken != stop) & ~rules.finished(now)
        length.index_fill_(0, alive, len(actions))
        keep = going.nonzero().squeeze(1)
        if len(keep) == 0:
            break
        if len(keep) < len(alive):
            alive, now = alive.index_select(0, keep), now.index_select(0, keep)
    return Trajectories(torch.stack(states), torch.stack(actions), length)


def uniform_draws(rules: Construction, count: int, generator: torch.Generator) -> Tensor:
    """What `forward` needs for `count` objects: (horizon, count)."""
    return torch.rand((rules.horizon, count), generator=generator, device=rules.device)


def running_sum(probability: Tensor) -> Tensor:
    """Running sums (m, A) of probabilities, or of weights, ending in exactly 1."""
    total = probability.cumsum(1)
    return total / total[:, -1:]


def choose(sums: Tensor, allowed: Tensor, draw: Tensor) -> Tensor:
    """The first allowed column whose running sum exceeds the draw, else the last allowed: (m,).

    Only rounding makes the two differ from where the draw falls: a parallel scan may give sums
    that fall, that rise at a probability of zero, or that stay below the draw. None of this
    makes a forbidden column a choice.

    Args:
        sums: (m, A) running sums of probabilities.
        allowed: (m, A) bool, at least one in each row.
        draw: (m,) uniform on [0, 1).
    """
    column = torch.arange(sums.shape[1], device=sums.device)
    last = torch.where(allowed, column, -1).amax(1, keepdim=True)
    reached = ((sums > draw[:, None]) & allowed) | (column == last)
    return reached.int().argmax(1)


def uniform(rules: Construction) -> Callable[[Tensor], Tensor]:
    """The policy that takes any legal action, for `forward`."""
    return lambda states: running_sum(rules.legal(states).float())


def backward(
    rules: Construction,
    objects: Tensor,
    generator: torch.Generator,
    log_backward: Callable[[Tensor, Parents], Tensor] | None = None,
) -> Trajectories:
    """One construction of each object, found by walking back from it.

    Args:
        rules: of the construction.
        objects: (B,) states to end in.
        generator: what decides the parents.
        log_backward: log P_B (m, K) of the edges into states (m,); default: all alike.
    """
    stop, count = rules.actions - 1, len(objects)
    kept = ~rules.finished(objects)
    state = objects
    # Backwards in time: `states[j]` is j edges before the end (after the stop edge, if any).
    states, actions = [objects], []
    for _ in range(rules.horizon):
        above = state != rules.root
        if not above.any():
            break
        parents = rules.parents(state)
        weight = parents.real.float()
        if log_backward is not None:
            weight = weight * log_backward(state, parents).exp()
        weight[~above, 0] = 1
        draw = torch.rand((count, 1), generator=generator, device=rules.device)
        edge = choose(running_sum(weight), weight > 0, draw[:, 0])[:, None]
        actions.append(torch.where(above, parents.action.gather(1, edge).squeeze(1), stop))
        state = torch.where(above, parents.state.gather(1, edge).squeeze(1), state)
        states.append(state)
    return _turn(torch.stack(states), actions, kept, rules, stop)


def _turn(
    states: Tensor, actions: list[Tensor], kept: Tensor, rules: Construction, stop: int
) -> Trajectories:
    """Forward trajectories of what was walked backwards; `kept` objects end with a stop edge."""
    built = (states != rules.root).sum(0)  # edges without stop; a path never returns to the root
    length = built + kept
    total = int(length.max())
    steps = torch.arange(total + 1, device=built.device)[:, None]
    state = states.gather(0, (built - steps).clamp(min=0))
    taken = torch.stack([*actions, torch.full_like(built, stop)])
    back = built - 1 - steps[:-1]  # the edge out of step t was walked at this turn
    action = torch.where(back >= 0, taken.gather(0, back.clamp(min=0)), stop)
    return Trajectories(state, action, length)


def join(parts: list[Trajectories], stop: int) -> Trajectories:
    """Several batches as one, padded to the longest."""
    longest = max(len(part.action) for part in parts)
    states, actions = [], []
    for part in parts:
        missing = longest - len(part.action)
        states.append(torch.cat([part.state, part.state[-1:].expand(missing, -1)]))
        actions.append(
            torch.cat(
                [
                    part.action,
                    part.action.new_full((missing, 1), stop).expand(-1, part.action.shape[1]),
                ]
            )
        )
    length = torch.cat([part.length for part in parts])
    return Trajectories(torch.cat(states, 1), torch.cat(actions, 1), length)


def edges(batch: Trajectories) -> Trajectories:
    """Every edge of a batch as a trajectory of its own: (2, M), (1, M)."""
    rows = batch.valid.nonzero(as_tuple=True)
    state = torch.stack([batch.state[rows], batch.state[rows[0] + 1, rows[1]]])
    return Trajectories(state, batch.action[rows][None], torch.ones_like(state[0]))


class Memory:
    """A ring of trajectories (or of single edges) with priorities.

    Args:
        capacity: how many are kept; the oldest go first.
        horizon: edges of the longest.
        stop: the action that pads.
        device: where they are kept.
        top: keep the best ones by priority instead of the newest.
    """

    def __init__(
        self, capacity: int, horizon: int, stop: int, device: torch.device, top: bool = False
    ) -> None:
        self.capacity, self.stop, self.top, self.device = capacity, stop, top, device
        self.state = torch.zeros((horizon + 1, capacity), dtype=torch.int64, device=device)
        self.action = torch.full((horizon, capacity), stop, device=device)
        self.length = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.priority = torch.zeros(capacity, dtype=torch.float64, device=device)
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, batch: Trajectories, priority: Tensor) -> None:
        """Keep trajectories with log-priorities (B,)."""
        whole = join([batch, self._blank()], self.stop)
        count = len(batch.length)
        if count > self.capacity:
            rows = torch.arange(count - self.capacity, count, device=self.device)
        else:
            rows = torch.arange(count, device=self.device)
        places = (self.added + torch.arange(len(rows), device=self.device)) % self.capacity
        if self.top and len(self) + len(rows) > self.capacity:
            rows, places = self._better(priority, rows)
        self.state[:, places] = whole.state[:, rows]
        self.action[:, places] = whole.action[:, rows]
        self.length[places] = whole.length[rows]
        self.priority[places] = priority[rows].double()
        self.added += len(rows)

    def sample(
        self, count: int, generator: torch.Generator, sharpness: float
    ) -> tuple[Trajectories, Tensor]:
        """`count` with replacement, P ∝ exp(sharpness · log-priority), and their places."""
        size = len(self)
        if sharpness == 0:
            places = torch.randint(size, (count,), generator=generator, device=self.device)
        else:
            chance = (sharpness * self.priority[:size]).softmax(0)
            places = torch.multinomial(chance, count, replacement=True, generator=generator)
        longest = int(self.length[places].max())
        return Trajectories(
            self.state[: longest + 1, places], self.action[:longest, places], self.length[places]
        ), places

    def everything(self) -> Trajectories:
        """All that is remembered."""
        size = len(self)
        return Trajectories(self.state[:, :size], self.action[:, :size], self.length[:size])

    def highest(self) -> float:
        """The highest log-priority; 0 while there is none."""
        return float(self.priority[: len(self)].max()) if len(self) else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Everything that was added and is still there."""
        size = len(self)
        return {
            "state": self.state[:, :size].clone(),
            "action": self.action[:, :size].clone(),
            "length": self.length[:size].clone(),
            "priority": self.priority[:size].clone(),
            "added": self.added,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` gave."""
        self.added = int(state["added"])
        size = len(self)
        self.state[:, :size] = state["state"]
        self.action[:, :size] = state["action"]
        self.length[:size] = state["length"]
        self.priority[:size] = state["priority"]

    def _better(self, priority: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the new ones replace which of the kept ones, all free places taken first."""
        size = len(self)
        free = torch.full((self.capacity - size,), -torch.inf, device=self.device)
        old = torch.cat([self.priority[:size], free.double()])
        both = torch.cat([old, priority[rows].double()])
        best = both.argsort(descending=True, stable=True)[: self.capacity]
        stays = torch.zeros_like(both, dtype=torch.bool).index_fill_(0, best, True)
        new = rows[stays[self.capacity :]]
        return new, (~stays[: self.capacity]).nonzero().squeeze(1)[: len(new)]

    def _blank(self) -> Trajectories:
        """Nothing, as long as the longest."""
        horizon = len(self.action)
        empty = torch.zeros((horizon + 1, 0), dtype=torch.int64, device=self.device)
        return Trajectories(empty, empty[:horizon], empty[0])
