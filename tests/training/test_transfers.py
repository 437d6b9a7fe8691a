"""Learning does not make the host wait for the device.

There need be no GPU for that: operations that would make the host wait are seen when they are
called, and what looks at numbers on the CPU alone is told that this is not free. What cannot be
seen is a copy between devices that no one asks for by name.
"""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from semigradient import make_agent
from semigradient.training import transfers
from semigradient.training.gradients import clip_gradients
from semigradient.training.timers import Timers
from support.commands import ROOT

READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "is_nonzero"}
READS |= {"_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"}
TAKES_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_"}
TO_HOST = {"cpu", "numpy", "tolist", "__array__"}
FROM_HOST = {"tensor", "as_tensor", "from_numpy"}


class Reads(TorchDispatchMode):
    """Notes every operation whose result, or its shape, the host has to look at."""

    def __init__(self, met: list[str]) -> None:
        super().__init__()
        self.met = met

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = name in TAKES_INDICES and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masks or name in READS:
            self.met.append(f"{name} {_place()}")
        return func(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """Notes every copy to the host, and every copy from there that the host waits for."""

    def __init__(self, met: list[str]) -> None:
        super().__init__()
        self.met = met

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name, given = getattr(func, "__name__", ""), [*args[1:], *kwargs.values()]
        sends = name == "from_numpy" or (name in FROM_HOST and kwargs.get("device") is not None)
        moves = name in ("to", "cuda") and not kwargs.get("non_blocking", False)
        moves = moves and any(isinstance(each, torch.device | str | Tensor) for each in given)
        if name in TO_HOST or sends or moves or _has_list(name, args):
            self.met.append(f"{name} {_place()}")
        return func(*args, **kwargs)


class Watching(Timers):
    """Notes what happens within "learn"."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []
        self._modes: list[ExitStack] = []

    def __enter__(self) -> Timers:
        super().__enter__()
        modes = ExitStack()
        if self._open[-1][0] == "learn":
            modes.enter_context(Reads(self.met))
            modes.enter_context(Copies(self.met))
        self._modes.append(modes)
        return self

    def __exit__(self, *problem: Any) -> None:
        self._modes.pop().close()
        super().__exit__(*problem)


def _has_list(name: str, args: Any) -> bool:
    """Whether a tensor is indexed by numbers that are not on the device."""
    if name not in ("__getitem__", "__setitem__"):
        return False
    each = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(index, list | np.ndarray) for index in each)


def _place() -> str:
    """Where our own code is."""
    ours = [each for each in traceback.extract_stack() if _is_ours(each.filename)]
    return f"{Path(ours[-1].filename).name}: {ours[-1].line}" if ours else "?"


def _is_ours(path: str) -> bool:
    return path.startswith(str(ROOT)) and path != __file__


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "reading_is_free", lambda device: False)


def waits(agent: str, env: str, iterations: int = 1, **options: Any) -> list[str]:
    """What the host waited for in so many iterations, after the first update."""
    made: Any = make_agent(agent, env, seed=0, **options)
    if agent == "gflownet":
        made.batches.sampler = None  # of the CPU alone
    while made.progress.steps <= options.get("learning_starts", 0):
        made.iterate()
    watching = made.timers = Watching()
    for _ in range(iterations):
        made.iterate()
    assert watching.seconds["learn"] > 0, "nothing was learned"
    return watching.met


GRID = "semigradient/HyperGrid-v0"
DQN: dict[str, Any] = {"learning_starts": 32, "batch_size": 8, "max_grad_norm": 1e-3}
PPO: dict[str, Any] = {"num_envs": 2, "rollout_steps": 8, "batch_size": 8, "max_grad_norm": 1e-3}
FLOW: dict[str, Any] = {"batch_size": 8, "max_grad_norm": 1e-3, "exact_every": 0}
SMALL = {"dimensions": 2, "height": 7}
WIDE: dict[str, Any] = {**FLOW, "env_options": {"dimensions": 4, "height": 7}}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dqn": ("dqn", "CartPole-v1", {**DQN, "target": "hard"}),
    "dqn-ema": ("dqn", "CartPole-v1", {**DQN, "target": "ema", "n_step": 3, "double": True}),
    "ppo": ("ppo", "CartPole-v1", PPO),
    "ppo-whole": ("ppo", "CartPole-v1", {**PPO, "batch_size": 16, "clip_schedule": "linear"}),
    "ppo-box": ("ppo", "Pendulum-v1", PPO),
    "a2c": ("a2c", "CartPole-v1", {"num_envs": 2, "max_grad_norm": 1e-3}),
    "tb-few": ("gflownet", GRID, {**FLOW, "batch_size": 16, "env_options": SMALL}),
    "tb": ("gflownet", GRID, {**WIDE, "loss": "tb"}),
    "fm": ("gflownet", GRID, {**WIDE, "loss": "fm"}),
    "fm-target": ("gflownet", GRID, {**WIDE, "loss": "fm", "target": "ema"}),
    "db-learned": ("gflownet", GRID, {**WIDE, "loss": "db", "backward": "learned"}),
    "subtb": ("gflownet", GRID, {**WIDE, "loss": "subtb"}),
    "meva": ("meva", "semigradient/IPD-v0", {"batch_size": 4, "trajectory": 4, "stride": 2}),
    "sac": ("sac", "Pendulum-v1", {"learning_starts": 32, "batch_size": 8}),
}


@pytest.mark.parametrize("optim", ["adam", "rmsprop"])
@pytest.mark.parametrize("case", CASES)
def test_learning_never_makes_the_host_wait(case: str, optim: str) -> None:
    agent, env, options = CASES[case]
    assert waits(agent, env, 4, optim=optim, **options) == []


def test_a_limit_of_the_kl_divergence_is_looked_at_at_each_minibatch() -> None:
    options = {**PPO, "epochs": 3, "max_grad_norm": 0.5, "target_kl": 1e6}
    met = waits("ppo", "CartPole-v1", **options)
    assert len(met) == 3 * 2
    assert all(each.startswith("_local_scalar_dense ppo.py") for each in met)


def test_on_the_cpu_numbers_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert waits("a2c", "CartPole-v1", num_envs=2, max_grad_norm=0.5) != []


def test_repeated_states_give_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    for loss in ("tb", "fm", "fl-db"):
        losses = {}
        for free in (True, False):
            monkeypatch.setattr(transfers, "reading_is_free", lambda device, free=free: free)
            made: Any = make_agent("gflownet", GRID, seed=0, loss=loss, **WIDE)
            made.batches.sampler = None
            losses[free] = [float(made.iterate()["loss"]) for _ in range(3)]
        assert losses[True] == pytest.approx(losses[False], rel=1e-5)


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        lambda x: x.to(torch.device("cpu")),
        lambda x: x[[0, 1]],
        lambda x: torch.tensor([1.0], device="cpu"),
    ],
)
def test_waiting_is_seen(look: Any) -> None:
    watching = Watching()
    with watching("learn"):
        look(torch.ones(3))
    assert len(watching.met) > 0


def test_clipping_is_the_same_without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for free in (True, False):
        monkeypatch.setattr(transfers, "reading_is_free", lambda device, free=free: free)
        parameter = torch.nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor([3.0, 4.0])
        clip_gradients([parameter], 50.0)
        found[free] = parameter.grad
    assert torch.equal(found[True], found[False])
