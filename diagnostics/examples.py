"""A learner's interface to observers: regression examples, and the experience they come from.

Every value-based learner, and every critic, moves a prediction f towards a target y:

    J(x; θ) = ℓ(f(x; θ), y),    semi-gradient ∇J = ℓ'(f, y) ∇f

where y may move with θ (a bootstrap without target network) although the update treats it as
constant. E. Bengio, PhD thesis, §3.2.2.1; `Scalar` functions are those of
`optim.temporal_difference`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semigradient.optim.temporal_difference import Samples, Scalar, TemporalDifference

Params = dict[str, Tensor]
"""Values of a module's trainable parameters, by name."""


def half_square(prediction: Tensor, target: Tensor) -> Tensor:
    """½(f - y)²."""
    return 0.5 * (prediction - target).square()


@dataclass(frozen=True)
class Examples:
    """m examples of one regression.

    Attributes:
        module: the module that is learned.
        samples: the examples, (m, …) each.
        prediction: f, of the module as a function and of one example.
        target: y, likewise.
        loss: ℓ(f, y) of two scalars.
        moving: whether y has a derivative by θ.
        head: the output that function interference compares (B3 "head"); default: f.
        successor: value of the successor, 0 where there is none; None where it is not kept.
        shown: the same examples as the learner shows them to an optimizer that knows that targets
            move, of (module, samples, (m,) factors of the gradients); None: made from the above.
    """

    module: nn.Module
    samples: Samples
    prediction: Scalar
    target: Scalar
    loss: Callable[[Tensor, Tensor], Tensor] = half_square
    moving: bool = False
    head: Scalar | None = None
    successor: Scalar | None = None
    shown: Callable[[nn.Module, Samples, Tensor], TemporalDifference] | None = None

    @property
    def size(self) -> int:
        """The number of examples, m."""
        return len(next(iter(self.samples.values())))

    @property
    def parameters(self) -> Params:
        """The module's trainable parameters by name, detached."""
        named = TemporalDifference(self.module, self.samples, self.prediction).parameters()
        return {name: p.detach() for name, p in named.items()}

    def with_module(self, module: nn.Module) -> Examples:
        """The same examples for a copy of the module."""
        return dataclasses.replace(self, module=module)

    def select(self, index: Tensor) -> Examples:
        """The examples at (k,) indices."""
        chosen = {name: value[index] for name, value in self.samples.items()}
        return dataclasses.replace(self, samples=chosen)


@dataclass(frozen=True)
class Experience:
    """A learner's experience in order of time, and how it learns from it.

    Steps are numbered time-major: number t·B + b is instant t of environment b.

    Attributes:
        module: the module that is learned.
        optimizer: its optimizer.
        make_optimizer: makes another such optimizer over other parameters.
        max_grad_norm: largest norm of a gradient; 0: no limit.
        batch_size: examples per update.
        times: stored instants, T.
        capacity: largest number of stored instants.
        num_envs: B.
        at: the examples at (m,) numbers.
        ended: whether an episode ended with the steps of these numbers, of any shape: bool.
        hidden: weights of the last hidden layer.
        continuous: whether observations are floats.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    max_grad_norm: float
    batch_size: int
    times: int
    capacity: int
    num_envs: int
    at: Callable[[Tensor], Examples]
    ended: Callable[[Tensor], Tensor]
    hidden: Tensor
    continuous: bool

    @property
    def size(self) -> int:
        """Number of stored steps."""
        return self.times * self.num_envs

    @property
    def device(self) -> torch.device:
        """Device of the experience."""
        return self.hidden.device

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) numbers of steps, uniformly with replacement."""
        return torch.randint(self.size, (count,), generator=generator).to(self.device)

    def around(self, centre: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the steps at `offsets` (L,) in time from those at `centre` (W,).

        Returns:
            Numbers (L, W), and whether such a step is there and of the same episode: bool (L, W);
            the numbers of the others are clamped to steps that are there.
        """
        count, env = self.num_envs, centre % self.num_envs
        reach = int(offsets.abs().max())
        span = torch.arange(-reach, reach + 1, device=centre.device)
        time = centre // count + span[:, None]
        inside = (time >= 0) & (time < self.times)
        number = time.clamp(0, self.times - 1) * count + env
        ends = (self.ended(number) & inside).long().cumsum(0)
        # Episode ends before each step of the span: equal counts are one episode.
        before = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
        same = inside & (before == before[reach])
        rows = offsets + reach
        return number[rows], same[rows]


def last_hidden(*parts: nn.Module) -> Tensor:
    """Weights of the last linear layer but one in modules that follow each other.

    A network with one linear layer has no hidden one: then that layer's.
    """
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]
    return layers[-2 if len(layers) > 1 else -1].weight


def as_state(samples: Samples) -> Mapping[str, Tensor]:
    """Samples as a checkpoint keeps them."""
    return {name: value.detach().clone() for name, value in samples.items()}
