"""Adam's short way against torch's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from semigradient.optim.adam import Adam, AdamW

PAIRS = [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]


def learner() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    rows = torch.randn(steps, 16, 4, generator=torch.Generator().manual_seed(seed))
    for row in rows:
        optimizer.zero_grad()
        net(row).square().mean().backward()
        optimizer.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "betas": (0.5, 0.7), "eps": 1e-3}])
def test_steps_are_torchs_to_the_last_bit(ours: Any, theirs: Any, options: Any) -> None:
    nets = [learner(), learner()]
    optimizers = [
        made(net.parameters(), 0.01, fused=True, **options)
        for made, net in zip((ours, theirs), nets, strict=True)
    ]
    for round_ in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + round_)
            train(net, optimizer, 5, round_)
        assert same(*nets)
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    for index, entries in states[1].items():
        assert all(torch.equal(states[0][index][key], value) for key, value in entries.items())


def test_a_loaded_state_is_the_one_that_moves_on() -> None:
    nets = [learner(), learner()]
    optimizers = [Adam(net.parameters(), 0.01, fused=True) for net in nets]
    train(nets[0], optimizers[0], 3)
    train(nets[1], optimizers[1], 7, seed=1)
    saved = copy.deepcopy(optimizers[0].state_dict())
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers[1].load_state_dict(saved)
    for net, optimizer in zip(nets, optimizers, strict=True):
        train(net, optimizer, 3)
    assert same(*nets)


def test_missing_gradients_groups_and_hooks_are_heeded() -> None:
    nets = [learner(), learner()]
    optimizers: list[Any] = [
        Adam(nets[0].parameters(), 0.01, fused=True),
        torch.optim.Adam(nets[1].parameters(), 0.01, fused=True),
    ]
    called = []
    for net, optimizer in zip(nets, optimizers, strict=True):
        train(net, optimizer, 2)
        net[0].requires_grad_(False)
        train(net, optimizer, 2)
        net[0].requires_grad_(True)
        extra = nn.Parameter(torch.ones(3))
        optimizer.add_param_group({"params": [extra], "lr": 1.0})
        optimizer.zero_grad()
        (net(torch.ones(1, 4)).sum() + extra.sum()).backward()
        optimizer.step()
        optimizer.step()
        optimizer.register_step_post_hook(lambda *_: called.append(1))
        optimizer.step()
    assert same(*nets)
    assert len(called) == 2
