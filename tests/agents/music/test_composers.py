"""Composers as policies: what they return on the exact chorale; a schedule that is learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient import agents, optim
from semigradient.agents.music.composers import ancestral
from semigradient.envs import make_vector
from semigradient.envs.music.chorale_fill import ChoraleFill, WritingOptions
from semigradient.envs.music.chorale_setting import chorale_setting
from semigradient.envs.music.toy_chorale import toy_joint
from semigradient.errors import UserError
from semigradient.training.agent import AgentContext
from semigradient.training.evaluation import evaluate
from support.chorales import pieces

TOY, REWRITE = "semigradient/ToyChorale-v0", "semigradient/ChoraleRewrite-v0"


def build(name: str, env_id: str, config: dict[str, Any], num_envs: int = 64, **env: Any) -> Any:
    torch.manual_seed(0)
    chosen = optim.config_class("adam")(lr=1e-2)
    setup = AgentContext(
        envs=make_vector(env_id, num_envs, 0, **env),
        device=torch.device("cpu"),
        seed=0,
        total_steps=10_000,
        optimizer=chosen,
    )
    return agents.agent_class(name)(agents.config_class(name)(**config), setup)


def returns(agent: Any, env_id: str, episodes: int, **env: Any) -> np.ndarray:
    return evaluate(agent.policy(True), make_vector(env_id, 250, 7, **env), episodes).returns


def test_ancestral_sampling_returns_minus_the_entropy_and_random_actions_less() -> None:
    scores = returns(build("composer", TOY, {"kind": "ancestral"}), TOY, 4000)
    error = 4 * scores.std() / 4000**0.5
    assert scores.mean() == pytest.approx(-toy_joint().entropy(), abs=error)
    plain = returns(build("composer", TOY, {"kind": "random-legal"}), TOY, 1000)
    # Uniform rolls: E[log p] by the sum over all of them.
    expected = float(toy_joint().log_p.mean())
    assert plain.mean() == pytest.approx(expected, abs=4 * plain.std() / 1000**0.5)


def test_probability_of_illegal_pitches_goes_to_the_others_of_a_cell() -> None:
    # The soprano's first cell has a tenth of its mass on what it can sing, all others have all.
    singable = chorale_setting(pieces(), 2, 1).singable

    def model(pitches: Tensor, known: Tensor) -> Tensor:
        legal = singable.double() / singable.sum(1, keepdim=True)
        p = legal[None, :, None].repeat(len(pitches), 1, 2, 1)
        p[:, 0, 0] = 0.1 * p[:, 0, 0] + 0.9 * (~singable[0]).double() / (~singable[0]).sum()
        return p.clamp(min=1e-30).log()

    options = WritingOptions("rules", "free", "inpaint", context_rate=0.0)
    core = ChoraleFill(chorale_setting(pieces(), 2, 1, model=model), options)
    state = core.reset(4000, torch.Generator().manual_seed(0))
    state = state._replace(pitches=torch.full_like(state.pitches, -1))
    actions = ancestral(core, torch.Generator().manual_seed(1))(core.observe(state).numpy())
    cells = np.bincount(actions // 46, minlength=8) / 4000
    assert np.abs(cells - 1 / 8).max() < 0.03
    assert core.legal(state)[torch.arange(4000), torch.from_numpy(actions)].all()


def test_samplers_that_rewrite() -> None:
    options: dict[str, Any] = {"model": "toy", "steps": 30, "masks": 4}
    joint, last = toy_joint(), {}
    for kind, config in (("annealed", {}), ("constant", {"alpha": 0.9}), ("nothing", {})):
        env = {**options, "actions": "schedule"}
        agent = build("composer", REWRITE, {"kind": kind, **config}, 2000, **env)
        act = agent.policy(True)
        for _ in range(29):
            step = agent.stepper.step(act(agent.stepper.obs, None))
            assert kind != "nothing" or not step.reward.any()
        rolls = agent.setup.envs.state.pitches
        last[kind] = float(joint.log_p[joint.index(rolls)].mean())
    # The stationary means of rates 0.1 and 0.9 are -4.7812 and -7.1884.
    assert last["annealed"] == pytest.approx(-4.85, abs=0.25)
    assert last["constant"] == pytest.approx(-7.1884, abs=0.2)
    assert last["nothing"] < last["constant"]


def test_one_voice_after_the_other() -> None:
    agent = build("composer", REWRITE, {"kind": "one-voice"}, 3, model="toy", steps=6)
    act = agent.policy(True)
    for step in range(5):
        before = agent.setup.envs.state
        agent.stepper.step(act(agent.stepper.obs, None))
        after = agent.setup.envs.state
        other = 1 - step % 2
        assert torch.equal(after.pitches[:, other], before.pitches[:, other])
        assert (after.erased == 3).all()


def test_random_actions_are_in_every_space() -> None:
    for actions in ("block", "mask", "schedule"):
        agent = build(
            "composer", REWRITE, {"kind": "random-legal"}, 5, model="toy", actions=actions
        )
        agent.iterate()
        chosen = agent.policy(True)(agent.stepper.obs, None)
        assert agent.setup.envs.action_space.contains(chosen)


@pytest.mark.parametrize(
    ("env_id", "config", "env", "message"),
    [
        (TOY, {"kind": "annealed"}, {}, "kind='annealed': ancestral fills"),
        (REWRITE, {"kind": "ancestral"}, {"model": "toy"}, "kind='ancestral': ancestral fills"),
        (TOY, {"kind": "ancestral"}, {"order": "random"}, "kind='ancestral': needs order=free"),
        (TOY, {"kind": "bach"}, {}, "kind='bach': accepted are random-legal"),
        (TOY, {"alpha": 2.0}, {}, "alpha=2.0: must be in"),
    ],
)
def test_what_does_not_fit_is_named(
    env_id: str, config: dict[str, Any], env: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build("composer", env_id, config, 1, **env)


def test_a_schedule_is_learned() -> None:
    # Where erasing is dear, the less of it the better: at first half of all rates are above 0.
    env = {"model": "toy", "actions": "schedule", "steps": 4, "masks": 2, "cost": 0.5}
    config = {"hidden": (8,), "activation": "tanh", "entropy_coefficient": 0.0}
    agent = build("reinforce", REWRITE, config, 64, **env)
    agent.iterate()
    first = np.mean([gain for gain, _ in agent.progress.pop_episodes()])
    for _ in range(50):
        agent.iterate()
    agent.progress.pop_episodes()
    agent.iterate()
    assert np.mean([gain for gain, _ in agent.progress.pop_episodes()]) > first / 2 > -4
