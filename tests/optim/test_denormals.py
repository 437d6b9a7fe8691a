"""Averages that have decayed to denormal numbers: gone, and no parameter the wiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semigradient.optim.adam import Adam, AdamW
from semigradient.optim.denormals import are_flushed, flushed
from semigradient.optim.rmsprop import RMSprop

LEAST = torch.finfo(torch.float32).tiny
PAIRS: list[tuple[Callable[..., Any], Callable[..., Any], float]] = [
    (
        lambda p: Adam(p, 0.01, betas=(0.9, 0.9), fused=True),
        lambda p: torch.optim.Adam(p, 0.01, betas=(0.9, 0.9), fused=True),
        0.0,
    ),
    (lambda p: AdamW(p, 0.01, fused=True), lambda p: torch.optim.AdamW(p, 0.01, fused=True), 0.0),
    (
        lambda p: RMSprop(p, 0.01, alpha=0.9),
        lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9),
        1e-6,
    ),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With more there is nothing to see."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def denormals(optimizer: torch.optim.Optimizer) -> int:
    averages = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    return sum(int(((value.abs() < LEAST) & (value != 0)).sum()) for value in averages)


@pytest.mark.parametrize(("ours", "theirs", "rounding"), PAIRS)
def test_decayed_averages_become_zero_and_parameters_stay_torchs(
    ours: Any, theirs: Any, rounding: float
) -> None:
    """A dead half has gradients of zero from the second step on."""
    gradients = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) * 1e-3
    parameters = [nn.Parameter(torch.linspace(-1, 1, 64)) for _ in range(2)]
    optimizers = [ours([parameters[0]]), theirs([parameters[1]])]
    for step in range(900):
        gradient: Tensor = gradients[0] if step == 0 else gradients[1] * (torch.arange(64) < 32)
        for parameter, optimizer in zip(parameters, optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert denormals(optimizers[1]) >= 32
    assert denormals(optimizers[0]) == 0
    torch.testing.assert_close(*parameters, rtol=0, atol=rounding)


def test_the_setting_is_left_as_it_was() -> None:
    assert not are_flushed()
    with flushed():
        assert are_flushed()
        with flushed():
            assert are_flushed()
        assert are_flushed()
    assert not are_flushed()
    with pytest.raises(ValueError, match="wrong"), flushed():
        raise ValueError("wrong")
    assert not are_flushed()


def test_several_threads_are_left_alone() -> None:
    torch.set_num_threads(2)
    with flushed():
        assert not are_flushed()
