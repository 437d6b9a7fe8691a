"""Replay memories against plain lists of transitions."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from semigradient.errors import UserError
from semigradient.training import ring
from semigradient.training.observations import StackedFrames, WholeObservations
from semigradient.training.replay import Batch, Replay
from semigradient.training.ring import Ring, check_memory
from semigradient.training.state import Shard

CPU = torch.device("cpu")
VECTOR = spaces.Box(-np.inf, np.inf, (2,), np.float32)
IMAGES = spaces.Box(0, 255, (4, 2, 3), np.uint8)
ACTIONS = spaces.Discrete(5)
GAMMA = 0.5


@dataclass
class Step:
    """One transition of one environment, as it happened."""

    obs: np.ndarray
    action: int
    reward: float
    terminated: bool
    truncated: bool
    next_obs: np.ndarray
    next_mask: np.ndarray


class World:
    """B scripted environments with random ends; every transition has an action no other has.

    Image observations are stacks of four frames with a number in each; an episode's first
    stack holds four frames of its own.
    """

    def __init__(self, num_envs: int, images: bool, seed: int = 0, end: float = 0.1) -> None:
        self.num_envs, self.images, self.end = num_envs, images, end
        self.rng = np.random.default_rng(seed)
        self.frames = 0
        self.history: list[list[Step]] = [[] for _ in range(num_envs)]
        self.obs = np.stack([self._first() for _ in range(num_envs)])

    def step(self) -> dict[str, np.ndarray]:
        """Arguments of `add` for one step; also kept in `history`."""
        rng, count = self.rng, self.num_envs
        terminated, truncated = rng.random((2, count)) < self.end
        action = rng.integers(5, size=count)
        reward = rng.integers(-8, 8, size=count).astype(np.float64)
        next_obs = np.stack([self._next(obs) for obs in self.obs])
        next_mask = rng.random((count, 5)) < 0.5
        rows = {
            "obs": self.obs,
            "action": action,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "next_obs": next_obs,
            "next_mask": next_mask,
        }
        for index, story in enumerate(self.history):
            story.append(Step(*(row[index].copy() for row in rows.values())))
        ended = terminated | truncated
        self.obs = np.stack(
            [self._first() if e else o for e, o in zip(ended, next_obs, strict=True)]
        )
        return rows

    def _frame(self) -> np.ndarray:
        self.frames += 1
        if not self.images:
            return np.array([self.frames, -self.frames], dtype=np.float32)
        frame = np.arange(6, dtype=np.int64).reshape(2, 3) * 41 + self.frames
        frame[0, 0], frame[0, 1] = self.frames // 251, self.frames % 251
        return (frame % 256).astype(np.uint8)

    def _first(self) -> np.ndarray:
        if not self.images:
            return self._frame()
        return np.stack([self._frame() for _ in range(4)])

    def _next(self, obs: np.ndarray) -> np.ndarray:
        return np.concatenate([obs[1:], self._frame()[None]]) if self.images else self._frame()


def expected(story: list[Step], first: int, n: int) -> tuple[Any, ...]:
    """The n-step transition that begins at `first`, by its definition."""
    reward, discount, last = 0.0, 1.0, first
    for step in story[first : first + n]:
        reward += discount * step.reward
        discount *= GAMMA
        last = step
        if step.terminated or step.truncated:
            break
    begin = story[first]
    if last.terminated:
        discount = 0.0
    return begin.obs, begin.action, reward, discount, last.next_obs, last.next_mask


def key(obs: np.ndarray) -> bytes:
    return np.ascontiguousarray(obs).tobytes()


def check_batch(world: World, batch: Batch, n: int, usable: int) -> Counter:
    """Every row is the n-step transition of its observation; counts how often each came."""
    where = {
        key(step.obs): (index, time)
        for index, story in enumerate(world.history)
        for time, step in enumerate(story)
    }
    total = len(world.history[0])
    seen: Counter = Counter()
    for row in range(len(batch.obs)):
        index, time = where[key(batch.obs[row].numpy())]
        seen[index, time] += 1
        assert total - usable <= time <= max(total - n, total - usable)
        obs, action, reward, discount, next_obs, mask = expected(world.history[index], time, n)
        assert np.array_equal(batch.obs[row], obs)
        assert np.array_equal(batch.next_obs[row], next_obs)
        assert batch.action[row] == action
        assert batch.reward[row] == reward
        assert batch.discount[row] == discount
        assert batch.next_mask is not None
        np.testing.assert_array_equal(batch.next_mask[row], mask)
    return seen


def make(kind: str, capacity: int, num_envs: int) -> Replay:
    if kind == "frames":
        return Replay(capacity, num_envs, IMAGES, ACTIONS, CPU, stacked=True)
    return Replay(capacity, num_envs, VECTOR, ACTIONS, CPU)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(a: Batch, b: Batch) -> None:
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        assert x is None or torch.equal(x, y)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", ["vectors", "frames"])
def test_samples_are_the_transitions_that_were_added(kind: str, n: int, num_envs: int) -> None:
    length = 20
    memory, world = make(kind, length * num_envs, num_envs), World(num_envs, kind == "frames")
    for time in range(1, 101):
        memory.add(**world.step())
        usable = len(memory) // num_envs
        assert len(memory) == usable * num_envs
        assert usable <= min(time, length)
        if kind == "vectors" or time < length:
            assert usable == min(time, length)
        if time % 7 == 0 or time < 6:
            batch = memory.sample(60, generator(time), GAMMA, n)
            assert batch.reward.dtype == batch.discount.dtype == torch.float32
            assert batch.action.dtype == torch.int64
            check_batch(world, batch, n, usable)


@pytest.mark.parametrize("kind", ["vectors", "frames"])
def test_all_usable_transitions_are_sampled_uniformly(kind: str) -> None:
    num_envs, n, draws = 2, 3, 20_000
    memory, world = make(kind, 30, num_envs), World(num_envs, kind == "frames", end=0.05)
    for _ in range(50):
        memory.add(**world.step())
    usable = len(memory) // num_envs
    check_batch(world, memory.sample(200, generator(1), GAMMA, n), n, usable)
    batch = memory.sample(draws, generator(), GAMMA, n)
    seen = Counter(key(obs) for obs in batch.obs.numpy())
    cells = (usable - n + 1) * num_envs
    assert len(seen) == cells
    statistic = sum((count - draws / cells) ** 2 for count in seen.values()) / (draws / cells)
    # Mean cells - 1, standard deviation √(2 (cells - 1)).
    assert abs(statistic - (cells - 1)) < 5 * (2 * (cells - 1)) ** 0.5


@pytest.mark.parametrize("end", [0.0, 0.5])
def test_frame_memory_keeps_nearly_its_capacity(end: float) -> None:
    memory, world = make("frames", 400, 2), World(2, images=True, end=end)
    for _ in range(700):
        memory.add(**world.step())
    if end == 0:
        assert len(memory) == 400
    # Very short episodes need more frames each; what remains is still right.
    usable = len(memory) // 2
    assert usable >= 50
    check_batch(world, memory.sample(300, generator(), GAMMA, 3), 3, usable)


def test_true_successors_stand_at_truncations() -> None:
    memory, world = make("frames", 40, 1), World(1, images=True, end=0.4)
    for _ in range(40):
        memory.add(**world.step())
    cut = [step for step in world.history[0] if step.truncated and not step.terminated]
    kept = {key(step.obs): step for step in cut}
    batch = memory.sample(500, generator(), GAMMA)
    rows = [row for row in range(500) if key(batch.obs[row].numpy()) in kept]
    assert len(rows) > 20
    for row in rows:
        step = kept[key(batch.obs[row].numpy())]
        assert batch.discount[row] == GAMMA
        np.testing.assert_array_equal(batch.next_obs[row], step.next_obs)


@pytest.mark.parametrize("shard_bytes", [64 * 2**20, 100])
@pytest.mark.parametrize("steps", [0, 5, 47])
@pytest.mark.parametrize("kind", ["vectors", "frames"])
def test_a_saved_memory_continues_identically(
    kind: str, steps: int, shard_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "_SHARD_BYTES", shard_bytes)
    memory, world = make(kind, 60, 3), World(3, kind == "frames")
    for _ in range(steps):
        memory.add(**world.step())
    state = loaded(memory.state_dict())
    other, noise = make(kind, 60, 3), World(3, kind == "frames", seed=1)
    for _ in range(13):
        other.add(**noise.step())
    other.load_state_dict(state)
    assert len(other) == len(memory)
    for time in range(30):
        rows = world.step()
        memory.add(**rows)
        other.add(**rows)
        batches = [m.sample(40, generator(time), GAMMA, 3) for m in (memory, other)]
        assert_same(*batches)


def loaded(state: dict[str, Any]) -> dict[str, Any]:
    """A copy as a checkpoint gives it back, where shards are plain tensors."""
    return {
        name: loaded(value)
        if isinstance(value, dict)
        else copy.deepcopy(value.tensor if isinstance(value, Shard) else value)
        for name, value in state.items()
    }


def shards(state: Any, prefix: str = "") -> dict[str, Shard]:
    shards_by_name: dict[str, Shard] = {}
    for name, value in state.items():
        if isinstance(value, Shard):
            shards_by_name[prefix + name] = value
        elif isinstance(value, dict):
            shards_by_name |= shards(value, f"{prefix}{name}/")
    return shards_by_name


@pytest.mark.parametrize("kind", ["vectors", "frames"])
def test_revisions_tell_which_shards_were_written(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "_SHARD_BYTES", 64)
    memory, world = make(kind, 60, 2), World(2, kind == "frames")
    before: dict[str, Any] = {}
    unchanged = changed = 0
    for time in range(100):
        memory.add(**world.step())
        if time % 3:
            continue
        after = copy.deepcopy(shards(memory.state_dict()))
        for name in after.keys() & before.keys():
            old, new = before[name], after[name]
            if old.revision == new.revision:
                unchanged += 1
                assert torch.equal(old.tensor, new.tensor), name
            else:
                changed += 1
                assert new.revision > old.revision
        before = after
    assert unchanged > 3 * changed > 0


def test_ring_revisions_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_SHARD_BYTES", 16)
    memory = Ring(6, 1, CPU)
    memory.field("x", (), torch.int64)

    def revisions() -> list[int]:
        return [shard.revision for shard in memory.state_dict()["x"].values()]

    history = []
    for number in range(9):
        memory.add(x=np.array([number]))
        history.append(revisions())
    # Two rows a shard: the revision is the number of the newest addition in it.
    assert history == [
        [1],
        [2],
        [2, 3],
        [2, 4],
        [2, 4, 5],
        [2, 4, 6],
        [7, 4, 6],
        [8, 4, 6],
        [8, 9, 6],
    ]
    assert memory.fields["x"][:, 0].tolist() == [6, 7, 8, 3, 4, 5]


def test_a_memory_that_does_not_fit_is_refused_before_it_is_allocated() -> None:
    images = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    with pytest.raises(UserError, match=r"buffer_size=1000000000000: needs .* GiB"):
        Replay(10**12, 1, VECTOR, ACTIONS, CPU)
    with pytest.raises(UserError, match=r"buffer_size=1000000000000: .* accepted up to \d+"):
        Replay(10**12, 8, images, ACTIONS, CPU, stacked=True)
    check_memory(10, 100, CPU)


def test_the_estimate_of_bytes_is_near_the_truth() -> None:
    images = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    memory = Replay(2000, 1, images, ACTIONS, CPU, stacked=True)
    assert isinstance(memory.observations, StackedFrames)
    truth = memory.observations.pixels.nbytes
    truth += sum(field.nbytes for field in memory.ring.fields.values())
    assert StackedFrames.bytes_needed(2000, images) == pytest.approx(truth, rel=0.05)
    wide = spaces.Box(-1, 1, (50,), np.float32)
    whole = Replay(2000, 1, wide, ACTIONS, CPU)
    truth = sum(field.nbytes for field in whole.ring.fields.values())
    assert WholeObservations.bytes_needed(2000, wide) == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("kind", ["vectors", "frames"])
def test_masks_are_kept_from_the_first_one_on(kind: str) -> None:
    images = kind == "frames"
    space = IMAGES if images else VECTOR
    memory, world = Replay(10, 1, space, ACTIONS, CPU, stacked=images), World(1, images)
    for _ in range(2):
        memory.add(**{**world.step(), "next_mask": None})
    assert memory.sample(2, generator(), GAMMA).next_mask is None
    late = world.step()
    memory.add(**late)
    kept = memory.at(torch.arange(3), GAMMA).next_mask
    assert kept is not None
    assert kept[:2].all()
    assert kept[2].tolist() == late["next_mask"][0].tolist()
    other = Replay(10, 1, space, ACTIONS, CPU, stacked=images)
    other.load_state_dict(memory.state_dict())
    again = other.at(torch.arange(3), GAMMA).next_mask
    assert again is not None
    assert again.equal(kept)


@pytest.mark.parametrize("kind", ["vectors", "frames"])
def test_missing_masks_mean_that_all_is_legal(kind: str) -> None:
    memory, world = make(kind, 4, 2), World(2, kind == "frames")
    memory.add(**world.step())
    memory.add(**{**world.step(), "next_mask": None})
    mask = memory.at(torch.arange(2, 4), GAMMA).next_mask
    assert mask is not None
    assert mask.all()


def test_continuous_actions_keep_their_shape() -> None:
    memory = Replay(8, 2, VECTOR, spaces.Box(-1, 1, (3,), np.float32), CPU)
    action = np.arange(6, dtype=np.float32).reshape(2, 3)
    obs, no = np.zeros((2, 2), np.float32), np.zeros(2, dtype=bool)
    memory.add(obs, action, np.zeros(2), no, no, obs)
    sampled = memory.sample(30, generator(), GAMMA).action
    assert {tuple(row) for row in sampled.tolist()} == {(0.0, 1.0, 2.0), (3.0, 4.0, 5.0)}
