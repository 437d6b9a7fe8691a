import inspect
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO

from semigradient.agents.sb3.bridge import Bridge
from semigradient.agents.sb3.zip_parameters import read_zip
from semigradient.envs import make_vector
from semigradient.errors import UserError
from semigradient.training import parts
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.command import make_command
from semigradient.training.timers import Timers


def make(agent, *extra, env="CartPole-v1", learning=True):
    command = parse(["--agent", agent, "--env", env, "--threads", "1", *extra]).command
    return build(command, learning)


def train(agent, steps):
    while agent.progress.steps < steps:
        scalars = agent.iterate()
    assert all(np.isfinite(float(value)) for value in scalars.values())
    return scalars


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("sb3-dqn", ("--train-freq", "64", "--gradient-steps", "8", "--learning-starts", "100")),
        ("sb3-ppo", ()),
        ("sb3-a2c", ()),
    ],
)
def test_trains_and_moves_its_parameters(name, extra):
    agent = make(name, "--steps", "1000", *extra)
    before = {key: value.clone() for key, value in parts.learned(agent).items()}
    scalars = train(agent, 600)
    assert any(not torch.equal(before[key], value) for key, value in parts.learned(agent).items())
    assert "n_updates" in scalars
    assert {"environment", "act", "learn"} <= set(agent.timers.seconds)
    episodes = agent.progress.pop_episodes()
    assert episodes
    assert all(total == length for total, length in episodes)  # CartPole pays 1 a step
    assert agent.progress.pop_episodes() == []


@pytest.mark.parametrize("env", ["Pendulum-v1", "MountainCar-v0"])
def test_normalisation_travels_with_the_policy(env):
    agent = make("sb3-a2c", "--steps", "1000", env=env)
    train(agent, 200)
    other = make("sb3-a2c", "--steps", "1000", env=env, learning=False)
    parts.load_policy_state(other, parts.policy_state(agent))
    obs = np.random.default_rng(0).normal(size=(20, *agent.bridge.observation_space.shape))
    obs = obs.astype(np.float32)
    np.testing.assert_array_equal(agent.policy(True)(obs, None), other.policy(True)(obs, None))


@pytest.mark.parametrize("name", ["sb3-dqn", "sb3-ppo", "sb3-a2c"])
def test_checkpoint_brings_back_what_it_promises(name):
    extra = ("--steps", "2000")
    if name == "sb3-dqn":
        extra += ("--learning-starts", "0", "--gradient-steps", "4")
    agent = make(name, *extra)
    train(agent, 300)
    state = parts.state(agent)
    other = make(name, *extra, "--seed", "5")
    parts.load(other, state)
    assert other.progress.steps == agent.progress.steps
    assert not other.progress.exact
    for key, value in parts.learned(agent).items():
        torch.testing.assert_close(parts.learned(other)[key], value, rtol=0, atol=0)
    theirs = other.model.policy.optimizer.state_dict()["state"]
    ours = agent.model.policy.optimizer.state_dict()["state"]
    assert theirs.keys() == ours.keys()
    assert ours
    if name == "sb3-dqn":
        assert other.model.exploration_rate == pytest.approx(agent.model.exploration_rate)
    train(other, agent.progress.steps + 100)


def test_bridge_shows_the_end_of_an_episode_as_sb3_expects_it():
    envs = make_vector("CartPole-v1", 2, 0)
    bridge = Bridge(envs, Timers())
    bridge.reset()
    for _ in range(200):
        obs, rewards, dones, infos = bridge.step(np.zeros(2, dtype=np.int64))
        assert rewards.dtype == np.float32
        for index in np.flatnonzero(dones):
            last = infos[index]["terminal_observation"]
            assert not infos[index]["TimeLimit.truncated"]
            assert abs(last[2]) > 0.2095 or abs(last[0]) > 2.4  # fallen, and not yet reset
            assert np.abs(obs[index]).max() <= 0.05
        assert all(info == {} for info, done in zip(infos, dones, strict=True) if not done)
    assert bridge.episodes


def test_bridge_tells_a_time_limit_and_clips_rewards():
    bridge = Bridge(make_vector("Pendulum-v1", 1, 0), Timers(), clip_rewards=True)
    bridge.reset()
    for _ in range(200):
        _, rewards, dones, infos = bridge.step(np.zeros((1, 1), dtype=np.float32))
        assert -1 <= rewards[0] <= 1
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"]
    assert bridge.episodes[0][0] < -200  # the return stays raw
    assert bridge.episodes[0][1] == 200


def test_hidden_layers_have_the_chosen_nonlinearity():
    kinds = [
        {
            type(module)
            for module in make("sb3-ppo", "--preset", "none", *flags).model.policy.modules()
        }
        for flags in ((), ("--activation-fn", "relu"))
    ]
    assert torch.nn.Tanh in kinds[0] - kinds[1]
    assert torch.nn.ReLU in kinds[1] - kinds[0]
    with pytest.raises(UserError, match="unknown activation_fn 'rellu': did you mean"):
        make("sb3-ppo", "--preset", "none", "--activation-fn", "rellu")


@pytest.mark.parametrize(("name", "cls"), [("sb3-dqn", DQN), ("sb3-ppo", PPO)])
def test_imported_zip_acts_as_sb3_does(tmp_path, name, cls):
    shape = {"policy_kwargs": {"net_arch": [32, 32]}}
    model = cls("MlpPolicy", "CartPole-v1", seed=3, device="cpu", **shape)
    model.save(tmp_path / "model.zip")
    agent = make(
        name, "--preset", "none", "--net-arch", "32", "32",
        "--import-zip", str(tmp_path / "model.zip"),
    )  # fmt: skip
    obs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    expected, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(agent.policy(True)(obs, None), expected)
    assert 0 < expected.mean() < 1


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def write_zip(path, policy, data=b"{}"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("policy.pth", policy)
        archive.writestr("data", data)


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_pickles_in_a_zip_are_not_executed(tmp_path):
    proof = tmp_path / "executed"
    intact = {"weight": torch.zeros(2)}
    write_zip(tmp_path / "a.zip", saved(intact), data=pickle.dumps(Bomb(proof)))
    assert read_zip(tmp_path / "a.zip").keys() == intact.keys()
    for number, policy in enumerate([saved(Bomb(proof)), pickle.dumps(Bomb(proof))]):
        write_zip(tmp_path / f"b{number}.zip", policy)
        with pytest.raises(UserError):
            read_zip(tmp_path / f"b{number}.zip")
    assert not proof.exists()
    pickle.loads(pickle.dumps(Bomb(proof)))  # the trap does work
    assert proof.exists()


def test_zip_that_is_none_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        read_zip(tmp_path / "missing.zip")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(UserError, match="not a zip"):
        read_zip(tmp_path / "text.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(UserError, match=r"no policy\.pth"):
        read_zip(tmp_path / "other.zip")
    write_zip(tmp_path / "list.zip", saved([1, 2]))
    with pytest.raises(UserError, match="named tensors"):
        read_zip(tmp_path / "list.zip")
    write_zip(tmp_path / "nan.zip", saved({"weight": torch.tensor([float("nan")])}))
    with pytest.raises(UserError, match="finite"):
        read_zip(tmp_path / "nan.zip")
    plain = torch.ones(2, 2)
    for odd in (plain.to_sparse(), plain + 1j):
        write_zip(tmp_path / "odd.zip", saved({"weight": plain, "odd": odd}))
        with pytest.raises(UserError, match="are no dense real numbers: odd"):
            read_zip(tmp_path / "odd.zip")
    write_zip(tmp_path / "large.zip", saved({"weight": torch.zeros(10_000)}))
    monkeypatch.setattr("semigradient.agents.sb3.zip_parameters._ZIP_LIMIT", 20_000)
    with pytest.raises(UserError):
        read_zip(tmp_path / "large.zip")


@pytest.mark.parametrize("name", ["sb3-dqn", "sb3-ppo", "sb3-a2c"])
def test_defaults_are_those_of_sb3(name):
    agent = make(name, "--preset", "none")
    theirs = inspect.signature(agent.ALGORITHM).parameters
    ours = agent.config.arguments()
    network = ours.pop("policy_kwargs")
    if name == "sb3-ppo":
        assert ours.pop("clip_range")(0.5) == theirs["clip_range"].default
    assert ours == {key: theirs[key].default for key in ours}
    policy = inspect.signature(agent.ALGORITHM.policy_aliases["MlpPolicy"]).parameters
    assert network["activation_fn"] is policy["activation_fn"].default


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("sb3-dqn", "n_epochs"),
        ("sb3-dqn", "ent_coef"),
        ("sb3-ppo", "buffer_size"),
        ("sb3-a2c", "clip_range"),
        ("sb3-a2c", "batch_size"),
    ],
)
def test_options_of_other_algorithms_are_refused(name, option, tmp_path):
    with pytest.raises(UserError, match=option.replace("_", "-")) as refusal:
        make(name, f"--{option.replace('_', '-')}", "8")
    assert "\n" not in str(refusal.value)
    file = tmp_path / "config.toml"
    file.write_text(f"[agent_config]\n{option} = 8\n")
    with pytest.raises(UserError, match=f"unknown key '{option}'"):
        make(name, "--config", str(file))
    with pytest.raises(UserError, match=f"unknown option '{option}'"):
        make_command(name, "CartPole-v1", **{option: 8})


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="Discrete"):
        make("sb3-dqn", env="Pendulum-v1")
    with pytest.raises(UserError, match="compile"):
        make("sb3-ppo", "--compile")
    with pytest.raises(UserError, match="max_grad_norm"):
        parse(["--agent", "sb3-ppo", "--env", "CartPole-v1", "--max-grad-norm", "0"])
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "model.zip")
    with pytest.raises(UserError, match="another architecture"):
        make("sb3-ppo", "--net-arch", "8", "--import-zip", str(tmp_path / "model.zip"))
