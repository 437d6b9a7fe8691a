"""Recordings and runs that no policy had to play: random frames, and the folder of a run."""

from __future__ import annotations

import types

import numpy as np
import torch
from gymnasium import spaces

from semigradient.reproductions.td import recorded
from semigradient.training import checkpoint, parts
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.config_files import dump_toml


def run_folder(folder, agent):
    """What `train.py` leaves of a run of no steps, as far as a policy needs it."""
    command = parse(["--agent", agent, "--env", "CartPole-v1"]).command
    made = build(command, learning=False)
    folder.mkdir()
    (folder / "config.toml").write_text(dump_toml(command.tables()))
    checkpoint.save(folder / "policy", 0, {"policy": parts.policy_state(made)}, command.identity())
    return made


def frames(lengths, seed):
    """Episodes of random stacks of frames, each of which has one that the one before had not."""
    rng = np.random.default_rng(seed)
    kept = []
    for length in lengths:
        film = rng.integers(256, size=(length + 4, 84, 84), dtype=np.uint8)
        for t in range(length):
            last = film[t + 1 : t + 5] if t == length - 1 else None
            kept.append(recorded._Step(film[t : t + 4], t % 3, float(t % 2), last))
    game = types.SimpleNamespace(
        stacked_frames=True,
        single_observation_space=spaces.Box(0, 255, (4, 84, 84), np.uint8),
        single_action_space=spaces.Discrete(3),
    )
    return recorded._keep(kept, game, 0.99, torch.device("cpu")), kept
