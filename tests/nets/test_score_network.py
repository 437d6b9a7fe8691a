"""Coconet as a policy's network: it begins as the ancestral sampler, and learns from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from semigradient import agents, optim
from semigradient.commands import train
from semigradient.domains.music.trained_coconet import network
from semigradient.envs.adapters import CoreVector
from semigradient.envs.music.chorale_fill import ChoraleFill, WritingOptions
from semigradient.envs.music.chorale_setting import chorale_setting, conditionals_of
from semigradient.errors import UserError
from semigradient.nets.coconet import Coconet
from semigradient.nets.score_network import ScoreActorCritic, ScoreTrunk
from semigradient.training.agent import AgentContext
from support.chorales import pieces
from support.commands import QUIET

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Coconet of a few steps."""
    folder = tmp_path_factory.mktemp("coconet") / "run"
    words = "--agent coconet-small --env semigradient/Chorales-v0 --steps 64 "
    words += "--channels 6 --layers 5 --eval-every 64 --statistics-passes 0 "
    words += "--checkpoint-every 64 --eval-episodes 1 --validate-every 0 --seed 1"
    assert train([*words.split(), "--run-dir", str(folder), *QUIET]) == 0
    return str(folder)


def core(order: str = "free", model: Any = "", frames: int = 8) -> ChoraleFill:
    world = chorale_setting(pieces(), frames, 1, model=model)
    return ChoraleFill(world, WritingOptions("rules", order, "inpaint"))  # type: ignore[arg-type]


def build(name: str, config: dict[str, Any], order: str = "free", num_envs: int = 4) -> Any:
    torch.manual_seed(0)
    chosen = optim.config_class("adam")(lr=1e-3)
    setup = AgentContext(
        envs=CoreVector(core(order), num_envs),
        device=CPU,
        seed=0,
        total_steps=1000,
        optimizer=chosen,
    )
    return agents.agent_class(name)(agents.config_class(name)(**config), setup)


def test_a_trained_network_begins_as_the_ancestral_sampler(run: str) -> None:
    model = conditionals_of(run, "cpu")
    assert model is not None
    rules = core(model=run)
    state = rules.reset(5, torch.Generator().manual_seed(0))
    obs, legal = rules.observe(state), rules.legal(state)
    action = rules.single_action_space
    trunk = ScoreTrunk(rules.single_observation_space, int(action.n), 3, 3, network(run))
    policy = ScoreActorCritic(trunk, int(action.n))
    distribution = policy.policy(obs, legal).softmax(1)
    p = model(state.pitches.clamp(min=0), state.pitches >= 0).exp().flatten(1) * legal
    torch.testing.assert_close(distribution, p / p.sum(1, keepdim=True), atol=1e-6, rtol=1e-4)
    given = core("random", run)
    state = given.reset(5, torch.Generator().manual_seed(1))
    trunk = ScoreTrunk(given.single_observation_space, 46, 3, 3, network(run))
    _, logits = trunk(given.observe(state))
    p = model(state.pitches.clamp(min=0), state.pitches >= 0).flatten(1, 2)
    torch.testing.assert_close(logits, p[torch.arange(5), state.cell], atol=1e-5, rtol=1e-4)


TRAINED: list[tuple[str, dict[str, Any]]] = [
    ("ppo", {"rollout_steps": 8, "batch_size": 16, "epochs": 2}),
    ("a2c", {"rollout_steps": 8}),
    ("pcl", {"path_length": 4, "learning_starts": 16, "batch_size": 4, "rollout_steps": 8}),
    ("dqn", {"learning_starts": 8, "batch_size": 4, "buffer_size": 100, "train_every": 4}),
]


@pytest.mark.parametrize("order", ["free", "random"])
@pytest.mark.parametrize(("name", "config"), TRAINED)
def test_learners_train_it(name: str, config: dict[str, Any], order: str) -> None:
    agent = build(name, {**config, "torso": "coconet", "torso_width": 4, "torso_depth": 0}, order)
    before = {key: value.clone() for key, value in agent.network.state_dict().items()}
    for _ in range(4):
        scalars = agent.iterate()
    assert "loss" in scalars or "policy_loss" in scalars
    moved = {key for key, value in agent.network.state_dict().items()
             if not torch.equal(value, before[key])}  # fmt: skip
    assert "trunk.layers.convolutions.0.weight" in moved
    assert not {key for key in moved if "running" in key or "batches" in key}


def test_acting_and_learning_agree() -> None:
    config = {"rollout_steps": 8, "batch_size": 32, "epochs": 1, "torso": "coconet"}
    agent = build("ppo", {**config, "torso_width": 4})
    rollout = agent.collector.collect()
    parameters, value = agent.network(rollout.flat("obs"), rollout.flat("mask"))
    log_prob = agent.network.distribution.log_prob(parameters, rollout.flat("action"))
    torch.testing.assert_close(log_prob, rollout.flat("log_prob"))
    torch.testing.assert_close(value, rollout.flat("value"))


def test_a_coconet_of_quarters_is_refused_on_sixteenths(run: str) -> None:
    # The run's frames are quarters, grid=4; four frames a quarter are sixteenths.
    with pytest.raises(UserError, match=r"model: was trained on grid=4 .* has grid=1"):
        chorale_setting(pieces(), 8, 4, model=run)
    world = chorale_setting(pieces(), 8, 4)
    sixteenths = ChoraleFill(world, WritingOptions("rules", "free", "inpaint"))
    chosen = optim.config_class("adam")(lr=1e-3)
    setup = AgentContext(CoreVector(sixteenths, 2), CPU, 0, 1000, chosen)
    config = agents.config_class("a2c")(torso="coconet", torso_weights=run)
    with pytest.raises(UserError, match=r"torso_weights=.*was trained on grid=4 .* has grid=1"):
        agents.agent_class("a2c")(config, setup)
    build("a2c", {"torso": "coconet", "torso_weights": run})  # quarters
    assert conditionals_of(run, "cpu").grid == 4  # type: ignore[union-attr]


def test_biases_of_a_trained_network_are_taken_over(run: str) -> None:
    trained = network(run)
    assert trained.pitch_bias is not None
    assert trained.pitch_bias.abs().sum() > 0
    count = int(core().single_action_space.n)
    trunk = ScoreTrunk(core().single_observation_space, count, 3, 3, trained)
    assert torch.equal(trunk.layers.pitch_bias, trained.pitch_bias)  # type: ignore[arg-type]


def test_what_does_not_fit_is_named(run: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torso_weights='x': are for torso='coconet'"):
        build("ppo", {"torso_weights": "x"})
    with pytest.raises(UserError, match="no run folder of a Coconet"):
        build("ppo", {"torso": "coconet", "torso_weights": str(tmp_path)})
    with pytest.raises(UserError, match="torso='coconet': is for rolls"):
        ScoreTrunk(core().single_observation_space, 7, 4, 0)
    with pytest.raises(UserError, match="torso='nature': accepted are auto, blocks, coconet"):
        build("a2c", {"torso": "nature"})
    other = Coconet(4, 5, pitches=3, voices=2)
    rules = core()
    count = int(rules.single_action_space.n)
    with pytest.raises(UserError, match="2 voices, 3 pitches"):
        ScoreTrunk(rules.single_observation_space, count, 4, 0, other)
