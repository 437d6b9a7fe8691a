"""Corrections beside a target network that moves on its own, and the guard on their length."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from semigradient.optim import (
    Block,
    CorrectedMomentum,
    Diagonal,
    Full,
    Kronecker,
    Layer,
    LowRank,
)
from semigradient.optim.temporal_difference import TargetNetwork, TemporalDifference, huber

M, BETA, RATE = 5, 0.8, 0.05


def value(call, s) -> Tensor:
    return call(s["x"]).squeeze(-1)


class Learner:
    """Learns V of a network from random transitions, with the copy that `renew` moves."""

    def __init__(self, net: nn.Module, make, renew, loss: str = "mse") -> None:
        self.net, self.copy, self.renew, self.loss = net, copy.deepcopy(net), renew, loss
        self.optimizer = make(net.parameters())
        self.random = torch.Generator().manual_seed(1)
        self.seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def step(self, number: int) -> None:
        x, y = torch.randn(2, M, 3, generator=self.random, dtype=torch.float64)
        reward, discount = torch.rand(2, M, generator=self.random, dtype=torch.float64)
        self.seen.append((x, y, reward, discount))
        self.net.zero_grad()
        self.gradient_into(self.seen[-1])
        if hasattr(self.optimizer, "observe"):
            with torch.no_grad():
                target = reward + discount * self.copy(y).squeeze(1)
            batch = TemporalDifference(
                self.net,
                {"x": x},
                value,
                target=target,
                loss=huber(0.5) if self.loss == "huber" else TemporalDifference.loss,
                target_network=TargetNetwork(self.copy, {"x": y}, discount),
            )
            self.optimizer.observe(batch)
        self.optimizer.step()
        self.renew(number, self.copy, self.net)

    def gradient_into(self, minibatch) -> None:
        """Autograd's gradient of a minibatch at the present parameters and copy."""
        x, y, reward, discount = minibatch
        error = self.net(x).squeeze(1) - reward - discount * self.copy(y).squeeze(1).detach()
        if self.loss == "huber":
            error = error.detach().clamp(-0.5, 0.5) * self.net(x).squeeze(1)
            error.mean().backward()
        else:
            (0.5 * error.square()).mean().backward()

    def recomputed(self) -> Tensor:
        """(1 - beta) sum_i beta^(t-i) g_i, all gradients at the present parameters and copy."""
        total = torch.zeros(sum(p.numel() for p in self.net.parameters()), dtype=torch.float64)
        for age, minibatch in enumerate(reversed(self.seen)):
            self.net.zero_grad()
            self.gradient_into(minibatch)
            flat = torch.cat([p.grad.flatten() for p in self.net.parameters()])
            total += (1 - BETA) * BETA**age * flat
        return total


def hard(number: int, old: nn.Module, new: nn.Module) -> None:
    if number % 3 == 2:
        old.load_state_dict(new.state_dict())


@torch.no_grad()
def averaged(number: int, old: nn.Module, new: nn.Module) -> None:
    for mean, p in zip(old.parameters(), new.parameters(), strict=True):
        mean.lerp_(p, 0.3)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1).double()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def corrected(zeta, **options):
    return lambda params: CorrectedMomentum(params, RATE, BETA, zeta, follow_target=True, **options)


def direction(optimizer: CorrectedMomentum, net: nn.Module) -> Tensor:
    """mu - eta, as it was at the last step."""
    parts = [optimizer.state[p]["mu"] - optimizer.state[p]["eta"] for p in net.parameters()]
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("renew", [hard, averaged])
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("zeta", [Full(), Layer(), Kronecker(), LowRank(window=40), Block(99)])
def test_the_corrected_momentum_of_linear_values_is_the_recomputed_one(zeta, chunk_size, renew):
    learner = Learner(linear(), corrected(zeta, chunk_size=chunk_size), lambda *_: None)
    for number in range(12):
        learner.step(number)
        # Linear values: gradients are affine in both, so that first order is all there is.
        torch.testing.assert_close(
            direction(learner.optimizer, learner.net), before(learner), rtol=1e-10, atol=1e-12
        )
        renew(number, learner.copy, learner.net)


def before(learner: Learner) -> Tensor:
    """What `recomputed` gave at the parameters that the last step started from."""
    now = copy.deepcopy(learner.net.state_dict())
    for p in learner.net.parameters():
        p.data.copy_(learner.optimizer.state[p]["previous"])
    result = learner.recomputed()
    learner.net.load_state_dict(now)
    return result


def test_without_following_the_copy_counts_as_standing_still():
    """The option's fault would be silent: the plain correction is far from the recomputed one."""

    def stays(params):
        return CorrectedMomentum(params, RATE, BETA, Full())

    learner = Learner(linear(), stays, lambda *_: None)
    for number in range(12):
        learner.step(number)
        expected = before(learner)
        averaged(number, learner.copy, learner.net)
    assert (direction(learner.optimizer, learner.net) - expected).norm() > 1e-3 * expected.norm()


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_the_correction_of_a_network_is_of_first_order(loss):
    """Half the step, a quarter of the error; with Huber's loss too."""
    errors = []
    for rate in (1e-2, 5e-3):

        def make(params, rate=rate):
            return CorrectedMomentum(params, rate, BETA, Full(), follow_target=True)

        learner = Learner(network(), make, lambda *_: None, loss)
        for number in range(8):
            learner.step(number)
            expected = before(learner)
            averaged(number, learner.copy, learner.net)
        errors.append(float((direction(learner.optimizer, learner.net) - expected).norm()))
    # The terms with second derivatives, which the rows omit, are linear in the step.
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("zeta", [Full(), Diagonal(), Kronecker(), LowRank(window=4), Layer()])
def test_a_copy_that_moves_with_the_parameters_is_a_moving_bootstrap(zeta):
    """One step behind is none behind, if the copy is renewed before each minibatch."""
    follow = Learner(
        network(), corrected(zeta), lambda n, old, new: old.load_state_dict(new.state_dict())
    )
    plain = Learner(network(), lambda p: CorrectedMomentum(p, RATE, BETA, zeta), lambda *_: None)
    for number in range(6):
        follow.step(number)
        x, y, reward, discount = follow.seen[-1]
        plain.optimizer.zero_grad()
        batch = TemporalDifference(
            plain.net, {"x": x}, value, bootstrap={"x": y}, discount=discount, target=reward
        )
        plain.optimizer.backward(batch)
        plain.optimizer.step()
    for one, other in zip(follow.net.parameters(), plain.net.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_state_continues_exactly():
    one = Learner(network(), corrected(Kronecker()), averaged)
    for number in range(4):
        one.step(number)
    other = Learner(network(), corrected(Kronecker()), averaged)
    other.net.load_state_dict(one.net.state_dict())
    other.copy.load_state_dict(one.copy.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    other.random.set_state(one.random.get_state())
    for number in range(4, 8):
        one.step(number)
        other.step(number)
    for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(a, b)


# --- the guard ----------------------------------------------------------------------------------


def explode(guard: float) -> tuple[float, list[float]]:
    """Regression on one input, whose derivative is too large for the step once corrected."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = CorrectedMomentum(net.parameters(), 0.8, 0.95, Full(), guard=guard)
    random, ratios = torch.Generator().manual_seed(0), []
    for _ in range(300):
        x = torch.randn(4, 2, generator=random, dtype=torch.float64) * 2
        optimizer.zero_grad()
        optimizer.backward(TemporalDifference(net, {"x": x}, value, target=x.sum(1).sin()))
        optimizer.step()
        ratios.append(optimizer.correction_ratio)
    x = torch.randn(256, 2, generator=random, dtype=torch.float64) * 2
    with torch.no_grad():
        return float((net(x).squeeze(1) - x.sum(1).sin()).square().mean()), ratios


def test_what_explodes_without_the_guard_learns_with_it():
    free, ratios = explode(0.0)
    assert not free < 1e3
    assert max(r for r in ratios if r == r) > 10
    guarded, held = explode(0.5)
    assert guarded < 0.5
    assert max(held) <= 0.5 + 1e-9


def test_the_guard_shortens_eta_and_keeps_its_direction():
    def run(guard: float) -> CorrectedMomentum:
        learner = Learner(linear(), corrected(Full(), guard=guard), averaged)
        for number in range(2):
            learner.step(number)
        return learner.optimizer

    free, held = run(0.0), run(1e-3)
    eta, short = (
        torch.cat([o.state[p]["eta"].flatten() for g in o.param_groups for p in g["params"]])
        for o in (free, held)
    )
    torch.testing.assert_close(short / short.norm(), eta / eta.norm())
    assert held.correction_ratio == pytest.approx(1e-3)
    assert free.correction_ratio > 2e-3
