"""Writing chorales through Gymnasium: checkers, pictures, files, bad options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from semigradient import envs
from semigradient.envs.music import midi
from semigradient.envs.music.chorale_fill import ChoraleFill, WritingOptions
from semigradient.errors import UserError
from semigradient.training.stepping import EnvStepper
from support.chorale_envs import CHRONO, FILL, REWRITE, P, placed, play, setting
from support.chorales import pieces

# Faces


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("scores")
    for split in ("train", "valid", "test"):
        (root / split).mkdir()
        for index, piece in enumerate(pieces()):
            midi.write(root / split / f"{index}.mid", piece)
    return str(root)


FACES: list[tuple[str, dict[str, Any]]] = [
    (FILL, {"frames": 8, "task": "inpaint"}),
    (FILL, {"frames": 8, "order": "random", "reward": "terminal-rules"}),
    (FILL, {"frames": 8, "actions": "multidiscrete"}),
    (REWRITE, {"model": "toy"}),
    (REWRITE, {"model": "toy", "actions": "mask", "score": "frame"}),
    (REWRITE, {"frames": 8, "actions": "note", "score": "rules", "corrupt": 0.5}),
    (REWRITE, {"model": "toy", "actions": "schedule"}),
    (CHRONO, {"frames": 8, "task": "harmonize", "cadence": 5.0}),
]


@pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.common.env_checker")
@pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.common.preprocessing")
@pytest.mark.parametrize(("env_id", "options"), FACES)
def test_checkers_pass_on_the_single_face(
    env_id: str, options: dict[str, Any], folder: str
) -> None:
    from stable_baselines3.common.env_checker import check_env as check

    options = placed(options, folder)
    check(gymnasium.make(env_id, **options).unwrapped)
    shown = gymnasium.make(env_id, render_mode="rgb_array", **options)
    shown.reset(seed=0)
    count, frames = shown.unwrapped.core.setting.pitches, shown.unwrapped.core.setting.frames
    roll = shown.unwrapped.core.render(shown.unwrapped.state)[0]
    assert roll.shape[0] > 4 * count  # as the roll, with axes around it
    assert roll.shape[1] > 8 * frames
    assert shown.render().shape == roll.shape
    written = gymnasium.make(env_id, render_mode="ansi", **options)
    written.reset(seed=0)
    lines = written.render().split("\n")
    assert [len(line) for line in lines] == [frames] * count


def test_a_state_of_another_corpus_begins_anew_with_its_masks(folder: str) -> None:
    stepper = EnvStepper(envs.make_vector(FILL, 3, 0, source=folder, frames=8, task="harmonize"))
    state = stepper.state_dict()
    state["envs"]["last_obs"] = 1 - state["envs"]["last_obs"]
    stepper.load_state_dict(state)
    assert not stepper.exact
    assert stepper.mask is not None
    legal = ChoraleFill.legal(stepper.envs.core, stepper.envs.state)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(stepper.mask, legal.numpy())


def test_a_roll_in_letters_and_as_a_midi_file(tmp_path: Path) -> None:
    core = ChoraleFill(setting(frames=16, beat=4), WritingOptions("rules", "chrono", "harmonize"))
    state = core.reset(1, torch.Generator().manual_seed(0), piece=1, offset=8)
    text = core.text(state)[0].split("\n")
    column = [line[3] for line in text]
    soprano = int(state.pitches[0, 0, 3])
    assert column[P - 1 - soprano] == "S"
    assert set(column) == {"S", "."}
    end, _, _ = play(core, state, torch.Generator().manual_seed(1))
    assert set("".join(core.text(end))) <= set("SATB* \n")
    core.export_midi(end, str(tmp_path / "a.mid"))
    again = midi.read(tmp_path / "a.mid")
    np.testing.assert_array_equal(again, core.setting.notes(end.pitches)[0].numpy())


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        (FILL, {"reward": "nade"}, "reward='nade': needs model="),
        (FILL, {"reward": "rule"}, "reward='rule': accepted are nade, rules"),
        (FILL, {"task": "voice:7"}, "task='voice:7': accepted are voice:0"),
        (FILL, {"frames": 65}, "frames=65: no piece is that long"),
        (FILL, {"order": "random", "actions": "multidiscrete"}, "actions='multidiscrete': is for"),
        (FILL, {"model": "absent"}, "model='absent': accepted are a run folder"),
        (REWRITE, {}, "score='masked': needs model="),
        (REWRITE, {"actions": "note", "score": "rules"}, "corrupt=-1.0: needs model="),
        (REWRITE, {"model": "toy", "score": "rules"}, "score='rules': rules of harmony are for 4"),
        (CHRONO, {"memory": 3}, "memory=3: accepted are 1, 4"),
        (CHRONO, {"task": "bridge"}, "task='bridge': accepted are scratch, harmonize"),
    ],
)
def test_bad_options_are_named(
    env_id: str, options: dict[str, Any], message: str, folder: str
) -> None:
    with pytest.raises(UserError, match=message):
        envs.make_vector(env_id, 1, 0, **placed(options, folder))


def test_a_learner_that_knows_no_masks_can_train(folder: str) -> None:
    from stable_baselines3 import PPO

    env = gymnasium.make(FILL, frames=4, task="harmonize", source=folder)
    PPO("MlpPolicy", env, n_steps=64, batch_size=32, seed=0, device="cpu").learn(128)
