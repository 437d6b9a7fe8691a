"""The glimpse environment against closed forms and a plain loop; its adapters alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv

from semigradient import envs
from semigradient.envs.adapters import CoreEnv, CoreVector
from semigradient.envs.core import advance
from semigradient.envs.images.glimpse import Glimpse, GlimpseOptions, GlimpseState
from semigradient.envs.images.supervised import Supervised
from semigradient.errors import UserError

GLIMPSE = "semigradient/Glimpse-v0"
OPTIONS = "semigradient.envs.images.glimpse:GlimpseOptions"
UP, DOWN, LEFT, RIGHT = range(4)


def world(count: int = 7, size: int = 32, **rules: Any) -> Glimpse:
    """Images of noise; pixels are never 0, so what is revealed is seen to be."""
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, 3, size, size), dtype=torch.uint8, generator=drawn)
    own = {"pool": rules.pop("pool")} if "pool" in rules else {}
    return Glimpse(images, torch.arange(count) % 10, GlimpseOptions(**rules), **own)


# Rules


def test_the_window_at_the_start_and_in_the_corners() -> None:
    core = world()
    state = core.reset(5, index=0)
    obs = core.observe(state)
    expected = torch.zeros(32, 32, dtype=torch.uint8)
    expected[12:20, 12:20] = 255
    assert (obs[:, 0] == expected).all()
    assert (core.info(state)["visible_fraction"] == 0.0625).all()
    for row, column, pixels in ((0, 0, 16), (31, 31, 25), (0, 31, 20), (16, 0, 32)):
        at = (core._centres == torch.tensor([row, column])).all(1)
        assert int((core._windows[at] > 0).sum()) == pixels


def test_moves_are_clipped_and_reach_64_places() -> None:
    core = world(max_steps=1000)
    visited, state = [], core.reset(1, index=0)
    for move in [UP, UP, UP, LEFT, LEFT, LEFT, *[DOWN] * 5, *[RIGHT] * 5, *[UP] * 5]:
        state = core.step(state, torch.tensor([[9, move]])).state
        visited.append(tuple(core.info(state)["position"][0].tolist()))
    rows = [8, 0, 0, 0, 0, 0, 8, 16, 24, 31, 31, *[31] * 5, 23, 15, 7, 0, 0]
    columns = [16, 16, 16, 8, 0, 0, 0, 0, 0, 0, 0, 8, 16, 24, 31, 31, *[31] * 5]
    assert visited == list(zip(rows, columns, strict=True))
    axis = [0, 7, 8, 15, 16, 23, 24, 31]
    assert sorted(map(tuple, core._centres.tolist())) == [(r, c) for r in axis for c in axis]
    assert bool((core._windows > 0).any(0).all())


class PlainLoop:
    """The rules once more, in slices of one image and without any table."""

    def __init__(self, image: np.ndarray, label: int, flat: bool, penalty: float) -> None:
        self.image, self.label, self.flat, self.penalty = image, label, flat, penalty
        self.centre, self.steps = [16, 16], 0
        self.shown = np.zeros_like(image)
        self.look()

    def look(self) -> None:
        self.mask = np.zeros((1, 32, 32), np.uint8)
        row, column = self.centre
        part = slice(max(row - 4, 0), min(row + 4, 32)), slice(max(column - 4, 0), column + 4)
        self.mask[0, part[0], part[1]] = 255
        self.shown[:, part[0], part[1]] = self.image[:, part[0], part[1]]

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool]:
        guess, move = (action, None) if self.flat and action < 10 else (None, 0)
        if self.flat and action >= 10:
            guess, move = None, action - 10
        elif not self.flat:
            guess, move = action
        correct = guess == self.label
        if move is not None:
            axis, sign = divmod(int(move), 2)
            self.centre[axis] = min(max(self.centre[axis] + (8 if sign else -8), 0), 31)
        self.look()
        self.steps += 1
        reward = 1.0 if correct else -self.penalty
        obs = np.concatenate([self.mask, self.shown])
        return obs, reward, bool(correct), self.steps == 20 and not correct


@pytest.mark.parametrize("flat", [False, True])
def test_every_face_follows_the_plain_loop(flat: bool) -> None:
    core = world(action_mode="flat" if flat else "factored", step_penalty=0.05)
    rng = np.random.default_rng(0)
    vector, single = CoreVector(core, 7), CoreEnv(core)
    vector.reset(options={"index": list(range(7))})
    state = core.reset(7, index=torch.arange(7))
    images = core._canvases[:, 1:].reshape(7, 3, 32, 32).numpy()
    loops = [PlainLoop(images[i], i % 10, flat, 0.05) for i in range(7)]
    single.reset(options={"index": 3})
    live = np.ones(7, bool)
    while live.any():
        actions = rng.integers(14, size=7) if flat else rng.integers([10, 4], size=(7, 2))
        state, reward, terminated, truncated = core.step(state, torch.from_numpy(actions))
        obs = core.observe(state).numpy()
        seen, rewards, ended, cut, infos = vector.step(actions)
        alone = single.step(actions[3]) if live[3] else None
        for i in np.flatnonzero(live):
            expected = loops[i].step(actions[i])
            got = (obs[i], reward[i].item(), terminated[i].item(), truncated[i].item())
            last = infos["final_obs"] if ended[i] or cut[i] else seen
            for other in (got, (last[i], rewards[i], bool(ended[i]), bool(cut[i]))):
                np.testing.assert_array_equal(other[0], expected[0])
                assert other[1:] == expected[1:]
            if i == 3 and alone is not None:
                np.testing.assert_array_equal(alone[0], expected[0])
                assert alone[1:4] == expected[1:]
        live &= ~(ended | cut)


def test_rules_never_write_into_what_they_are_given() -> None:
    core, random = world(max_steps=3), torch.Generator().manual_seed(1)
    state = core.reset(50, random)
    for _ in range(8):
        before = GlimpseState(*(field.clone() for field in state))
        obs = core.observe(state)
        kept = obs.clone()
        actions = torch.stack([torch.randint(10, (50,)), torch.randint(4, (50,))], 1)
        following = advance(core, state, actions, random)
        following.obs.zero_()  # a learner may do what it likes with its copy
        assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
        assert torch.equal(obs, kept)
        state = following.state
    assert bool((core._canvases[:, 1:] > 0).all())


def test_small_images_and_pools() -> None:
    core = world(size=16, window=4, pool=torch.tensor([2, 5]))
    state = core.reset(200, torch.Generator().manual_seed(0))
    assert set(state.image.tolist()) == {2, 5}
    assert core.single_observation_space.shape == (4, 16, 16)
    assert (core.info(state)["visible_fraction"] == 1 / 16).all()


# Closed forms

Play = Callable[[torch.Tensor, int, torch.Generator], torch.Tensor]


def pair(guess: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return torch.stack([guess, torch.randint(4, guess.shape, generator=random)], 1)


POLICIES: dict[str, tuple[str, Play]] = {
    "uniform": (
        "factored",
        lambda label, t, g: pair(torch.randint(10, label.shape, generator=g), g),
    ),
    "uniform-flat": ("flat", lambda label, t, g: torch.randint(14, label.shape, generator=g)),
    "cycle": ("factored", lambda label, t, g: pair(torch.full_like(label, t % 10), g)),
    "cycle-flat": ("flat", lambda label, t, g: torch.full_like(label, t % 10)),
    "oracle": ("factored", lambda label, t, g: pair(label, g)),
    "oracle-flat": ("flat", lambda label, t, g: label.clone()),
    "wrong": ("factored", lambda label, t, g: pair((label + 1) % 10, g)),
}


def geometric(p: float, penalty: float, gamma: float) -> tuple[float, float, float, float]:
    """P(solved), E[return], E[length], E[discounted return] of guessing right with chance p."""
    solved = [p * (1 - p) ** k for k in range(20)]
    fails = (1 - p) ** 20
    return_ = sum(s * (1 - penalty * k) for k, s in enumerate(solved)) - 20 * penalty * fails
    length = sum(s * (k + 1) for k, s in enumerate(solved)) + 20 * fails
    cost = [penalty * (1 - gamma**k) / (1 - gamma) for k in range(21)]
    discounted = sum(s * (gamma**k - cost[k]) for k, s in enumerate(solved)) - fails * cost[20]
    return 1 - fails, return_, length, discounted


def expected(policy: str, penalty: float) -> tuple[float, float, float, float]:
    if policy.startswith("uniform"):
        return geometric(1 / 10 if policy == "uniform" else 1 / 14, penalty, 0.9)
    if policy.startswith("cycle"):
        returns = [1 - penalty * k for k in range(10)]
        discounted = [0.9**k - penalty * (1 - 0.9**k) / 0.1 for k in range(10)]
        return 1.0, float(np.mean(returns)), 5.5, float(np.mean(discounted))
    if policy.startswith("oracle"):
        return 1.0, 1.0, 1.0, 1.0
    return 0.0, -20 * penalty, 20.0, -penalty * (1 - 0.9**20) / 0.1


def test_closed_forms_are_the_published_numbers() -> None:
    table = {
        ("uniform", 0.1): (0.87842, 0.08784, 8.7842, 0.05185),
        ("uniform", 0.05): (0.87842, 0.48313, 8.7842, None),
        ("uniform-flat", 0.1): (0.77285, -0.23186, 10.8199, -0.12683),
        ("uniform-flat", 0.05): (0.77285, 0.27050, 10.8199, None),
        ("cycle", 0.1): (1, 0.55, 5.5, 0.30264),
        ("cycle", 0.05): (1, 0.775, 5.5, None),
        ("wrong", 0.1): (0, -2.0, 20, -0.87842),
        ("wrong", 0.05): (0, -1.0, 20, None),
    }
    for (policy, penalty), numbers in table.items():
        for ours, number in zip(expected(policy, penalty), numbers, strict=True):
            assert number is None or ours == pytest.approx(number, abs=6e-5)


@pytest.mark.parametrize("penalty", [0.1, 0.05])
@pytest.mark.parametrize("policy", POLICIES)
def test_simulation_agrees_with_the_closed_forms(policy: str, penalty: float) -> None:
    mode, act = POLICIES[policy]
    count, random = 20_000, torch.Generator().manual_seed(3)
    small = torch.zeros((10, 1, 8, 8), dtype=torch.uint8)
    core = Glimpse(
        small, torch.arange(10), GlimpseOptions(window=2, action_mode=mode, step_penalty=penalty)
    )
    state = core.reset(count, random)
    label = core.labels[state.image]
    live = torch.ones(count, dtype=torch.bool)
    solved = torch.zeros(count, dtype=torch.bool)
    return_, discounted, length = torch.zeros(3, count, dtype=torch.float64)
    for time in range(20):
        state, reward, terminated, truncated = core.step(state, act(label, time, random))
        return_ += reward * live
        discounted += 0.9**time * reward * live
        length += live
        solved |= terminated & live
        live = live & ~(terminated | truncated)
    assert not live.any()
    samples = (solved.double(), return_, length, discounted)
    for sample, truth in zip(samples, expected(policy, penalty), strict=True):
        error = sample.std().item() / math.sqrt(count)
        assert abs(sample.mean().item() - truth) <= 3 * error + 1e-9


# Faces

EVERY = [
    (GLIMPSE, {}),
    (GLIMPSE, {"dataset": "digits", "action_mode": "flat", "split": "test"}),
    (GLIMPSE, {"dataset": "small-glyphs", "limit": 100}),
    ("semigradient/Classification-v0", {}),
    ("semigradient/Regression-v0", {"dataset": "diabetes"}),
]
# Scaled tables have no bounds, and predictions of their targets are not within [-1, 1].
NORMALISED = "ignore:.*(symmetric and normalized|probably too)"


@pytest.mark.filterwarnings(NORMALISED)
@pytest.mark.filterwarnings("ignore:.*minimal resolution")
@pytest.mark.filterwarnings("ignore:It seems that your observation space is an image but")
@pytest.mark.parametrize(("env_id", "options"), EVERY)
def test_stable_baselines_checks_the_single_face(env_id: str, options: dict[str, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as check

    check(gymnasium.make(env_id, **options).unwrapped)


@pytest.mark.parametrize(("env_id", "options"), EVERY)
def test_the_vector_face_keeps_gymnasium_s_contract(env_id: str, options: dict[str, Any]) -> None:
    vector = gymnasium.make_vec(
        env_id, num_envs=5, vectorization_mode="vector_entry_point", **options
    )
    assert isinstance(vector, VectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    episodes = []
    for _ in range(2):
        vector.action_space.seed(0)
        trace: list[Any] = [vector.reset(seed=4)]
        for _ in range(45):
            trace.append(vector.step(vector.action_space.sample()))
        trace.append(vector.reset())
        episodes.append(trace)
    assert data_equivalence(*map(repr_free, episodes), exact=True)
    assert not data_equivalence(repr_free([vector.reset(seed=5)]), repr_free(episodes[0][:1]))
    ended = 0
    for obs, reward, terminated, truncated, infos in episodes[0][1:-1]:
        assert vector.observation_space.contains(obs)
        assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
        over = terminated | truncated
        assert ("final_obs" in infos) == over.any()
        if over.any():
            ended += over.sum()
            np.testing.assert_array_equal(infos["_final_obs"], over)
            assert vector.observation_space.contains(infos["final_obs"])
    assert ended > 5
    vector.close()


def repr_free(trace: list[Any]) -> list[Any]:
    """Nested lists instead of tuples of differing lengths, for `data_equivalence`."""
    return [list(each) for each in trace]


def test_final_observations_and_fresh_episodes_are_told_apart() -> None:
    core = world(max_steps=2)
    vector = CoreVector(core, 4, seed=1)
    obs, infos = vector.reset(options={"index": [0, 1, 2, 3]})
    wrong = np.array([[9, UP]] * 4)
    _, _, _, truncated, infos = vector.step(np.array([[0, UP], *wrong[1:]]))
    assert infos["_final_obs"].tolist() == [True, False, False, False]
    assert infos["final_info"]["correct"].tolist() == [True, False, False, False]
    assert infos["final_info"]["index"][0] == 0
    assert infos["position"].tolist() == [[16, 16], [8, 16], [8, 16], [8, 16]]
    obs, _, terminated, truncated, infos = vector.step(wrong)
    assert truncated.tolist() == [False, True, True, True]
    assert not terminated.any()
    assert (infos["final_obs"][1:, 0, 0] > 0).any()  # the window had reached the upper edge
    assert (obs[1:, 0, 12:20, 12:20] == 255).all()  # and is in the middle again
    assert not infos["final_obs"][0].any()


def test_through_make_vector_with_the_options_of_the_command_line() -> None:
    vector = envs.make_vector(GLIMPSE, 3, 0, render=True, dataset="digits", split="test")
    assert vector.protocol["env"] == GLIMPSE
    assert vector.protocol["split"] == "test"
    assert vector.spec.id == GLIMPSE
    vector.reset()
    assert vector.frames()[0].shape == (280, 256, 3)
    with pytest.raises(UserError, match=r"option of semigradient/Glimpse-v0 'colour': .*dataset, "):
        envs.make_vector(GLIMPSE, 3, 0, colour=1)
    with pytest.raises(UserError, match=r"action_mode='both': accepted are factored, flat"):
        envs.make_vector(GLIMPSE, 3, 0, action_mode="both")
    with pytest.raises(UserError, match=r"window=3: must be even"):
        envs.make_vector(GLIMPSE, 3, 0, window=3)
    with pytest.raises(UserError, match=r"index=7000: must be in \[0, 4000\)"):
        gymnasium.make(GLIMPSE).reset(options={"index": 7000})


def test_a_state_of_other_images_begins_anew() -> None:
    vector = CoreVector(OPTIONS, 6, seed=2)
    vector.reset()
    vector.step(np.random.default_rng(0).integers([10, 4], size=(6, 2)))
    saved = vector.state_dict()
    elsewhere = CoreVector(OPTIONS, 6, seed=9, split="test")
    assert elsewhere.load_state_dict(saved) is False


def test_resets_of_a_vector_differ_and_are_counted() -> None:
    vector = CoreVector(OPTIONS, 20, seed=2)
    first = vector.reset()[1]["index"]
    second = vector.reset()[1]["index"]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(vector.reset(seed=2)[1]["index"], first)
    np.testing.assert_array_equal(vector.reset()[1]["index"], second)


def test_supervised_environments_score_their_answers() -> None:
    images = torch.zeros((4, 1, 16, 16), dtype=torch.uint8)
    core = Supervised(images, torch.tensor([3, 1, 4, 1]))
    reward, over = core.step(core.reset(4, index=torch.arange(4)), torch.tensor([3, 1, 1, 0]))[1:3]
    assert reward.tolist() == [1, 1, 0, 0]
    assert over.all()
    table = Supervised(torch.zeros(2, 3), torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    reward = table.step(table.reset(2, index=[0, 1]), torch.tensor([[0.0, 0.0], [1.0, 3.0]])).reward
    assert reward.tolist() == [-2.5, -5.0]


def test_a_frame_shows_image_window_and_what_is_hidden() -> None:
    core = world()
    state = core.reset(1, index=1)
    frame = core.render(state)[0]
    image = core._canvases[1, 1:].reshape(3, 32, 32).numpy()
    assert (frame[16 * 8 + 4, 16 * 8 + 4] == image[:, 16, 16]).all()
    assert (frame[0, 0] == [40, 44, 60]).all()
    assert (frame[12 * 8, 12 * 8 : 20 * 8] == [255, 214, 0]).all()
    after = core.render(core.step(state, torch.tensor([[9, UP]])).state)[0]
    assert (after[256:] != frame[256:]).any()


def test_make_agrees_with_its_window() -> None:
    assert GlimpseOptions().make().protocol["window"] == 8
    assert GlimpseOptions(dataset="small-glyphs").make().protocol["window"] == 4
