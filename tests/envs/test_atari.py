"""The Atari protocol: its card, sticky actions, colour."""

from __future__ import annotations

import numpy as np

from semigradient.envs import make_vector
from support.playing import play, random_actions


def test_atari_protocol_card() -> None:
    envs = make_vector("ALE/MsPacman-v5", 2, 0)
    card = envs.protocol
    assert card["env"] == "ALE/MsPacman-v5"
    assert card["repeat_action_probability"] == 0.25
    assert card["frameskip"] == 4
    assert card["max_num_frames_per_episode"] == 108_000
    assert not card["episodic_life"]
    assert envs.single_observation_space.shape == (4, 84, 84)
    envs.reset()
    rewards = np.stack([row[1] for row in play(envs, random_actions(envs, 150))])
    assert rewards.dtype == np.float64
    assert rewards.max() >= 10  # raw: a dot is worth ten
    envs.close()


def test_atari_sticky_actions_are_played() -> None:
    def game(probability: float) -> np.ndarray:
        envs = make_vector("ALE/Pong-v5", 1, 0, repeat_action_probability=probability, noop_max=0)
        assert envs.protocol["repeat_action_probability"] == probability
        envs.reset()
        rows = play(envs, random_actions(envs, 60))
        envs.close()
        return np.stack([row[0] for row in rows])

    assert not np.array_equal(game(0.0), game(0.25))


def test_colour_frames_follow_the_game() -> None:
    envs = make_vector("ALE/Pong-v5", 1, 0, render=True, max_num_frames_per_episode=120)
    envs.reset()
    frames = []
    for action in random_actions(envs, 40):
        envs.step(action)
        frames.append(envs.frames()[0].copy())
    assert frames[0].shape == (210, 160, 3)
    assert not np.array_equal(frames[20], frames[25])
    envs.close()
