"""The fixed point of Deep Advantage Updating on LQ1, exactly and by iteration.

With V = -w s² and Ā = -(c₁ s² + c₂ s a + c₃ a²), under the policy -k s, the temporal difference
vanishes everywhere at

    w = p,  c₂ = 2 γ^dt p,  c₃ = γ^dt p dt,    p = dt / (1 - γ^dt (1 - k dt)²);

c₁ cancels. So full-batch semi-gradient iteration must converge to it for any states and actions
in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semigradient.agents.continuous_time.dau import critic_loss, residual


def exact(dt: float, gamma: float = 0.8, gain: float = 1.0) -> Tensor:
    """(w, c₂, c₃) of the fixed point, float64."""
    discount = gamma**dt
    p = dt / (1 - discount * (1 - gain * dt) ** 2)
    return torch.tensor([p, 2 * discount * p, discount * p * dt], dtype=torch.float64)


def iterate(
    dt: float, gamma: float = 0.8, gain: float = 1.0, rate: float = 0.2, steps: int = 1000
) -> Tensor:
    """(w, c₂, c₃) after full-batch descent along the agent's own loss, from 0."""
    draw = torch.Generator().manual_seed(0)
    s, a = (2 * torch.rand((2, 200), dtype=torch.float64, generator=draw) - 1) * torch.tensor(
        [[2.0], [3.0]]
    )
    successor = s + a * dt
    learned = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    # Curvatures differ by orders of magnitude; a constant diagonal evens them out.
    features = torch.stack([s.square(), s * (a + gain * s), a.square() - (gain * s).square()])
    steepness = features.square().mean(1)
    for _ in range(steps):
        w, c2, c3 = learned
        value, advantage = -w * features[0], -(c2 * features[1] + c3 * features[2])
        bootstrap = gamma**dt * (-w * successor.square()).detach()
        error = residual(value, advantage, -s.square() * dt, bootstrap, dt)
        (gradient,) = torch.autograd.grad(critic_loss(error, value, advantage), learned)
        with torch.no_grad():
            learned -= rate * gradient / steepness
    return learned.detach()
