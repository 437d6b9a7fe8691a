"""Acting and replay of learners of continuous actions: bounds, counts, and what is stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from semigradient.errors import UserError
from semigradient.training.action_box import ActionBox
from semigradient.training.off_policy import OffPolicyConfig
from support.continuous import SMALL
from support.problems import build, parameters


def test_the_interval_is_mapped_onto_the_bounds() -> None:
    low, high = np.float32([[-1, 500, 0.1]]), np.float32([[3, 600, 0.3]])
    box = ActionBox(spaces.Box(low, high))
    assert box.dimensions == 3
    rows = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [0, 0.5, -0.5]])
    found = box.to_env(rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:2], np.stack([low, high]))
    np.testing.assert_allclose(found[2], [[1, 575, 0.15]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mapped_actions_are_of_the_space(dtype: type) -> None:
    low, high = np.array([[-0.1, 1e-3, -3e38], [0.7, 1 / 3, 3e38]], dtype)
    space = spaces.Box(low, high, dtype=dtype)
    box = ActionBox(space)
    rows = torch.cat([2 * torch.rand(200, 3) - 1, torch.ones(1, 3), -torch.ones(1, 3)])
    assert all(space.contains(action) for action in box.to_env(rows))
    uneven = spaces.Box(dtype(-0.46), dtype(0.02), (1,), dtype)  # middle + half > 0.02 by rounding
    assert uneven.contains(ActionBox(uneven).to_env(torch.ones(1, 1))[0])
    scalar = ActionBox(spaces.Box(-2, 2, (), dtype))
    assert scalar.to_env(torch.tensor([[0.5]])).tolist() == [1.0]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(0, np.inf, (2,)),
        spaces.Box(0, 10, (2,), np.int32),
        spaces.MultiDiscrete([2, 2]),
    ],
    ids=str,
)
def test_other_spaces_are_refused(space: spaces.Space) -> None:
    with pytest.raises(UserError, match="accepted is a Box of real numbers with bounds"):
        ActionBox(space)


@pytest.mark.parametrize(
    ("num_envs", "config", "expected"),
    [
        (4, {"train_every": 2, "gradient_steps": 3}, 6.0),  # two phases per step of all
        (4, {"train_every": 2, "gradient_steps": 3, "scale_gradient_steps": False}, 3.0),
        (1, {"train_every": 8, "gradient_steps": 3}, 3.0),
        (3, {"train_every": 2}, 1.5),
        (3, {"train_every": 2, "scale_gradient_steps": False}, 1.0),
    ],
)
def test_gradient_steps_per_step_of_all_environments(
    num_envs: int, config: dict, expected: float
) -> None:
    agent = build("td3", "test/Wide-v0", {**SMALL, **config}, num_envs=num_envs)
    while agent.progress.steps < 240:
        agent.iterate()
    begin, updates = agent.progress.steps, agent.updates
    while agent.progress.steps < begin + 240:
        agent.iterate()
    vector_steps = (agent.progress.steps - begin) / max(num_envs, config["train_every"])
    assert (agent.updates - updates) / vector_steps == expected


def test_actions_are_uniform_before_learning_starts() -> None:
    agent = build("sac", "test/Wide-v0", {**SMALL, "learning_starts": 2000, "batch_size": 64})
    while agent.progress.steps < 2000:
        assert agent.iterate() == {}
    stored = agent.collector.memory.sample(2000, agent.collector.sampling, 0.9).action
    assert agent.updates == 0
    assert stored.abs().max() <= 1
    torch.testing.assert_close(stored.mean(0), torch.zeros(2), atol=0.06, rtol=0)
    torch.testing.assert_close(stored.std(0), torch.full((2,), 1 / 3**0.5), atol=0.03, rtol=0)
    agent.iterate()
    assert agent.updates == 1


def test_images_are_refused() -> None:
    with pytest.raises(UserError, match="accepted is Box, but not images"):
        build("sac", "CarRacing-v3", {})


def test_bad_input_is_named() -> None:
    bad = {"gamma": 1.1, "target_rate": 0.0, "train_every": 0, "buffer_size": 8, "hidden": (0,)}
    for field, value in {**bad, "activation": "sine", "learning_starts": -1}.items():
        with pytest.raises(UserError, match=field):
            OffPolicyConfig(**{field: value})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["td3", "sac"])
def test_compiled_updates_equal_eager_ones(name: str) -> None:
    learned = []
    for compiled in (False, True):
        agent = build(name, "test/Wide-v0", {**SMALL, "hidden": (8,)}, compile=compiled)
        while agent.updates < 20:
            agent.iterate()
        learned.append([parameters(agent.actor), parameters(agent.critics)])
    for eager, fast in zip(*learned, strict=True):
        torch.testing.assert_close(eager, fast)
