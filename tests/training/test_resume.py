"""One command gives one result: twice the same, and the same again after `kill -9`.

What must not depend on the process runs in several: a victim, and one like it without end, in
processes of their own; everything else here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from semigradient.commands import train
from semigradient.training import checkpoint
from support.commands import QUIET
from support.processes import Forked
from support.runs import assert_same_run, final, finish, kill_after_first_checkpoint
from support.states import differences

Start = Callable[..., Forked]
Whole = Callable[[str], Path]

_CARTPOLE = (
    "--env CartPole-v1 --eval-episodes 2 --eval-every 1024 --log-every 256 --checkpoint-every 512"
)
_VALUES = (
    "--num-envs 1 --hidden 32 --learning-starts 300 --buffer-size 1000 --batch-size 16 "
    "--train-every 8 --gradient-steps 2 --target hard --target-update-every 200"
)
# Short games with sticky actions: most resets come from the emulator, a few with a new seed.
_BREAKOUT = (
    "--env ALE/Breakout-v5 --env-options max_num_frames_per_episode=160 reseed_after=100 "
    "--num-envs 2 --device cpu --threads 1 --seed 3 --eval-episodes 1 --eval-every 240 "
    "--log-every 100 --checkpoint-every 160"
)
_PIXELS = (
    "--steps 320 --hidden 16 --learning-starts 60 --buffer-size 200 --batch-size 4 "
    "--train-every 4 --target-update-every 80"
)

_PHYSICAL = (
    "--steps 2400 --num-envs 4 --seed 2 --eval-episodes 2 --eval-every 1200 --log-every 400 "
    "--checkpoint-every 800 --hidden 16 16 --batch-size 16 --gradient-steps 5 --buffer-size 1000 "
    "--normalise-observations"
)

CASES = {
    "dqn-cartpole": f"--agent dqn {_CARTPOLE} {_VALUES} --steps 2000",
    "ddqn-cartpole": f"--agent ddqn {_CARTPOLE} {_VALUES} --steps 2000 --dueling --n-step 3 "
    "--target ema",
    "ppo-cartpole": f"--agent ppo {_CARTPOLE} --steps 3000 --num-envs 4 --rollout-steps 32 "
    "--batch-size 32 --epochs 4 --hidden 16 --normalise-observations --normalise-rewards",
    "a2c-cartpole": f"--agent a2c {_CARTPOLE} --steps 3000 --num-envs 4 --hidden 16 "
    "--normalise-observations --normalise-rewards",
    "a2c-lake": "--agent a2c --env FrozenLake-v1 --steps 3000 --num-envs 4 --hidden 16 "
    "--eval-episodes 2 --eval-every 1024 --log-every 256 --checkpoint-every 512",
    "dau-pendulum": f"--agent dau --env semigradient/Pendulum-v0 {_PHYSICAL} --env-options dt=0.05 "
    "time_limit=1.5",
    "dau-pusher": f"--agent dau --env semigradient/Pusher-v0 {_PHYSICAL} --env-options dt=0.05 "
    "time_limit=1.5 actions=discrete",
    "ddpg-pendulum": f"--agent ddpg --env semigradient/Pendulum-v0 {_PHYSICAL} --target-rate 0.1 "
    "--env-options dt=0.05 time_limit=1.5",
    "dqn-ou": f"--agent dqn --env semigradient/CartPole-v0 --optim rmsprop {_VALUES} --steps 4000 "
    "--train-every 8 --time scaled --exploration ou --layer-norm --env-options dt=0.05 "
    "time_limit=1.5 --eval-episodes 2 --eval-every 2000 --log-every 400 --checkpoint-every 800",
    "dqn-breakout": f"--agent dqn {_BREAKOUT} {_PIXELS}",
    "ddqn-breakout": f"--agent ddqn {_BREAKOUT} {_PIXELS} --n-step 2",
    "ppo-breakout": f"--agent ppo {_BREAKOUT} --steps 320 --rollout-steps 20 --batch-size 20 "
    "--epochs 2",
    "gflownet-grid": "--agent gflownet --env semigradient/HyperGrid-v0 --steps 3000 --hidden 16 "
    "--batch-size 4 --loss subtb --backward learned --replay trajectories --eval-episodes 2 "
    "--eval-every 1024 --log-every 512 --checkpoint-every 512",
    "online-ac-queue": "--agent online-ac --env semigradient/Queue-v0 --env-options length=50 "
    "--num-envs 2 --steps 1600 --units 4 --eval-episodes 2 --eval-every 1200 --log-every 420 "
    "--checkpoint-every 830",
    "pcl-toy": "--agent pcl --env semigradient/ToyChorale-v0 --env-options task=inpaint "
    "--steps 1600 --num-envs 8 --hidden 16 --path-length 4 --buffer-size 400 --learning-starts 200 "
    "--batch-size 16 --gradient-steps 1 --eval-episodes 2 --eval-every 1200 --log-every 400 "
    "--checkpoint-every 800",
    "a2c-breakout": f"--agent a2c {_BREAKOUT} --steps 320",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """`whole(name)`: the folder of a case that nothing interrupted, trained when first asked."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "whole"
            run_here(*CASES[name].split(), "--run-dir", made[name])
        return made[name]

    return run


# Kinds of learner and of environment whose parts another case has.
_LONG = {
    *("ddqn-cartpole", "a2c-cartpole", "ddqn-breakout", "a2c-breakout", "ppo-breakout"),
    *("online-ac-queue", "dau-pusher", "ddpg-pendulum", "dqn-ou"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in _LONG else ()) for name in CASES],
)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    name: str,
    tmp_path: Path,
    whole: Whole,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = CASES[name].split()
    broken = tmp_path / "broken"
    kill_after_first_checkpoint(*arguments, "--run-dir", broken)
    steps = steps_of(arguments)
    killed_at = checkpoint.load(broken / "checkpoints", None).step
    assert 0 < killed_at < steps
    assert not (broken / "summary.json").exists()

    run_here("--resume", broken)
    output = capsys.readouterr().out

    assert f"resumed at step {killed_at} from step-{killed_at:012d} (exact)" in output
    assert final(broken).step >= steps
    assert_same_run(whole(name), broken)


def test_one_seed_gives_one_result_and_another_seed_another(
    tmp_path: Path, start_train: Start, whole: Whole
) -> None:
    arguments = CASES["dqn-breakout"].split()
    first, second, other = whole("dqn-breakout"), tmp_path / "second", tmp_path / "other"
    finish(start_train(*arguments, "--run-dir", second))
    run_here(*arguments, "--seed", 4, "--run-dir", other)
    assert_same_run(first, second)
    with pytest.raises(AssertionError):
        assert_same_run(first, other)


def test_the_comparison_sees_the_smallest_difference() -> None:
    state = {"a": torch.zeros(3), "b": [np.arange(3), {"c": 2**70}], "d": 1.0}
    assert differences(state, {**state, "b": [np.arange(3), {"c": 2**70}]}) == []
    assert differences(state, {**state, "a": torch.tensor([0.0, 0.0, 1e-38])}) == [".a"]
    assert differences(state, {**state, "a": torch.zeros(3, dtype=torch.float64)}) == [".a"]
    assert differences(state, {**state, "b": [np.arange(3), {"c": 2**70 + 1}]}) == [".b.1.c"]
    assert differences(state, {"a": state["a"], "b": state["b"]}) == [""]


def steps_of(arguments: list[str]) -> int:
    return int(arguments[arguments.index("--steps") + 1])


def run_here(*arguments: object) -> None:
    """Train in this process."""
    assert train([*map(str, arguments), *QUIET]) == 0
