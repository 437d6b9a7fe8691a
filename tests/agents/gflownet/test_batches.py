"""What is remembered, with which priority, and how remembered objects are walked back from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.domains.flows.trajectories import Trajectories
from support.flow_agents import make

TINY = ("--hidden", "16", "--batch-size", "8", "--exact-every", "0", "--loss", "tb")
FREE = ("rule=exit_only", "height=7")


def fresh(agent: GFlowNet) -> Trajectories:
    return agent.batches.build(agent.look, None, (0, 1)).paths


def test_objects_are_walked_back_from_by_the_learned_backward_policy() -> None:
    flags = (*TINY, "--replay", "terminals", "--backward", "learned", "--replay-share", 1)
    agent = make(*flags, env=FREE)
    table, memory = agent.table, agent.batches.memory
    assert table is not None
    assert memory is not None
    with torch.no_grad():
        agent.network.trunk[-1].bias[table.actions] = 50.0  # the first parent, which is nearly sure
    paths = fresh(agent)
    memory.add(paths, torch.zeros(8))
    old = agent.batches.mix(paths, agent.look).paths
    assert len(old.length) == 8
    for column, length in enumerate(old.length.tolist()):
        for t in range(1, length):
            parents = table.parents(old.state[t, column][None])
            if bool(parents.real[0, 0]) and old.action[t - 1, column] != table.actions - 1:
                assert parents.state[0, 0] == old.state[t - 1, column]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_losses_are_noted_of_what_they_belong_to(share: float) -> None:
    flags = ("--replay", "trajectories", "--replay-priority", "loss", "--replay-share", share)
    agent = make(*TINY, *flags)
    memory = agent.batches.memory
    assert memory is not None
    memory.add(fresh(agent), torch.arange(8).double())
    before = memory.priority.clone()
    mixed = agent.batches.mix(fresh(agent), agent.look)
    assert mixed.places is not None
    count = len(mixed.paths.length)
    penalty = 2.0 + torch.arange(count)
    agent.batches.remember(mixed, penalty)
    learned = 0 if share == 1 else 8
    expected: Tensor = before.clone()
    expected[mixed.places] = penalty[learned:].double().log()  # the last one of equal places
    # What was not learned from is as urgent as the most urgent one was.
    expected[8:16] = penalty[:8].double().log() if learned else 7.0
    assert torch.allclose(memory.priority[:16], expected[:16])
    assert len(memory) == 16


def test_rewards_as_priorities_have_the_exponent() -> None:
    flags = ("--replay", "trajectories", "--replay-priority", "reward", "--reward-exponent", 3)
    agent = make(*TINY, *flags)
    memory = agent.batches.memory
    assert memory is not None
    for _ in range(2):
        agent.iterate()
    objects = memory.everything().objects
    expected = 3 * agent.rules.log_reward(objects)
    assert torch.allclose(memory.priority[: len(memory)], expected)


def test_every_edge_has_the_priority_of_its_object() -> None:
    flags = ("--replay", "transitions", "--replay-priority", "reward", "--reward-exponent", 2)
    agent = make("--hidden", 16, "--batch-size", 8, "--exact-every", 0, "--loss", "db", *flags)
    paths = fresh(agent)
    mixed = agent.batches.mix(paths, agent.look)
    assert mixed.log_reward is not None
    rows, columns = paths.valid.nonzero(as_tuple=True)
    assert torch.equal(mixed.new.state[0], paths.state[rows, columns])
    expected = 2 * agent.rules.log_reward(paths.objects)[columns]
    assert torch.allclose(mixed.log_reward, expected)
