"""Corrected momentum beside the full form written out, in networks of several layers."""

import pytest
import torch
from torch import nn

from semigradient import optim
from semigradient.optim import CorrectedMomentum, Full, LowRank, TemporalDifference
from semigradient.optim.reference import ReferenceCorrectedMomentum
from semigradient.optim.temporal_difference import HALF_SQUARE, LOG_LIKELIHOOD, huber

M = 4


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def action_value(call, sample):
    return call(sample["s"]).gather(0, sample["a"])


def minibatch(net, t, bootstrapped=True, loss=HALF_SQUARE):
    generator = torch.Generator().manual_seed(t)
    states = torch.randn(2, M, 3, generator=generator).double()
    actions = torch.randint(2, (2, M, 1), generator=generator)
    here, later = ({"s": s, "a": a} for s, a in zip(states, actions[..., 0], strict=True))
    alive = torch.rand(M, generator=generator) > 0.3
    return TemporalDifference(
        net,
        here,
        action_value,
        later if bootstrapped else None,
        0.9 * alive.double() if bootstrapped else None,
        weight=torch.rand(M, generator=generator).double(),
        target=2 * torch.randn(M, generator=generator).double(),
        loss=loss,
    )


@pytest.mark.parametrize("zeta", [Full(), LowRank(window=30)])
@pytest.mark.parametrize("loss", [HALF_SQUARE, huber(), LOG_LIKELIHOOD])
@pytest.mark.parametrize("bootstrapped", [True, False])
def test_steps_are_those_of_the_reference(zeta, loss, bootstrapped):
    net, twin = network(), network()
    ours = CorrectedMomentum(net.parameters(), 0.5, 0.8, zeta)
    reference = ReferenceCorrectedMomentum(twin, 0.5, 0.8)
    start = reference.theta()
    for t in range(20):
        ours.zero_grad()
        ours.backward(minibatch(net, t, bootstrapped, loss))
        ours.step()
        reference.step(minibatch(twin, t, bootstrapped, loss))
        theta = nn.utils.parameters_to_vector(net.parameters())
        torch.testing.assert_close(theta, reference.theta(), rtol=0, atol=1e-12)
    assert (reference.theta() - start).abs().max() > 0.1
    eta = torch.cat([ours.state[p]["eta"].flatten() for p in net.parameters()])
    torch.testing.assert_close(eta, reference.eta, rtol=0, atol=1e-12)
    assert reference.eta.abs().max() > 1e-3


def test_a_gradient_without_a_target_is_refused():
    """Rewards of zero are no default: whoever forgets the target hears of it."""
    net, t = network(), 0
    batch = minibatch(net, t)
    forgetful = TemporalDifference(
        net, batch.samples, batch.prediction, batch.bootstrap, batch.discount
    )
    ours = CorrectedMomentum(net.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"backward needs TemporalDifference\(target=...\)"):
        ours.backward(forgetful)
    ours.observe(forgetful)  # the gradient comes from elsewhere
    with pytest.raises(ValueError, match="needs TemporalDifference"):
        ReferenceCorrectedMomentum(net, 0.1).step(forgetful)
    likelihood = TemporalDifference(net, batch.samples, batch.prediction, loss=LOG_LIKELIHOOD)
    ours.backward(likelihood)


def test_classes_are_to_be_had_from_the_package():
    assert optim.CorrectedMomentum.__name__ == "CorrectedMomentum"
    assert optim.TemporalDifference is TemporalDifference
    with pytest.raises(AttributeError, match="no attribute 'CorectedMomentum'"):
        optim.CorectedMomentum  # noqa: B018
