"""Small Q-learners in float64 for tests of diagnostics, and plain autograd one sample at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.diagnostics.examples import Examples, half_square

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
LOSSES = {
    "half_square": half_square,
    "huber": F.smooth_l1_loss,
    "square": lambda f, y: 2 * (f - y) ** 2,
}


def q_net(inputs: int = 3, actions: int = 2, hidden: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, actions))


def q_examples(
    net: nn.Module, m: int = 4, moving: bool = True, loss: str = "half_square"
) -> Examples:
    """Q-learning, the bootstrap moving or given by numbers."""
    samples = {
        "obs": torch.randn(m, 3),
        "action": torch.randint(2, (m,)),
        "next_obs": torch.randn(m, 3),
        "reward": torch.randn(m),
        "discount": 0.9 * (torch.arange(m) != 1),
        "next_values": torch.randn(m, 2),
    }

    def target(call, s):
        values = call(s["next_obs"]) if moving else s["next_values"]
        return s["reward"] + s["discount"] * values.max(0).values

    return Examples(
        net,
        samples,
        prediction=lambda call, s: call(s["obs"]).gather(0, s["action"]),
        target=target,
        loss=LOSSES[loss],
        moving=moving,
        head=lambda call, s: call(s["obs"]).max(0).values,
    )


def one_at_a_time(examples: Examples) -> list[dict[str, Tensor]]:
    """Each sample by itself with plain autograd: f, y, J, their flat gradients, and parameters."""
    net, s = examples.module, examples.samples
    params = list(net.parameters())

    def flat(scalar: Tensor) -> Tensor:
        grads = torch.autograd.grad(scalar, params, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                torch.zeros(p.numel()) if g is None else g.flatten()
                for g, p in zip(grads, params, strict=True)
            ]
        )

    rows = []
    for i in range(examples.size):
        values = net(s["obs"][i])
        f = values[s["action"][i]]
        after = net(s["next_obs"][i]) if examples.moving else s["next_values"][i]
        y = s["reward"][i] + s["discount"][i] * after.max()
        loss = examples.loss(f, y.detach())
        rows.append(
            {
                "error": (f - y).detach(),
                "loss": loss.detach(),
                "b": flat(f),
                "a": flat(f - y),
                "gradient": flat(loss),
                "head": flat(values.max()),
            }
        )
    return rows


def stacked(rows: list[dict[str, Tensor]], key: str) -> Tensor:
    return torch.stack([row[key] for row in rows])


def flat(rows: dict[str, Tensor], batched: bool = True) -> Tensor:
    return torch.cat([r.flatten(1 if batched else 0) for r in rows.values()], dim=-1)


def moved(
    params: dict[str, Tensor], direction: dict[str, Tensor], step: float
) -> dict[str, Tensor]:
    return {name: p + step * direction[name] for name, p in params.items()}


def row(rows: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: r[index] for name, r in rows.items()}
