"""What cannot be taken sample by sample is refused in a sentence that says what to write."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semigradient.optim import CorrectedMomentum, Diagonal, Full, TemporalDifference

SAMPLES = {"x": torch.ones(4, 3), "a": torch.tensor([0, 1, 1, 0])}


class Recurrent(nn.Module):
    """A recurrent layer, over one instant, and a linear one."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3) → (B, 1)."""
        cell = isinstance(self.layer, nn.RNNCellBase)
        hidden = self.layer(x if cell else x[:, None])
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.out(hidden if cell else hidden[:, -1])


def step(net: nn.Module, prediction, zeta) -> None:
    optimizer = CorrectedMomentum(net.parameters(), 0.1, zeta=zeta)
    optimizer.observe(TemporalDifference(net, SAMPLES, prediction))
    optimizer.step()


@pytest.mark.parametrize("zeta", [Diagonal(), Full()])
@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (lambda call, s: call(s["x"]), "scalar for one sample"),
        (lambda call, s: call(s["x"])[0:1], "scalar for one sample"),
        (lambda call, s: call(s["x"])[int(s["a"])], r"values.gather\(0, action\), not values"),
    ],
)
def test_a_prediction_of_another_form(prediction, expected, zeta):
    with pytest.raises(ValueError, match=expected):
        step(nn.Linear(3, 2), prediction, zeta)


def test_an_index_is_refused_or_right():
    """Some forms never take a sample alone: there `values[action]` does what it says."""
    right, index = nn.Linear(3, 2), nn.Linear(3, 2)
    index.load_state_dict(right.state_dict())
    step(right, lambda call, s: call(s["x"]).gather(0, s["a"]), Diagonal())
    step(index, lambda call, s: call(s["x"])[s["a"]], Diagonal())
    assert torch.equal(right.weight, index.weight)
    with pytest.raises(ValueError, match=r"values.gather\(0, action\), not values\[action\]"):
        step(right, lambda call, s: call(s["x"])[s["a"]], Full())


@pytest.mark.parametrize("zeta", [Diagonal(), Full()])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN, nn.GRUCell, nn.LSTMCell])
def test_recurrent_layers(kind, zeta):
    options = {"batch_first": True} if issubclass(kind, nn.RNNBase) else {}
    net = Recurrent(kind(3, 4, **options))
    with pytest.raises(ValueError, match=rf"layer 'layer' is {kind.__name__}, whose derivatives"):
        step(net, lambda call, s: call(s["x"]).squeeze(-1), zeta)


@pytest.mark.parametrize("zeta", [Diagonal(), Full()])
def test_batch_normalisation(zeta):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"layer '1' is BatchNorm1d in training mode.*eval\(\)"):
        step(net, lambda call, s: call(s["x"]).squeeze(-1), zeta)
    step(net.eval(), lambda call, s: call(s["x"]).squeeze(-1), zeta)


@pytest.mark.parametrize("zeta", [Diagonal(), Full()])
def test_autocast_changes_nothing(zeta):
    ends = []
    for enabled in (False, True):
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        optimizer = CorrectedMomentum(net.parameters(), 0.1, zeta=zeta)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled):
                batch = TemporalDifference(
                    net, {"x": SAMPLES["x"]}, lambda c, s: c(s["x"])[0], target=torch.ones(4)
                )
                optimizer.backward(batch)
            optimizer.step()
        assert net.weight.grad.dtype == torch.float32
        ends.append(net.weight.detach().clone())
    assert torch.equal(*ends)
