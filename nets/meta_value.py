"""The network of meta-values: how good a pair of policies is in the long run, for each player.

    (xᵢ, γᵢ) → MLP₁ → zᵢ,    (zᵢ, z₋ᵢ) → MLP₂ → M quantiles for player i

Both players share the weights, since f₁(x₁, x₂) = f₂(x₂, x₁) in symmetric games. Where seats or
learning rules differ, an elementwise scale and shift before MLP₁'s last stage is each player's own.
The last hidden layer is a tanh, whose signs can be flipped to explore.

S models are one module whose weights have a leading axis S: they learn side by side, each on its
own data, at the cost of one call.

Source: T. Cooijmans, PhD thesis (2024), appendices 6.D and 6.E; what these leave open is as in the
published code.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


class Dense(nn.Module):
    """S affine maps (S, N, in) → (S, N, out)."""

    def __init__(self, models: int, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = torch.empty(models, inputs, outputs)
        # LeCun's normal initialisation, the default of the published code's library.
        self.weight = nn.Parameter(nn.init.trunc_normal_(weight, std=1 / math.sqrt(inputs)))
        self.bias = nn.Parameter(torch.zeros(models, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(S, N, in) → (S, N, out)."""
        return torch.baddbmm(self.bias, x, self.weight)


class Layer(nn.Module):
    """S affine maps and a nonlinearity."""

    def __init__(
        self,
        models: int,
        inputs: int,
        outputs: int,
        nonlinearity: Callable[[Tensor], Tensor] = _gelu,
    ) -> None:
        super().__init__()
        self.dense = Dense(models, inputs, outputs)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor) -> Tensor:
        """(S, N, in) → (S, N, out)."""
        return self.nonlinearity(self.dense(x))


class NormLayer(nn.Module):
    """S linear maps, orthogonal at first, then layer normalisation and a nonlinearity."""

    def __init__(
        self,
        models: int,
        inputs: int,
        outputs: int,
        nonlinearity: Callable[[Tensor], Tensor] = _gelu,
    ) -> None:
        super().__init__()
        drawn = [nn.init.orthogonal_(torch.empty(inputs, outputs)) for _ in range(models)]
        self.weight = nn.Parameter(torch.stack(drawn))
        self.scale = nn.Parameter(torch.ones(models, 1, outputs))
        self.shift = nn.Parameter(torch.zeros(models, 1, outputs))
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor) -> Tensor:
        """(S, N, in) → (S, N, out)."""
        x = F.layer_norm(torch.bmm(x, self.weight), self.weight.shape[-1:])
        return self.nonlinearity(torch.addcmul(self.shift, x, self.scale))


Kind = type[Layer] | type[NormLayer]


class GatedBlock(nn.Module):
    """A residual block: gate · h + (1 − gate) · Dense(layer(h)), the gate unit by unit."""

    def __init__(self, models: int, width: int, layer: Kind) -> None:
        super().__init__()
        self.inner, self.outer = layer(models, width, width), Dense(models, width, width)
        self.gate = nn.Parameter(torch.zeros(models, 1, width))

    def forward(self, h: Tensor) -> Tensor:
        """(S, N, width) → (S, N, width)."""
        return torch.lerp(self.outer(self.inner(h)), h, torch.sigmoid(self.gate))


class MetaValueNetwork(nn.Module):
    """S networks of pairs of policies, conditioned on each player's meta-discount.

    Args:
        models: S.
        inputs: n, features of one policy.
        outputs: M.
        width: units of every layer.
        blocks: gated residual blocks in each of the two perceptrons.
        shared_seats: whether nothing at all tells the two players apart.
        layer_norm: normalise every layer but the first.
    """

    def __init__(
        self,
        models: int,
        inputs: int,
        outputs: int = 64,
        width: int = 128,
        blocks: int = 1,
        shared_seats: bool = False,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.models, self.width = models, width
        self.policy = Dense(models, inputs, width)
        layer: Kind = NormLayer if layer_norm else Layer
        self.policy_out = layer(models, width, width)
        self.discount = Dense(models, 1, width)
        self.seat_scale = nn.Parameter(torch.ones(models, 1, 2, 2 * width), not shared_seats)
        self.seat_shift = nn.Parameter(torch.zeros(models, 1, 2, 2 * width), not shared_seats)
        self.own = _stage(models, 2 * width, width, blocks, layer)
        self.both = _stage(models, 2 * width, width, blocks, layer)
        self.last = layer(models, width, width, torch.tanh)
        self.out = Dense(models, width, outputs)

    def forward(
        self, features: Tensor, gamma: Tensor, flips: Tensor | None = None, stop: bool = False
    ) -> Tensor:
        """Quantiles (S, B, 2, M) for each player.

        Args:
            features: (S, B, 2, n).
            gamma: meta-discounts (S, B, 2).
            flips: signs (S, B, 2, width) of the last hidden layer.
            stop: let no derivative pass from one player's quantiles to the other's policy.
        """
        models, batch, seats = gamma.shape
        rows = (models, batch * seats, -1)
        h = self.policy_out(_gelu(self.policy(features.reshape(*rows))))
        h = torch.cat((h, _gelu(self.discount(gamma.reshape(*rows)))), -1)
        h = torch.addcmul(self.seat_shift, h.view(models, batch, seats, -1), self.seat_scale)
        z = self.own(h.view(*rows)).view(models, batch, seats, -1)
        other = z.flip(2)
        h = torch.cat((z, other.detach() if stop else other), -1)
        h = self.last(self.both(h.view(*rows)))
        if flips is not None:
            h = h * flips.view_as(h)
        return self.out(h).view(models, batch, seats, -1)


def _stage(models: int, inputs: int, width: int, blocks: int, layer: Kind) -> nn.Sequential:
    first = layer(models, inputs, width)
    return nn.Sequential(first, *(GatedBlock(models, width, layer) for _ in range(blocks)))
