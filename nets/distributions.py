"""Action distributions as pure functions of network outputs, one small class per action space.

Sampling takes its noise as an argument: a rollout draws all of it in one call, a step costs two
operations, and samples can be replayed. Categorical actions use the Gumbel-max trick
(Gumbel 1954): the argmax of logits plus Gumbel noise is a sample of their softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi

import torch
from gymnasium import spaces
from torch import Tensor, nn

from semigradient.errors import UserError

_ILLEGAL = -1e9  # finite, so that an entropy of a masked action is 0 and not NaN


class Categorical(nn.Module):
    """Discrete actions. Parameters are logits (…, A); actions (…,) int64."""

    STACKS = True

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.outputs = actions
        self.action_shape: tuple[int, ...] = ()
        self.action_dtype = torch.int64

    def parameters_of(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (…, A), illegal actions (mask false) pushed to the bottom."""
        return outputs if mask is None else outputs.masked_fill(~mask, _ILLEGAL)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Gumbel noise (*shape, A)."""
        uniform = torch.rand((*shape, self.outputs), generator=generator, device=generator.device)
        return -torch.log(-torch.log(uniform.clamp_(1e-20, 1 - 1e-7)))

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Actions (…,)."""
        return (parameters + noise).argmax(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        """Most probable actions (…,)."""
        return parameters.argmax(-1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Log-probabilities (…,)."""
        return self.log_prob_entropy(parameters, action)[0]

    def log_prob_entropy(self, parameters: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (…,), from one log-softmax."""
        log_probs = _log_softmax(parameters)
        chosen = log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return chosen, -(log_probs.exp() * log_probs).sum(-1)


class MultiCategorical(nn.Module):
    """Independent discrete actions side by side. Actions (…, K) int64."""

    STACKS = True

    def __init__(self, counts: Sequence[int]) -> None:
        super().__init__()
        self.counts = [int(count) for count in counts]
        self.parts = [Categorical(count) for count in self.counts]
        self.outputs = sum(self.counts)
        self.action_shape = (len(self.counts),)
        self.action_dtype = torch.int64

    def parameters_of(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (…, ΣA), illegal actions pushed to the bottom."""
        return outputs if mask is None else outputs.masked_fill(~mask, _ILLEGAL)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Gumbel noise (*shape, ΣA)."""
        return torch.cat([part.noise(shape, generator) for part in self.parts], -1)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Actions (…, K)."""
        return self.mode(parameters + noise)

    def mode(self, parameters: Tensor) -> Tensor:
        """Most probable actions (…, K)."""
        return torch.stack([part.argmax(-1) for part in parameters.split(self.counts, -1)], -1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Joint log-probabilities (…,)."""
        return self.log_prob_entropy(parameters, action)[0]

    def log_prob_entropy(self, parameters: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Joint log-probabilities and entropies (…,): sums over the parts."""
        split = zip(self.parts, parameters.split(self.counts, -1), action.unbind(-1), strict=True)
        pairs = [part.log_prob_entropy(logits, chosen) for part, logits, chosen in split]
        log_prob = torch.stack([pair[0] for pair in pairs]).sum(0)
        return log_prob, torch.stack([pair[1] for pair in pairs]).sum(0)


class Gaussian(nn.Module):
    """Continuous actions with a state-independent, learned log standard deviation.

    Parameters are mean and log standard deviation side by side (…, 2K); actions (…, K) float32,
    unbounded: the caller clips them to the action space.
    """

    STACKS = True

    def __init__(self, dimensions: int, log_std_init: float = 0.0) -> None:
        super().__init__()
        self.outputs = dimensions
        self.action_shape = (dimensions,)
        self.action_dtype = torch.float32
        self.log_std = nn.Parameter(torch.full((dimensions,), log_std_init))

    def parameters_of(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean and log standard deviation (…, 2K)."""
        # Of a stack of networks this is (networks, K), and the outputs are (networks, B, K).
        log_std = self.log_std if self.log_std.ndim == 1 else self.log_std.unsqueeze(1)
        return torch.cat([outputs, log_std.expand_as(outputs)], -1)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Standard normal noise (*shape, K)."""
        return torch.randn((*shape, self.outputs), generator=generator, device=generator.device)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Actions (…, K)."""
        mean, log_std = parameters.chunk(2, -1)
        return mean + log_std.exp() * noise

    def mode(self, parameters: Tensor) -> Tensor:
        """Means (…, K)."""
        return parameters.chunk(2, -1)[0]

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Joint log-densities (…,)."""
        return self.log_prob_entropy(parameters, action)[0]

    def log_prob_entropy(self, parameters: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Joint log-densities and entropies (…,)."""
        mean, log_std = parameters.chunk(2, -1)
        scaled = (action - mean) * torch.exp(-log_std)
        log_prob = (-0.5 * scaled.square() - log_std - 0.5 * log(2 * pi)).sum(-1)
        return log_prob, (log_std + 0.5 * log(2 * pi) + 0.5).sum(-1)


def _log_softmax(rows: Tensor) -> Tensor:
    """Over the last axis (…, m, A); by columns where those lie together, which is faster."""
    is_by_columns = rows.ndim > 2 and rows.stride(-2) == 1
    return rows.mT.log_softmax(-2).mT if is_by_columns else rows.log_softmax(-1)


Distribution = Categorical | MultiCategorical | Gaussian


def distribution(space: spaces.Space, log_std_init: float = 0.0) -> Distribution:
    """The distribution over an action space; `UserError` where there is none."""
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return Categorical(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return MultiCategorical(space.nvec.tolist())
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return MultiCategorical([2] * space.shape[0])
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return Gaussian(space.shape[0], log_std_init)
    raise UserError(
        f"action space {space}: accepted are Discrete (from 0), MultiDiscrete, MultiBinary and Box "
        "with one axis"
    )
