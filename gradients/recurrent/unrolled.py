"""A recurrent network as a function of its parameters' vector, and some of its steps with a graph.

Parameters are rows θ (B, P), one copy for each example, all of the same value: gradients come out
for each example. A graph remembers what it was made of, so that it can be built again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from semigradient.errors import UserError


class Network:
    """Any module `(x, s) -> (o, s')` of one example's vectors, mapped over examples.

    Args:
        module: its `width` is the length of s; x may have any shape.
    """

    def __init__(self, module: nn.Module) -> None:
        width = getattr(module, "width", None)
        if not isinstance(width, int):
            raise UserError(
                f"{type(module).__name__}: a recurrent network gives its state's length as width"
            )
        self.module, self.width = module, width
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.slices, end = {}, 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(end, end := end + shape.numel())
        self.parameters = end

    def vector(self) -> Tensor:
        """The present parameters (P,), in the order of `named_parameters`; a copy."""
        return torch.cat([p.detach().reshape(-1) for p in self.module.parameters()])

    def start(self, examples: int) -> Tensor:
        """Zeros (B, width), like the parameters."""
        like = next(self.module.parameters())
        return torch.zeros(examples, self.width, dtype=like.dtype, device=like.device)

    def step(
        self, theta: Tensor, x: Tensor, state: Tensor, tangents: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step.

        Args:
            theta: (B, P).
            x: (B, …).
            state: (B, width).
            tangents: (B, K, width), directions in which the state is differentiated as well.

        Returns:
            Outputs (B, …), next states (B, width), and its derivatives (B, K, width).
        """
        if tangents is None:
            output, after = vmap(self._one)(theta, x, state)
            return output, after, None

        def along(theta: Tensor, x: Tensor, state: Tensor, tangents: Tensor) -> tuple[Any, ...]:
            def forwards(tangent: Tensor) -> tuple[Any, ...]:
                both, (_, moved) = jvp(lambda s: self._one(theta, x, s), (state,), (tangent,))[:2]
                return *both, moved

            output, after, moved = vmap(forwards)(tangents)
            return output[0], after[0], moved

        output, after, moved = vmap(along)(theta, x, state, tangents)
        return output, after, moved.detach()

    def output(self, theta: Tensor, state: Tensor) -> Tensor:
        """What `module.output` makes of states (B, width) that were reached."""
        return self.call("output", theta, state)

    def call(self, method: str, theta: Tensor, *inputs: Tensor) -> Tensor:
        """Any method of the module, by its path, for each example with its row of parameters."""
        caller = _Method(self.module, method)

        def one(theta: Tensor, *inputs: Tensor) -> Tensor:
            return functional_call(caller, self._named(theta, "module."), inputs)

        return vmap(one)(theta, *inputs)

    def _one(self, theta: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return functional_call(self.module, self._named(theta), (x, state))

    def _named(self, theta: Tensor, prefix: str = "") -> dict[str, Tensor]:
        return {
            prefix + name: theta[part].reshape(self.shapes[name])
            for name, part in self.slices.items()
        }


class Unrolled:
    """Steps since the last cut, with the graph back to the state there.

    Attributes:
        start: (B, width), the state at the cut, a leaf.
        state: (B, width), the newest.
        output: of the newest step.
        tangents: (B, K, width), of the newest state, if the first state had some.
        count: steps.
    """

    def __init__(self, network: Network, state: Tensor, tangents: Tensor | None = None) -> None:
        self.network = network
        self.state = self.start = state.detach().requires_grad_()
        self.tangents = tangents
        self.output: Tensor | None = None
        self.inputs: list[Tensor] = []
        self.vectors: list[Tensor] = []
        self.factors: list[float] = []
        self.resets = [torch.zeros(len(state), dtype=torch.bool, device=state.device)]

    @property
    def count(self) -> int:
        """Steps since the cut."""
        return len(self.inputs)

    def reset(self, mask: Tensor) -> None:
        """Zeros for the states of rows where the mask (B,) says so; nothing reaches back of it."""
        self.resets[-1] = self.resets[-1] | mask
        self.state = torch.where(mask[:, None], 0, self.state)
        if self.tangents is not None:
            self.tangents = torch.where(mask[:, None, None], 0, self.tangents)

    def step(self, x: Tensor, factor: float = 1.0) -> Tensor:
        """One step.

        Args:
            x: (B, …).
            factor: of the gradient with respect to the state before this step.

        Returns:
            Outputs (B, …), without graph.
        """
        return self._append(x, factor, self.network.vector()).detach()

    def back(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """The newest output's, along a cotangent: by the start (B, width), by θ (B, P)."""
        if self.output is None:
            raise UserError("gradient: there was no step yet since the estimator was made")
        return self._pull(self.output, cotangent)

    def back_from_state(self, cotangents: Tensor) -> tuple[Tensor, Tensor]:
        """The newest state's, along (K, B, width): (K, B, width) and (K, B, P)."""
        return self._pull(self.state, cotangents, batched=True)

    def state_dict(self) -> dict[str, Tensor]:
        """All that the graph is made of."""
        stored = {"start": self.start.detach(), "resets": torch.stack(self.resets)}
        if self.inputs:
            stored["inputs"] = torch.stack(self.inputs)
            stored["vectors"] = torch.stack(self.vectors)
            stored["factors"] = torch.tensor(self.factors, dtype=torch.float64)
        return stored

    @classmethod
    def rebuilt(
        cls, network: Network, stored: Mapping[str, Tensor], tangents: Tensor | None = None
    ) -> Unrolled:
        """The graph of a `state_dict`, by the same steps again."""
        made = cls(network, stored["start"].clone(), tangents)
        resets = stored["resets"]
        if resets[0].any():
            made.reset(resets[0])
        for index, x in enumerate(stored.get("inputs", ())):
            made._append(x, float(stored["factors"][index]), stored["vectors"][index])
            if resets[index + 1].any():
                made.reset(resets[index + 1])
        return made

    def _append(self, x: Tensor, factor: float, vector: Tensor) -> Tensor:
        if not self.inputs:
            self.first = vector
            self.theta = vector.expand(len(self.state), -1).requires_grad_()
        rows = self.theta
        if self.vectors and torch.equal(vector, self.vectors[-1]):
            vector = self.vectors[-1]  # one tensor for all steps between two updates
        if vector is not self.first:
            rows = rows + (vector - self.first)
        before = self.state
        if factor != 1:
            before = before.detach() + factor * (before - before.detach())
        self.output, self.state, self.tangents = self.network.step(rows, x, before, self.tangents)
        self.inputs.append(x.detach())
        self.vectors.append(vector)
        self.factors.append(factor)
        self.resets.append(torch.zeros_like(self.resets[0]))
        return self.output

    def _pull(
        self, result: Tensor, cotangent: Tensor, batched: bool = False
    ) -> tuple[Tensor, Tensor]:
        by_start, by_theta = torch.autograd.grad(
            result,
            (self.start, self.theta),
            cotangent,
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=batched,
            materialize_grads=True,
        )
        return by_start, by_theta


class _Method(nn.Module):
    """A module whose `forward` is a method of another."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Tensor) -> Tensor:
        owner: Any = self.module
        for name in self.method.split("."):
            owner = getattr(owner, name)
        return owner(*inputs)
