"""Coconet: counterpoint by convolution, trained as an orderless NADE (Huang et al. 2017).

A network sees random parts of random crops and learns the distribution of every hidden note; of the
environment `semigradient/Chorales-v0` only the data is used. The policy predicts all hidden notes
at once; `domains/music/gibbs.py` samples scores with it, `domains/music/framewise.py` evaluates it.
Steps are crops seen.

Source: T. Cooijmans, PhD thesis, sections 3.3 to 3.6. Learning rate, batch size and what ends
training are not there; defaults are those of the published code: batches of 20, and Adam's step
size halved after 5 validations without improvement, one every 5 passes over the training pieces.
(That code stops after 25 of them; here the run's steps end it.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from semigradient.domains.music import orderless
from semigradient.envs.adapters import CoreVector
from semigradient.envs.music import chorale_tasks, chorales
from semigradient.envs.music.chorale_completion import Completion
from semigradient.envs.music.chorale_filling import draw
from semigradient.envs.music.chorales import PITCHES, VOICES
from semigradient.errors import UserError, require
from semigradient.nets.coconet import Coconet as Network
from semigradient.nets.coconet import reestimate
from semigradient.training import parts
from semigradient.training.agent import AgentContext, Count, LearningRate, Policy, generator
from semigradient.training.compiling import maybe_compile

_VALIDATION_BATCH = 32


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are the published ones."""

    channels: int = 128
    """H, of the hidden layers."""
    layers: int = 64
    """L."""
    batch_size: int = 20
    """Crops in a gradient step, one choice of known notes each."""
    schedule: Literal["plateau", "constant", "linear"] = "plateau"
    """Learning rate: halved where validation no longer improves, constant, or linearly to 0."""
    patience: int = 5
    """Validations without improvement before it is halved."""
    validate_every: int = 1105
    """Crops between validations (5 passes over 221 pieces); 0: never."""
    validation_crops: int = 64
    """Crops of the split valid, always the same, with the same hidden notes."""
    statistics_passes: int = 3
    """Passes over the training pieces that population statistics are measured on anew before
    validation and evaluation; 0: the running averages."""
    all_cells: bool = False
    """Known notes count in the loss too, as in the published code by default."""
    pitch_bias: bool = False
    """A learned number for each voice and pitch in the logits: small nets do not see the edges of
    the range and cannot know absolute pitch without it (not published)."""

    def __post_init__(self) -> None:
        for name in ("channels", "batch_size", "patience", "validation_crops"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        for name in ("validate_every", "statistics_passes"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: must be ≥ 0")
        require(self.layers >= 4, f"layers={self.layers}: must be ≥ 4")
        waits = self.schedule == "plateau" and self.validate_every == 0
        require(not waits, "validate_every=0: schedule=plateau needs validations")


class Coconet:
    """Learns to complete the chorales of an environment without acting in it."""

    STATE = (
        "network",
        "optimizer",
        "generator",
        "plateau",
        "_validated",
        "_measured_at",
        "progress",
    )
    POLICY = ("network",)

    def __init__(self, config: Config, setup: AgentContext) -> None:
        self.config, self.setup, self.timers = config, setup, setup.timers
        self.core = _completion(setup)
        sizes = (config.channels, config.layers, len(PITCHES), len(VOICES))
        self.network = Network(*sizes, pitch_bias=config.pitch_bias)
        self.network.to(setup.device)
        self.optimizer = setup.make_optimizer(self.network.parameters())
        falling = "linear" if config.schedule == "linear" else "constant"
        self.learning_rate = LearningRate(self.optimizer, falling)
        self.generator = generator(setup.seed, 1)
        self.progress = Count()
        self.plateau = {"best": float("inf"), "waited": 0.0, "factor": 1.0}
        self._validated: dict[str, float] = {}
        self._measured_at = -1
        self._loss = maybe_compile(self._batch_loss, setup.compile)

    def iterate(self) -> Mapping[str, float | Tensor]:
        """One gradient step, and a validation where one is due."""
        factor = self.plateau["factor"]
        rate = self.learning_rate.set(self.progress.steps, self.setup.total_steps) * factor
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
        with self.timers("learn"):
            loss = self._loss(*self._examples(self.generator))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        before = self.progress.steps
        self.progress.steps += self.config.batch_size
        every = self.config.validate_every
        if every and before // every < self.progress.steps // every:
            with self.timers("validate"):
                self._validate()
        return {"loss": loss.detach(), "lr": rate, **self._validated}

    @torch.no_grad()
    def conditionals(self, pitches: Tensor, known: Tensor) -> Tensor:
        """Log-probabilities (B, I, T, P) with population statistics, for samplers and scores.

        The result is on the device of `pitches`.
        """
        self.measure_statistics()
        device, training = self.setup.device, self.network.training
        self.network.eval()
        log_probs = self.network.conditionals(pitches.to(device), known.to(device))
        self.network.train(training)
        return log_probs.to(pitches.device)

    def measure_statistics(self) -> None:
        """Replace running averages by population statistics, once per update of the weights.

        They are a function of the weights and the seed alone, and do not affect training.
        """
        passes = self.config.statistics_passes
        if not passes or self._measured_at == self.progress.steps or not self.setup.learning:
            return
        source = generator(self.setup.seed, 2)
        count = max(1, passes * len(self.core.pieces) // self.config.batch_size)
        reestimate(self.network, (self._examples(source) for _ in range(count)))
        self._measured_at = self.progress.steps

    def policy_state(self) -> dict[str, Any]:
        """The network with its population statistics."""
        self.measure_statistics()
        return parts.save(self, self.POLICY)

    def policy(self, deterministic: bool = True) -> Policy:
        """The most probable pitch of every hidden note, or a draw of each."""
        source = generator(self.setup.seed, 3)

        def act(obs: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            pitches = torch.from_numpy(obs).long()
            log_probs = self.conditionals(pitches, pitches < len(PITCHES))
            pick = log_probs.argmax(-1) if deterministic else draw(log_probs, source)
            return pick.numpy()

        return act

    def _examples(self, source: torch.Generator, pieces: Any = None, count: int = 0) -> Any:
        """Crops (B, I, T) and masks of their known notes."""
        pieces, count = pieces or self.core.pieces, count or self.config.batch_size
        steps = self.core.steps
        pitches = chorales.crops(pieces, count, steps, source, self.core.align)
        known = chorale_tasks.orderless(count, len(VOICES), steps, source)
        return pitches.to(self.setup.device), known.to(self.setup.device)

    def _batch_loss(self, pitches: Tensor, known: Tensor) -> Tensor:
        log_probs = self.network.conditionals(pitches, known)
        return orderless.loss(log_probs, pitches, known, self.config.all_cells).mean()

    def _validate(self) -> None:
        """Loss per hidden note on crops of the split valid; on a plateau the rate is halved."""
        loss = self.validation_loss()
        self._validated = {"valid_loss": loss}
        plateau = self.plateau
        if loss < plateau["best"]:
            plateau.update(best=loss, waited=0.0)
            return
        plateau["waited"] += 1
        if self.config.schedule == "plateau" and plateau["waited"] >= self.config.patience:
            plateau.update(waited=0.0, factor=plateau["factor"] / 2)

    def validation_loss(self) -> float:
        """Loss per hidden note, in nats, on the same crops of the split valid every time."""
        protocol = self.core.protocol
        pieces = chorales.load("valid", self.core.pieces.grid, protocol.get("source", "music21"))
        pitches, known = self._examples(generator(0, 4), pieces, self.config.validation_crops)
        losses = [
            orderless.loss(self.conditionals(*part), *part)
            for part in zip(
                pitches.split(_VALIDATION_BATCH), known.split(_VALIDATION_BATCH), strict=True
            )
        ]
        return float(torch.cat(losses).mean())


def _completion(setup: AgentContext) -> Completion:
    """The chorales behind the environments."""
    core = setup.envs.core if isinstance(setup.envs, CoreVector) else None
    if isinstance(core, Completion):
        return core
    spec = setup.envs.spec
    raise UserError(f"--env {spec.id if spec else '?'}: coconet accepts semigradient/Chorales-v0")
