"""`backward` of an optimizer that sees temporal differences: observing and the gradient in one."""

import pytest
import torch

from semigradient.optim.batched import error, semi_gradient, values
from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.forms import Block, Diagonal, Full, Kronecker, Layer, LowRank
from semigradient.optim.temporal_difference import DifferentiatesTemporalDifference, huber
from semigradient.training.gradients import clip_factor, descend
from support.layered import NETWORKS, M, minibatch
from support.problems import DQN, build, parameters

FORMS = [
    {"zeta": Full()},
    {"zeta": Block()},
    {"zeta": Layer(layers=1)},
    {"zeta": Diagonal()},
    {"zeta": Kronecker()},
    {"zeta": LowRank(window=3)},
]


def batch_of(network, kind):
    torch.manual_seed(1)
    weight, target = torch.rand(M).double(), 2 * torch.randn(M).double()
    return minibatch(network, kind, weight=weight, target=target, loss=huber())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["still", "function", "samples", "several"])
@pytest.mark.parametrize("form", FORMS[3:])
def test_the_gradient_is_that_of_autograd(network, kind, form):
    batch = batch_of(network, kind)
    optimizer = CorrectedMomentum(batch.module.parameters(), 0.1, **form)
    for _ in range(2):  # the first time with a check of every layer, then without
        optimizer.zero_grad()
        prediction, errors = optimizer.backward(batch)
        torch.testing.assert_close(prediction, values(batch)[0].detach())
        torch.testing.assert_close(errors, error(batch, *values(batch)))
        for name, expected in semi_gradient(batch).items():
            gradient = batch.module.get_parameter(name).grad
            gradient = torch.zeros_like(expected) if gradient is None else gradient
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["still", "samples", "several"])
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("form", FORMS)
def test_steps_are_those_of_backward_and_observe(kind, chunk, form):
    ends = []
    for one_pass in (False, True):
        batch = batch_of("sequence", kind)
        optimizer = CorrectedMomentum(batch.module.parameters(), 0.1, **form, chunk_size=chunk)
        for _ in range(3):
            optimizer.zero_grad()
            if one_pass:
                optimizer.backward(batch)
            else:
                for name, gradient in semi_gradient(batch).items():
                    batch.module.get_parameter(name).grad = gradient
                optimizer.observe(batch)
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in batch.module.parameters()]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_rescaling_is_a_weight(form):
    ends = []
    for rescaled in (False, True):
        weight, target = torch.full((M,), 1 if rescaled else 0.3), torch.ones(M).double()
        batch = minibatch("sequence", "samples", weight=weight, target=target)
        optimizer = CorrectedMomentum(batch.module.parameters(), 0.1, **form)
        for _ in range(3):
            optimizer.zero_grad()
            optimizer.backward(batch)
            if rescaled:
                for p in batch.module.parameters():
                    p.grad *= 0.3
                optimizer.rescale(torch.tensor(0.3).double())
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in batch.module.parameters()]))
    # The share of a weight of type float32 is good to seven digits.
    torch.testing.assert_close(*ends, rtol=0, atol=1e-7)


@pytest.mark.parametrize("target", ["none", "hard"])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_q_learning_makes_the_same_step_in_one_pass(target, loss):
    """Beside the loss differentiated by autograd, then clipped, then observed."""
    config = {**DQN, "target": target, "loss": loss, "max_grad_norm": 0.01, "learning_starts": 999}
    rates = {"lr": 1e-2, "correction": "diagonal"}
    agent, twin = (
        build("dqn", "CartPole-v1", config, optimizer="corrected-momentum", rates=rates)
        for _ in range(2)
    )
    assert isinstance(agent.optimizer, DifferentiatesTemporalDifference)
    for _ in range(10):
        agent.iterate()
    for _ in range(3):
        batch = agent.memory.sample(16, agent.sampling, 0.9)
        agent._learn(batch, None)
        twin.optimizer.zero_grad()
        loss, limit = twin._loss_and_values(batch)[0], config["max_grad_norm"]
        factor = clip_factor(descend(loss, list(twin.network.parameters()), limit), limit)
        assert factor < 1
        weight = factor.expand_as(batch.reward)
        twin.optimizer.observe(twin._temporal_difference(batch, None, weight))
        twin.optimizer.step()
    torch.testing.assert_close(
        parameters(agent.network), parameters(twin.network), rtol=1e-5, atol=1e-7
    )
