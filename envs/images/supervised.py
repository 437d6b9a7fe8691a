"""Supervised problems as environments of a single step, so that one loop trains and scores all.

The mean return of a policy is minus its mean squared error on a table, or its accuracy on images:
the same training and test images as those of `envs.images.glimpse`, seen whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.core import Step
from semigradient.envs.images import tables
from semigradient.envs.images.datasets import ImageOptions
from semigradient.envs.images.tables import TableOptions
from semigradient.envs.pictures import captioned

_LIMIT = 100.0  # targets have unit variance; predictions beyond this gain nothing


class ExampleState(NamedTuple):
    """Indices of the examples."""

    example: Tensor  # (B,) int64


class Supervised:
    """`semigradient/Classification-v0` and `semigradient/Regression-v0`: one example per episode.

    ## Action space
    Classification: `Discrete(10)`, the class. Regression: `Box(-100, 100, (O,), float32)`, the
    predicted targets.

    ## Observation space
    Classification: `Box(0, 255, (C, H, W), uint8)`, the whole image. Regression: `Box(-inf, inf,
    (I,), float32)`, scaled by the training rows.

    ## Rewards
    Classification: 1 for the right class, 0 otherwise. Regression: minus the squared error,
    averaged over the outputs.

    ## Starting state
    An example uniformly at random, or `options={"index": i}`.

    ## Episode end
    Terminated after one step.

    ## Information
    `index` of the example.

    ## Arguments
    Those of `ClassificationOptions` and `RegressionOptions`. `inputs` (N, …) and `targets` (N,)
    int64 or (N, O) float32 are public, for supervised learners.

    ## Version history
    v0: first version.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        classes: int = 10,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.inputs, self.targets = inputs.to(self.device), targets.to(self.device)
        self.classification = not targets.is_floating_point()
        shape = tuple(inputs.shape[1:])
        self.single_observation_space: spaces.Box
        self.single_action_space: spaces.Space
        if self.classification:
            self.single_observation_space = spaces.Box(0, 255, shape, np.uint8)
            self.single_action_space = spaces.Discrete(classes)
        else:
            outputs = tuple(targets.shape[1:])
            self.single_observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
            self.single_action_space = spaces.Box(-_LIMIT, _LIMIT, outputs, np.float32)
        self.protocol: dict[str, Any] = {"examples": len(inputs)}

    def reset(
        self,
        n: int,
        generator: torch.Generator | None = None,
        index: int | list[int] | Tensor | None = None,
    ) -> ExampleState:
        """`n` random examples, or those that `index` names."""
        if index is None:
            count = len(self.inputs)
            return ExampleState(torch.randint(count, (n,), generator=generator, device=self.device))
        chosen = torch.as_tensor(index, dtype=torch.int64, device=self.device)
        return ExampleState(chosen.expand(n).clone())

    def step(
        self, state: ExampleState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Compare with the truth; every episode ends."""
        target = self.targets.index_select(0, state.example)
        if self.classification:
            reward = (actions == target).double()
        else:
            reward = -(actions.double() - target).square().mean(1)
        over = torch.ones_like(state.example, dtype=torch.bool)
        return Step(state, reward, over, ~over)

    def observe(self, state: ExampleState) -> Tensor:
        """(B, …): the examples."""
        return self.inputs.index_select(0, state.example)

    def info(self, state: ExampleState) -> dict[str, Tensor]:
        """Index (B,)."""
        return {"index": state.example}

    def render(self, state: ExampleState) -> list[np.ndarray]:
        """Images as frames (H, W, 3); rows of a table as grey bars."""
        pixels = self.observe(state)
        if not self.classification:
            pixels = ((pixels.clamp(-3, 3) + 3) * (255 / 6)).to(torch.uint8)[:, None, None]
            pixels = pixels.expand(-1, 1, 2, -1)
        pixels = pixels[:, :1].expand(-1, 3, -1, -1) if pixels.shape[1] < 3 else pixels[:, :3]
        pictures = pixels.permute(0, 2, 3, 1).cpu().numpy()
        what = "example" if self.classification else "features from −3 to 3 of example"
        pairs = zip(pictures, state.example.tolist(), strict=True)
        return [captioned(picture, f"{what} {number}") for picture, number in pairs]


@dataclass(frozen=True)
class ClassificationOptions(ImageOptions):
    """Images to classify."""

    def make(self, device: str = "cpu") -> Supervised:
        """The core of `semigradient/Classification-v0`."""
        return _named(Supervised(*self.images(), device=device), self)


@dataclass(frozen=True)
class RegressionOptions(TableOptions):
    """Rows to regress."""

    def make(self, device: str = "cpu") -> Supervised:
        """The core of `semigradient/Regression-v0`."""
        table = tables.load(self.dataset, self.split, self.folder, self.limit)
        return _named(Supervised(*table, device=device), self)


def _named(core: Supervised, options: ImageOptions | TableOptions) -> Supervised:
    core.protocol = {"dataset": options.dataset, "split": options.split, **core.protocol}
    return core
