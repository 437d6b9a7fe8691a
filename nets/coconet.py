"""Coconet: one convolutional network that completes scores from any part of them.

    h⁰ = (known voices one-hot, where they are known)        2I channels over time and pitch
    aˡ = BN(Wˡ * hˡ⁻¹)
    hˡ = ReLU(aˡ + hˡ⁻²) at skips, ReLU(aˡ) elsewhere, hᴸ = aᴸ
    p(x_it = p | x_C, C) = softmax over p of hᴸ

Source: T. Cooijmans, PhD thesis, section 3.3, equations 3.3.4 to 3.3.8; Huang et al. 2017. What the
text leaves open is from the published code: the last two of the L layers have kernels 2 × 2, all
others 3 × 3; the skips enter the odd layers 3 ≤ l ≤ L-1, counted from 1 (the text has the even
ones, one further); weights from N(0, 2 / fan-in); no biases; BN begins with γ = 0.1, β = 0 and has
ε = 1e-7.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.errors import require


class Coconet(nn.Module):
    """Distributions of every unknown note given the known ones, for every choice of these.

    Args:
        channels: H, of the hidden layers.
        layers: L.
        pitches: P.
        voices: I.
        momentum: weight of the newest batch in the running statistics (the published code has
            0.01; re-estimate them before evaluation, see `reestimate`).
        pitch_bias: add a learned number for each voice and pitch (I P) to the logits. Published
            sizes see the edges of the range from every pitch; a small net does not, and cannot
            know absolute pitch without it.
    """

    def __init__(
        self,
        channels: int = 128,
        layers: int = 64,
        pitches: int = 46,
        voices: int = 4,
        momentum: float = 0.1,
        pitch_bias: bool = False,
    ) -> None:
        super().__init__()
        require(channels >= 1, f"channels={channels}: must be ≥ 1")
        require(layers >= 4, f"layers={layers}: must be ≥ 4")
        self.pitches, self.voices, self.sizes = pitches, voices, (channels, layers)
        widths = [2 * voices] + [channels] * (layers - 1) + [voices]
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
            size = 2 if layer > layers - 2 else 3
            convolution = nn.Conv2d(inputs, outputs, size, padding=size // 3, bias=False)
            nn.init.normal_(convolution.weight, std=(2 / (inputs * size * size)) ** 0.5)
            norm = nn.BatchNorm2d(outputs, eps=1e-7, momentum=momentum)
            nn.init.constant_(norm.weight, 0.1)
            self.convolutions.append(convolution)
            self.norms.append(norm)
        self.pitch_bias = nn.Parameter(torch.zeros(voices, pitches)) if pitch_bias else None

    def forward(self, pitches: Tensor, known: Tensor) -> Tensor:
        """Logits (B, I, T, P).

        Args:
            pitches: indices (B, I, T) int64; ignored where nothing is known.
            known: (B, I, T) bool.
        """
        return self.run(self.inputs(pitches, known))[1]

    def run(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The last hidden layer (B, H, T, P) and logits (B, I, T, P) of inputs h⁰."""
        last, features = len(self.convolutions), hidden
        below: dict[int, Tensor] = {}
        for layer, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True), 1
        ):
            features = hidden
            if layer > last - 2:  # a kernel of 2 keeps the size with one more row and column
                hidden = F.pad(hidden, (0, 1, 0, 1))
            hidden = norm(convolution(hidden))
            if layer % 2 == 1 and 3 <= layer <= last - 1:
                hidden = hidden + below.pop(layer - 2)
            if layer < last:
                hidden = F.relu(hidden)
            if layer % 2 == 1 and layer + 2 <= last - 1:
                below[layer] = hidden
        if self.pitch_bias is not None:
            hidden = hidden + self.pitch_bias[:, None]
        return features, hidden

    def inputs(self, pitches: Tensor, known: Tensor) -> Tensor:
        """h⁰ (B, 2I, T, P): known notes one-hot, then which are known, the same at all pitches."""
        seen = known.unsqueeze(-1)
        notes = torch.arange(self.pitches, device=pitches.device) == pitches.unsqueeze(-1)
        channels = torch.cat((notes & seen, seen.expand_as(notes)), 1)
        return channels.to(self.convolutions[0].weight.dtype)  # type: ignore[arg-type]

    def conditionals(self, pitches: Tensor, known: Tensor) -> Tensor:
        """Log-probabilities (B, I, T, P), of known notes too."""
        return self(pitches, known).log_softmax(-1)


@torch.no_grad()
def reestimate(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Replace running statistics of batch normalisation by averages over whole batches.

    Args:
        network: whose mode is left as it was.
        batches: its arguments.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta, training = [norm.momentum for norm in norms], network.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches, each weighing the same
    network.train()
    for batch in batches:
        network(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)
