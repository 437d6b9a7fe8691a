"""What cannot be mapped over samples one by one, told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_INDEX = (
    "prediction uses a tensor of the sample as a number or an index: an action's value is "
    "values.gather(0, action), not values[action]"
)
_ONE_BY_ONE = (
    "the network has a layer that torch cannot take one sample at a time: linear layers, "
    "convolutions, LayerNorm and GroupNorm are such that it can"
)
_MARKS = {
    ".item()": _INDEX,
    "data-dependent": _INDEX,
    "batching rule": _ONE_BY_ONE,
    "in-place": _ONE_BY_ONE,
    "return a scalar": "prediction must give a scalar for one sample: squeeze(-1) it",
    "to return a Tensor": "prediction must give a tensor for one sample",
}
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def check_independent(module: nn.Module) -> None:
    """Raise `ValueError` for a network whose output for a sample depends on the others."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            raise ValueError(
                f"TemporalDifference: layer {name!r} is {type(layer).__name__} in training mode, "
                "which mixes the samples of a minibatch, so that none has a derivative of its "
                "own: call eval() on it, or use LayerNorm or GroupNorm"
            )


def check_one_by_one(module: nn.Module) -> None:
    """Raise `ValueError` for a network that cannot be taken one sample at a time."""
    check_independent(module)
    for name, layer in module.named_modules():
        if isinstance(layer, _RECURRENT):
            raise ValueError(
                f"TemporalDifference: layer {name!r} is {type(layer).__name__}, whose derivatives "
                "torch does not give sample by sample: write the cell from linear layers, or keep "
                "it out of the module that is observed"
            )


@contextmanager
def explained() -> Iterator[None]:
    """Raise what `vmap` refuses as a `ValueError` that says what to write instead."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        for mark, hint in _MARKS.items():
            if mark in str(error):
                raise ValueError(f"TemporalDifference: {hint}") from error
        raise


def check_scalar(value: Tensor, axes: int = 0) -> Tensor:
    """`value`, what a function gave for one sample; `ValueError` unless it has no axis.

    `axes`: those of the minibatch in front.
    """
    if value.ndim != axes:
        shape = tuple(value.shape[axes:])
        raise ValueError(
            f"TemporalDifference: prediction must give a scalar for one sample, not shape {shape}: "
            "squeeze(-1) it, or gather one value of it"
        )
    return value


def in_full_precision(device: torch.device) -> torch.autocast:
    """No autocast: derivatives have the type of the parameters."""
    return torch.autocast(device.type, enabled=False)
