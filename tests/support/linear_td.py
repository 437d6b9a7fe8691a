"""Linear TD(0) in float64: gradients are affine in the parameters, so corrections can be exact."""

import torch
from torch import nn

from semigradient.optim.temporal_difference import TemporalDifference

STEPS, FEATURES, STATES, BETA = 60, 5, 7, 0.9


def value(call, sample):
    return call(sample["s"]).squeeze(-1)


class LinearTD:
    """Random linear TD(0), a tenth of the transitions terminal; T minibatches of m."""

    def __init__(self, m, steps=STEPS, seed=0):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(STATES, FEATURES, generator=generator).double()
        transitions = torch.rand(STATES, STATES, generator=generator).double() ** 3
        s = torch.randint(STATES, (steps, m), generator=generator)
        s2 = torch.multinomial(transitions[s.reshape(-1)], 1, generator=generator).view(s.shape)
        self.m, self.steps = m, steps
        self.x, self.x2 = features[s], features[s2]
        self.discount = 0.95 * (torch.rand(steps, m, generator=generator) > 0.1).double()
        self.reward = torch.randn(steps, m, generator=generator).double()
        self.start = torch.randn(FEATURES, generator=generator).double()

    def gradient(self, t, theta):
        """Semi-gradient of half the squared error of minibatches t (an index or a slice)."""
        a = self.x[t] - self.discount[t][..., None] * self.x2[t]
        return ((a @ theta - self.reward[t])[..., None] * self.x[t]).mean(-2)

    def oracle(self, t, theta, beta=BETA, horizon=None):
        """The last minibatches (all if None) evaluated anew at theta."""
        first = 0 if horizon is None else max(0, t - horizon)
        share = (1 - beta) * beta ** torch.arange(t - first, -1, -1).double()
        return share @ self.gradient(slice(first, t + 1), theta)

    def batch(self, net, t, weight=None):
        return TemporalDifference(
            net,
            {"s": self.x[t]},
            value,
            {"s": self.x2[t]},
            self.discount[t],
            target=self.reward[t],
            weight=weight,
        )


def linear(problem):
    net = nn.Linear(FEATURES, 1, bias=False).double()
    net.weight.data.copy_(problem.start)
    return net


def train(problem, net, optimizer, schedule=lambda t: 0.1, clip=None, steps=None, start=0):
    """Yield (t, theta_t, factor of the gradient) behind each step."""
    for t in range(start, steps or problem.steps):
        optimizer.param_groups[0]["lr"] = schedule(t)
        theta = net.weight.detach()[0].clone()
        gradient = problem.gradient(t, theta)
        factor = 1.0 if clip is None else min(1.0, clip / gradient.norm().item())
        net.weight.grad = factor * gradient[None]
        weight = None if clip is None else torch.full((problem.m,), factor, dtype=torch.float64)
        optimizer.observe(problem.batch(net, t, weight))
        optimizer.step()
        yield t, theta, factor
