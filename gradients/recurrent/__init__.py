"""Gradients of recurrent networks while they run: exact, truncated and stochastic estimators.

The network is any module `(x, s) -> (o, s')` of one example's vectors, with `width`, the length of
s; it may be `nets.cells.Headed(make_cell("gru", inputs, hidden), outputs)` or your own. Every
estimator has one form, for B examples at once that share parameters θ of P numbers (in the order of
`named_parameters`):

    estimator = make("uoro", network, examples=B, generator=generator, rank=2)
    outputs = estimator.step(x)             # x (B, …) -> o (B, outputs), without graph
    g = estimator.gradient(dl_do)           # (B, P): of each example's newest loss, all its past
    set_gradient(network, g.mean(0))        # into .grad; then any optimizer
    estimator.reset(ended)                  # (B,) bool: these rows start from zeros, with no past
    stored = estimator.state_dict()         # tensors; load_state_dict continues exactly

`gradient` may be asked several times after a step (a policy's, a value's), or not at all. Summed
over steps, it is the gradient of the summed losses; `bptt` and `rtrl` are exact for constant θ,
`tbptt` is not, and all others are so on average. `reinforce` takes losses instead of derivatives,
and its average is of a network with noise. `preuoro`, `shaped-uoro` and `nobacktrack` need cells
that are one layer, and say so. Parameters may change between steps. Random numbers come from the
`generator` given, whose state the caller keeps.

`estimator.state` is (B, width). What an estimator costs is in docs/recurrent.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from semigradient.errors import require, unknown
from semigradient.gradients.recurrent.artbp import ARTBP
from semigradient.gradients.recurrent.bptt import BPTT
from semigradient.gradients.recurrent.nobacktrack import nobacktrack
from semigradient.gradients.recurrent.perturbed import Perturbed
from semigradient.gradients.recurrent.preactivations import preuoro, shaped_uoro
from semigradient.gradients.recurrent.rtrl import rtrl
from semigradient.gradients.recurrent.uoro import uoro


class Estimator(Protocol):
    """See the top."""

    @property
    def state(self) -> Tensor:
        """(B, width)."""

    def reset(self, mask: Tensor) -> None:
        """Start rows (B,) bool anew."""

    def step(self, x: Tensor) -> Tensor:
        """Outputs for inputs (B, …)."""

    def gradient(self, cotangent: Tensor) -> Tensor:
        """(B, P) for the derivative of each example's loss by its newest output."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and dicts of them."""

    def load_state_dict(self, stored: Any) -> None:
        """Continue exactly."""


def _bptt(module: nn.Module, examples: int) -> BPTT:
    return BPTT(module, examples)


def _tbptt(module: nn.Module, examples: int, length: int = 16) -> BPTT:
    require(length >= 1, f"length={length}: steps between two cuts must be ≥ 1")
    return BPTT(module, examples, length)


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "bptt": _bptt,
    "tbptt": _tbptt,
    "rtrl": rtrl,
    "uoro": uoro,
    "shaped-uoro": shaped_uoro,
    "preuoro": preuoro,
    "nobacktrack": nobacktrack,
    "artbp": ARTBP,
    "reinforce": Perturbed,
}


def make(
    name: str,
    module: nn.Module,
    examples: int,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Estimator:
    """An estimator by name.

    Args:
        name: bptt, tbptt, rtrl, uoro, shaped-uoro, preuoro, nobacktrack, artbp or reinforce.
        module: see the package.
        examples: B.
        generator: for those that draw.
        options: of its own, such as `length` of tbptt, `rank` and `memory` of uoro.
    """
    if name not in ESTIMATORS:
        unknown("gradient estimator", name, ESTIMATORS)
    build = ESTIMATORS[name]
    accepted = [*inspect.signature(build).parameters][2:]
    own = [option for option in accepted if option != "generator"]
    for option, value in options.items():
        listed = ", ".join(own) or "no options"
        require(option in own, f"{option}={value}: estimator {name} takes {listed}")
    if "generator" in accepted:
        options["generator"] = generator
    return build(module, examples, **options)


def set_gradient(module: nn.Module, vector: Tensor) -> None:
    """Write a gradient (P,) into the parameters' `.grad`, in their order."""
    parts = vector.split([p.numel() for p in module.parameters()])
    for parameter, part in zip(module.parameters(), parts, strict=True):
        parameter.grad = part.reshape(parameter.shape).clone()
