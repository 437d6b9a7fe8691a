"""Vector environments: exact state, ends of episodes, seeds, masks and the Atari protocol."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from semigradient.envs import ExactVector, check_id, make_vector
from semigradient.envs.atari import AtariVector
from semigradient.envs.sync import SyncVector
from semigradient.errors import UserError
from semigradient.training.command import make_command
from semigradient.training.stepping import EnvStepper
from support.playing import play, random_actions


class Counting(gymnasium.Env):
    """Counts its steps, terminates after six; the action (t + first) % 3 is illegal at time t."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.private = noise, np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.first, self.time = int(self.np_random.integers(3)), 0
        return self._see()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        obs, info = self._see()
        return obs, float(action), self.time == 6, False, info

    def _see(self) -> tuple[np.ndarray, dict]:
        hidden = self.first + self.noise * self.private.random()
        mask = np.ones(3, dtype=np.int8)
        mask[(self.time + self.first) % 3] = 0
        return np.array([hidden, self.time], dtype=np.float32), {"action_mask": mask}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("test/Counting-v0", Counting)
    yield
    gymnasium.registry.pop("test/Counting-v0")


def assert_same(first: list[tuple[np.ndarray, ...]], second: list[tuple[np.ndarray, ...]]) -> None:
    for time, (a, b) in enumerate(zip(first, second, strict=True)):
        for x, y in zip(a, b, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y, err_msg=f"step {time}")


def ends(rows: list[tuple[np.ndarray, ...]]) -> np.ndarray:
    """How many episodes of each environment ended."""
    return np.sum([row[2] | row[3] for row in rows], axis=0)


CASES = [
    ("CartPole-v1", 3, 137, {}),
    ("Pendulum-v1", 2, 333, {}),
    # Pictures are of copies, which are resumed by playing their episodes again.
    ("CartPole-v1", 3, 137, {"render": True}),
    ("Pendulum-v1", 2, 333, {"render": True}),
    ("FrozenLake-v1", 3, 41, {}),
    ("test/Counting-v0", 2, 9, {}),
    ("test/Counting-v0", 2, 0, {}),
    ("ALE/Breakout-v5", 2, 300, {"reseed_after": 150}),
    ("ALE/Pong-v5", 2, 160, {"reseed_after": 90, "max_num_frames_per_episode": 280}),
    ("ALE/Breakout-v5", 2, 130, {"episodic_life": True, "reseed_after": 60}),
    ("ALE/Pong-v5", 2, 0, {"max_num_frames_per_episode": 280}),
]


@pytest.mark.parametrize(("env_id", "num_envs", "before", "options"), CASES)
def test_a_loaded_state_continues_identically(
    env_id: str, num_envs: int, before: int, options: dict[str, Any]
) -> None:
    envs = make_vector(env_id, num_envs, 5, **options)
    envs.reset()
    actions = random_actions(envs, before + 230)
    play(envs, actions[:before])
    state = copy.deepcopy(envs.state_dict())
    expected = play(envs, actions[before:])
    assert ends(expected).min() > 0

    other = make_vector(env_id, num_envs, 77, **options)
    other.reset()
    play(other, random_actions(other, 7, seed=3))
    assert other.load_state_dict(state) is True
    np.testing.assert_array_equal(other.last_obs, state["last_obs"])
    assert_same(expected, play(other, actions[before:]))
    after, again = envs.state_dict(), other.state_dict()
    assert after["seed"] == again["seed"] == 5
    np.testing.assert_array_equal(after["resets"], again["resets"])
    envs.close()
    other.close()


def test_atari_reseeds_rarely_and_marks_other_resets() -> None:
    envs = make_vector("ALE/Pong-v5", 1, 0, reseed_after=150, max_num_frames_per_episode=200)
    envs.reset()
    counts, lengths = [], []
    for action in random_actions(envs, 320):
        _, _, terminated, truncated, _ = envs.step(action)
        if terminated[0] or truncated[0]:
            counts.append(int(envs.resets[0]))
            lengths.append(len(envs.state_dict()["history"]["0"]))
    # Episodes of 50 steps: two resets from the emulator's generator, then a seeded one.
    assert counts[:6] == [1, 1, 2, 2, 2, 3]
    assert lengths[2] == lengths[5] == 0
    assert lengths[0] == lengths[3] == 51
    envs.close()


@pytest.mark.parametrize(
    ("env_id", "steps"), [("CartPole-v1", 150), ("Pendulum-v1", 450), ("FrozenLake-v1", 100)]
)
def test_same_step_autoreset_against_plain_environments(env_id: str, steps: int) -> None:
    envs = SyncVector(check_id(env_id), 2, 11)
    obs, _ = envs.reset()
    plain = [gymnasium.make(env_id) for _ in range(2)]
    flat = [gymnasium.wrappers.FlattenObservation(env) for env in plain]
    resets = [0, 0]

    def fresh(index: int) -> np.ndarray:
        first, _ = flat[index].reset(seed=envs.seed_of(index, resets[index]))
        resets[index] += 1
        return first

    for index in range(2):
        np.testing.assert_array_equal(obs[index], fresh(index))
    for action in random_actions(envs, steps):
        obs, reward, terminated, truncated, infos = envs.step(action)
        any_ended = False
        for index, env in enumerate(flat):
            taken = int(action[index]) if action.ndim == 1 else action[index]
            expected, value, dead, cut, _ = env.step(taken)
            assert (reward[index], terminated[index], truncated[index]) == (value, dead, cut)
            if dead or cut:
                any_ended = True
                np.testing.assert_array_equal(infos["final_obs"][index], expected)
                expected = fresh(index)
            np.testing.assert_array_equal(obs[index], expected)
        assert ("final_obs" in infos) == any_ended
        if any_ended:
            assert infos["final_obs"].shape == obs.shape
    assert min(resets) > 2
    np.testing.assert_array_equal(envs.resets, resets)


def test_one_hot_observations() -> None:
    envs = make_vector("FrozenLake-v1", 2, 0)
    obs, _ = envs.reset()
    assert obs.shape == (2, 16)
    assert obs[:, 0].tolist() == [1, 1]
    for action in random_actions(envs, 30):
        obs = envs.step(action)[0]
        assert obs.sum(1).tolist() == [1, 1]


def test_atari_final_observation_is_the_last_of_the_episode() -> None:
    envs = make_vector("ALE/Breakout-v5", 2, 3)
    assert isinstance(envs, AtariVector)
    previous, _ = envs.reset()
    seen = 0
    for action in random_actions(envs, 500):
        obs, _, terminated, truncated, infos = envs.step(action)
        for index in range(2):
            ended = terminated[index] or truncated[index]
            last = infos["final_obs"][index] if ended else obs[index]
            # Stacks overlap in three frames as long as the episode is one.
            np.testing.assert_array_equal(last[:-1], previous[index][1:])
            if ended:
                seen += 1
                assert not np.array_equal(obs[index][:-1], last[1:])
        previous = obs
    assert seen >= 2
    envs.close()


def test_after_a_lost_life_the_same_game_goes_on() -> None:
    """With `episodic_life` the emulator plays what it plays without, to the last bit."""
    whole, lives = (
        make_vector("ALE/Breakout-v5", 2, 3, episodic_life=value) for value in (False, True)
    )
    stepper = EnvStepper(lives)
    np.testing.assert_array_equal(whole.reset()[0], stepper.obs)
    left, lost, games, scores, scored = np.array([5, 5]), 0, 0, np.zeros(2), []
    for action in random_actions(whole, 450):
        obs, reward, terminated, _, infos = whole.step(action)
        step = stepper.step(action)
        scores += reward
        np.testing.assert_array_equal(obs, stepper.obs)
        np.testing.assert_array_equal(reward, step.reward)
        assert not step.truncated.any()
        for index in range(2):
            goes_on = bool(step.infos["goes_on"][index])
            assert goes_on == (0 < infos["lives"][index] < left[index])
            assert step.terminated[index] == (terminated[index] or goes_on)
            final = step.infos["final_obs"] if step.terminated[index] else obs
            np.testing.assert_array_equal(step.next_obs[index], final[index])
            left[index] = 5 if terminated[index] else infos["lives"][index]
            lost, games = lost + goes_on, games + terminated[index]
            if terminated[index]:
                scored.append(scores[index])
                scores[index] = 0
    assert games >= 2
    assert lost >= 4 * games
    assert [score for score, _ in stepper.pop_episodes()] == scored
    whole.close()
    lives.close()


def test_lives_are_for_training_alone() -> None:
    options = {"episodic_life": True, "frameskip": 2}
    run = make_command("dqn", "ALE/Breakout-v5", env_options=options).run
    assert run.environment() == options
    assert run.evaluation_environment() == {"frameskip": 2}
    command = make_command("dqn", "ALE/Breakout-v5", eval_env_options={"episodic_life": True})
    with pytest.raises(UserError, match="episodic_life=True: is for training"):
        command.run.evaluation_environment()


@pytest.mark.parametrize("seed", [0, 5, 2**32 - 1, 2**32, 2**70])
def test_seeds_are_a_hash_by_numpy(seed: int) -> None:
    envs = ExactVector(2, seed)
    for index, count in ((0, 0), (1, 0), (1, 7), (0, 10**6)):
        hashed = np.random.SeedSequence((seed, index, count)).generate_state(1)[0]
        assert envs.seed_of(index, count) == hashed >> 1


def test_seeds_differ_among_environments_and_episodes() -> None:
    envs = make_vector("CartPole-v1", 4, 0)
    seeds = {envs.seed_of(index, count) for index in range(4) for count in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert not seeds & {make_vector("CartPole-v1", 1, 1).seed_of(0, count) for count in range(50)}
    obs, _ = envs.reset()
    rows = play(envs, random_actions(envs, 120))
    starts = [tuple(start) for start in obs]
    starts += [tuple(row[0][i]) for row in rows for i in np.flatnonzero(row[2] | row[3])]
    assert len(starts) > 12
    assert len(set(starts)) == len(starts)


def test_atari_seeds_differ_and_repeat() -> None:
    def opening(seed: int) -> np.ndarray:
        envs = make_vector("ALE/Breakout-v5", 3, seed)
        envs.reset()
        rows = play(envs, [np.ones(3, dtype=np.int64)] + [np.full(3, 2)] * 40)
        envs.close()
        return np.stack([row[0] for row in rows], 1)

    games = opening(0)
    assert not np.array_equal(games[0], games[1])
    assert not np.array_equal(games[1], games[2])
    np.testing.assert_array_equal(games, opening(0))
    assert not np.array_equal(games, opening(1))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "ALE/Breakout-v5"])
def test_reset_with_a_seed_repeats_the_whole_run(env_id: str) -> None:
    envs = make_vector(env_id, 2, 4)
    actions = random_actions(envs, 60)
    first, _ = envs.reset(seed=9)
    rows = play(envs, actions)
    second, _ = envs.reset(seed=9)
    np.testing.assert_array_equal(first, second)
    assert_same(rows, play(envs, actions))
    envs.close()


def test_a_nondeterministic_environment_is_found_out() -> None:
    envs = make_vector("test/Counting-v0", 2, 0, noise=0.5)
    envs.reset()
    play(envs, random_actions(envs, 4))
    state = copy.deepcopy(envs.state_dict())
    other = make_vector("test/Counting-v0", 2, 1, noise=0.5)
    other.reset()
    assert other.load_state_dict(state) is False
    assert other.last_obs[:, 1].tolist() == [0, 0]
    # A fresh episode has seeds of its own, and goes on as usual.
    assert (other.resets > state["resets"]).all()
    rows = play(other, random_actions(other, 6))
    assert rows[-1][2].all()
    assert [row[0][0, 1] for row in rows] == [1, 2, 3, 4, 5, 0]


def test_action_masks_are_batched_and_describe_the_returned_observation() -> None:
    envs = make_vector("test/Counting-v0", 3, 2)
    obs, infos = envs.reset()
    for action in [*random_actions(envs, 40), None]:
        mask = infos["action_mask"]
        assert mask.shape == (3, 3)
        assert mask.dtype == bool
        illegal = (obs.sum(1) % 3).astype(int)
        np.testing.assert_array_equal((~mask).argmax(1), illegal)
        assert mask.sum() == 6
        if action is not None:
            obs, _, _, _, infos = envs.step(action)
    assert "action_mask" not in make_vector("CartPole-v1", 1, 0).reset()[1]


def test_returned_arrays_stay_as_they_were() -> None:
    for env_id in ("CartPole-v1", "ALE/Breakout-v5"):
        envs = make_vector(env_id, 2, 0)
        obs, _ = envs.reset()
        kept = [obs]
        copies = [obs.copy()]
        for action in random_actions(envs, 12):
            kept.append(envs.step(action)[0])
            copies.append(kept[-1].copy())
        np.testing.assert_array_equal(np.stack(kept), np.stack(copies))
        envs.close()


@pytest.mark.parametrize(
    ("env_id", "options", "words"),
    [
        (
            "ALE/Pong-v5",
            {"sticky": 0.1},
            ("ALE/Pong-v5 'sticky'", "repeat_action_probability"),
        ),
        ("CartPole-v1", {"sticky": 0.1}, ("CartPole-v1", "sticky")),
        ("CartPole-v9", {}, ("CartPole",)),
        ("Cartpol-v1", {}, ("CartPole-v1",)),
        ("ALE/Pomg-v5", {}, ("ALE/Pong-v5",)),
    ],
)
def test_what_cannot_be_made_is_a_user_error(
    env_id: str, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        make_vector(env_id, 1, 0, **options)
    assert all(word in str(caught.value) for word in words)


def test_check_id_returns_the_spec() -> None:
    assert check_id("CartPole-v1").id == "CartPole-v1"
