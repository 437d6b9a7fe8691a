"""Supervised learning in the same harness, as a baseline (Bengio 2022, section 3.2.2.2).

Classifiers minimise the cross-entropy of the labels, regressors the squared error, on random
minibatches of the examples behind `semigradient/Classification-v0` or `semigradient/Regression-v0`.
Steps are samples seen. Evaluation plays the environment, whose mean return is the accuracy, or
minus the mean squared error; `--eval-env-options split=test` makes it that of the test examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.envs.adapters import CoreVector
from semigradient.envs.images import supervised
from semigradient.errors import UserError, require, unknown
from semigradient.nets import ACTIVATIONS
from semigradient.nets.bricks import TORSOS, tower
from semigradient.optim.temporal_difference import LOG_LIKELIHOOD, TemporalDifference
from semigradient.training.agent import (
    AgentContext,
    Count,
    LearningRate,
    Policy,
    generator,
)
from semigradient.training.compiling import maybe_compile
from semigradient.training.corrections import show, warn_of_limits


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are those of the published experiments' code."""

    task: Literal["classification", "regression"] = "classification"
    """Kind of the targets."""
    batch_size: int = 32
    """Samples per gradient step, drawn uniformly with replacement."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers (for images: behind the convolutions)."""
    activation: str = "leaky_relu"
    """Nonlinearity of the hidden layers."""
    torso: str = "auto"
    """Convolutions of images: nature, glimpse, or auto, which is glimpse below 36×36 pixels."""
    torso_width: int = 16
    """Channels of the glimpse torso's first layer (later ones have two and four times as many)."""
    torso_depth: int = 0
    """Extra layers of the glimpse torso."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"batch_size={self.batch_size}: must be ≥ 1")
        for name, accepted in (("activation", ACTIVATIONS), ("torso", TORSOS)):
            if getattr(self, name) not in accepted:
                unknown(name, getattr(self, name), accepted)


def loss_and_score(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and accuracy (or minus the squared error), 0-dim, of outputs (m, O)."""
    if target.is_floating_point():
        loss = F.mse_loss(outputs, target)
        return loss, -loss.detach()
    loss = F.cross_entropy(outputs, target)
    return loss, (outputs.detach().argmax(1) == target).float().mean()


def regression(network: nn.Module, inputs: Tensor, target: Tensor) -> TemporalDifference:
    """The same loss for an optimizer that moves old gradients: nothing is bootstrapped here.

    Classes (m,) have the log-likelihood; each of O numbers (m, O) is a sample of its own.
    """
    if not target.is_floating_point():
        return TemporalDifference(
            network,
            {"inputs": inputs, "label": target},
            lambda call, s: call(s["inputs"]).log_softmax(0).gather(0, s["label"]),
            loss=LOG_LIKELIHOOD,
        )
    rows = target.reshape(len(target), -1)
    m, outputs = rows.shape
    return TemporalDifference(
        network,
        {
            "inputs": inputs.repeat_interleave(outputs, 0),
            "output": torch.arange(outputs, device=target.device).repeat(m),
        },
        lambda call, s: call(s["inputs"]).gather(0, s["output"]),
        target=rows.flatten(),
        weight=torch.full_like(rows.flatten(), 2.0),
    )


class Supervised:
    """Learns the examples of an environment without acting in it."""

    STATE = ("network", "optimizer", "generator", "progress")
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        core = _examples(setup, config.task)
        self.inputs, self.targets = core.inputs.to(setup.device), core.targets.to(setup.device)
        space = core.single_action_space
        outputs = int(space.n) if isinstance(space, spaces.Discrete) else int(space.shape[0])  # type: ignore[index]
        self.network = tower(
            core.single_observation_space,
            outputs,
            config.hidden,
            config.activation,
            (config.torso, config.torso_width, config.torso_depth),
        ).to(setup.device)
        self.optimizer = setup.make_optimizer(self.network.parameters(), temporal_differences=True)
        if setup.learning:
            warn_of_limits(self.optimizer)
        self.learning_rate = LearningRate(self.optimizer, config.schedule)
        self.generator = generator(setup.seed, 1)
        self.progress = Count()
        self._loss = maybe_compile(self._loss_and_score, setup.compile)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One gradient step."""
        rate = self.learning_rate.set(self.progress.steps, self.setup.total_steps)
        with self.timers("learn"):
            size = (self.config.batch_size,)
            drawn = torch.randint(len(self.inputs), size, generator=self.generator)
            drawn = drawn.to(self.setup.device)
            inputs, targets = (t.index_select(0, drawn) for t in (self.inputs, self.targets))
            loss, score = self._loss(inputs, targets)
            self.optimizer.zero_grad()
            loss.backward()
            show(self.optimizer, lambda: [regression(self.network, inputs, targets)])
            self.optimizer.step()
        self.progress.steps += self.config.batch_size
        return {"loss": loss.detach(), "score": score, "lr": rate}

    def policy(self, deterministic: bool = True) -> Policy:
        """The most probable class, or the prediction; there is nothing to sample."""
        space = self.setup.envs.single_action_space

        @torch.no_grad()
        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            outputs = self.network(torch.from_numpy(obs).to(self.setup.device)).cpu()
            if isinstance(space, spaces.Box):
                return outputs.numpy().clip(space.low, space.high)
            return outputs.argmax(1).numpy()

        return act

    def _loss_and_score(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return loss_and_score(self.network(inputs), target)


def _examples(setup: AgentContext, task: str) -> supervised.Supervised:
    """The examples behind the environments, which must be of the right kind."""
    core = setup.envs.core if isinstance(setup.envs, CoreVector) else None
    if isinstance(core, supervised.Supervised) and core.classification == (task[0] == "c"):
        return core
    spec = setup.envs.spec
    accepted = f"semigradient/{task.capitalize()}-v0"
    raise UserError(f"--env {spec.id if spec else '?'}: supervised {task} accepts {accepted}")
