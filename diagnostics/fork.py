"""A copy of a learner that can be updated without changing the learner."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

from semigradient.diagnostics.derivatives import slopes, values
from semigradient.diagnostics.examples import Examples, Experience, Params
from semigradient.optim.temporal_difference import (
    Loss,
    TemporalDifference,
    wants_temporal_difference,
)
from semigradient.training.gradients import clip_factor, clip_gradients


class Fork:
    """Copies of a module and of its optimizer, at the learner's present state.

    `update` is the learner's own update of its value function: the same loss, clipping and
    optimizer, momentum and second moments included.
    """

    def __init__(self, experience: Experience) -> None:
        self.module = copy.deepcopy(getattr(experience.module, "_orig_mod", experience.module))
        self.parameters = list(self.module.parameters())
        self.optimizer = experience.make_optimizer(self.parameters)
        self.optimizer.load_state_dict(copy.deepcopy(experience.optimizer.state_dict()))
        self.max_grad_norm = experience.max_grad_norm

    def values(self) -> Params:
        """A copy of the present parameters."""
        return {
            name: p.detach().clone()
            for name, p in self.module.named_parameters()
            if p.requires_grad
        }

    def update(self, examples: Examples) -> None:
        """Take one optimizer step on the mean loss of `examples`."""
        examples = examples.with_module(self.module)
        slope, _ = slopes(examples)
        trainable = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        objective = (slope * values(examples.prediction, examples, trainable)).mean()
        # Parameters that the prediction does not use get no gradient, and do not move.
        gradients = torch.autograd.grad(objective, list(trainable.values()), allow_unused=True)
        self.optimizer.zero_grad()
        for parameter, gradient in zip(trainable.values(), gradients, strict=True):
            parameter.grad = gradient
        norm = clip_gradients(list(trainable.values()), self.max_grad_norm)
        if wants_temporal_difference(self.optimizer):
            factor = clip_factor(norm, self.max_grad_norm).expand_as(slope)
            make = examples.shown
            batch = (
                observed(examples, factor)
                if make is None
                else make(self.module, examples.samples, factor)
            )
            self.optimizer.observe(batch)
        self.optimizer.step()


def observed(examples: Examples, weight: Tensor) -> TemporalDifference:
    """Examples as an optimizer that knows that targets move wants them.

    Args:
        examples: of a loss that depends on f - y.
        weight: (m,) factors of the gradients.
    """
    moving = examples.moving
    start = torch.zeros_like(weight)

    def each(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda error: vmap(function)(error, torch.zeros_like(error))

    return TemporalDifference(
        examples.module,
        examples.samples,
        examples.prediction,
        bootstrap=examples.target if moving else None,
        discount=torch.ones_like(weight) if moving else None,
        weight=weight,
        target=start if moving else values(examples.target, examples).detach(),
        loss=Loss(each(grad(examples.loss)), each(grad(grad(examples.loss)))),
    )
