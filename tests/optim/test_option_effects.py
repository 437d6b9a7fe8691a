"""No option of an optimizer is ignored: each one alone changes where its updates lead."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from semigradient import optim
from semigradient.optim.temporal_difference import (
    TargetNetwork,
    TemporalDifference,
    wants_temporal_difference,
)
from semigradient.training.corrections import show

FULL = {"correction": "full"}
KRONECKER = {"correction": "kronecker"}
# Another value of each option, and the others that it needs to matter.
OTHER: dict[str, tuple[object, dict[str, object]]] = {
    "lr": (0.02, {}),
    "beta": (0.5, {}),
    "beta1": (0.5, {}),
    "beta2": (0.5, {}),
    "eps": (1e-2, {}),
    "alpha": (0.5, {}),
    "momentum": (0.5, {}),
    "centered": (True, {}),
    "eps_inside_sqrt": (True, {"eps": 1e-2}),
    "initial_square": (1.0, {}),
    "weight_decay": (0.1, {}),
    "decoupled_weight_decay": (True, {"weight_decay": 0.1}),
    "correction": ("full", {}),
    "form": ("printed", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "block_size": (2, {"correction": "block"}),
    "layers": (1, FULL),
    "rest": ("plain", {**FULL, "layers": 1}),
    "factor_size": (2, KRONECKER),
    "positions": (1, KRONECKER),
    "window": (1, {"correction": "low-rank"}),
    "follow_target": (True, {}),
    "guard": (1e-3, {}),
    "chunk_size": (2, {}),
}
CASES = [
    (name, field.name)
    for name in optim.OPTIMIZERS.entries
    for field in dataclasses.fields(optim.config_class(name))  # type: ignore[arg-type]
]


class Convolution(nn.Module):
    """A convolution over four positions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.out = nn.Conv2d(1, 2, 2), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 9) → (B,)."""
        hidden = self.near(x.view(-1, 1, 3, 3)).tanh().flatten(1)
        return self.out(hidden).squeeze(1)


def trained(name: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Parameters after some updates, and the sizes of the parts that minibatches were taken in."""
    torch.manual_seed(0)
    net, copy_of = Convolution().double(), Convolution().double()
    optimizer = optim.make(optim.config_class(name)(**options), net.parameters())
    parts: list[int] = []
    if wants_temporal_difference(optimizer) and hasattr(optimizer, "_matrix"):
        matrix = optimizer._matrix()
        accumulate = matrix.accumulate
        monkeypatch.setattr(
            matrix, "accumulate", lambda b, *rest: (parts.append(b.size), accumulate(b, *rest))
        )
    for _ in range(6):
        x, y = torch.randn(2, 4, 9).double()
        target = 0.5 * copy_of(y).detach()
        optimizer.zero_grad(set_to_none=False)
        (0.5 * (net(x) - target).square().mean()).backward()
        shown = TemporalDifference(
            net,
            {"x": x},
            lambda call, s: call(s["x"]),
            target=target,
            target_network=TargetNetwork(copy_of, {"x": y}, torch.full((4,), 0.5).double()),
        )
        show(optimizer, lambda batch=shown: [batch])
        optimizer.step()
        copy_of.load_state_dict(net.state_dict())
    return [*(p.detach() for p in net.parameters()), parts]


@pytest.mark.parametrize(("name", "option"), CASES)
def test_every_option_matters(name, option, monkeypatch) -> None:
    value, needed = OTHER[option]
    if name == "oracle-momentum" and option == "window":
        needed = {}
    base: dict[str, object] = {"lr": 0.01} if option != "lr" else {}
    names = {field.name for field in dataclasses.fields(optim.config_class(name))}  # type: ignore[arg-type]
    options = base | {key: other for key, other in needed.items() if key in names}
    one, other = (trained(name, o, monkeypatch) for o in (options, {**options, option: value}))
    if option == "chunk_size":
        assert (one[-1], other[-1]) == ([4] * 6, [2] * 12)
        return
    assert any(not torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))
