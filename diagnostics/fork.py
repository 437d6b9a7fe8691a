"""A copy of a learner that can be updated without changing the learner."""

from __future__ import annotations

import copy

import torch

from semigradient.diagnostics.derivatives import slopes, values
from semigradient.diagnostics.examples import Examples, Experience, Params
from semigradient.optim.temporal_difference import TemporalDifference, wants_temporal_difference
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
        slope, curvature = slopes(examples)
        trainable = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        objective = (slope * values(examples.prediction, examples, trainable)).mean()
        # Parameters that the prediction does not use get no gradient, and do not move.
        gradients = torch.autograd.grad(objective, list(trainable.values()), allow_unused=True)
        self.optimizer.zero_grad()
        for parameter, gradient in zip(trainable.values(), gradients, strict=True):
            parameter.grad = gradient
        norm = clip_gradients(list(trainable.values()), self.max_grad_norm)
        if wants_temporal_difference(self.optimizer):
            curvature = curvature * clip_factor(norm, self.max_grad_norm)
            self.optimizer.observe(
                TemporalDifference(
                    self.module,
                    examples.samples,
                    examples.prediction,
                    bootstrap=examples.target if examples.moving else None,
                    discount=torch.ones_like(curvature) if examples.moving else None,
                    weight=curvature,
                )
            )
        self.optimizer.step()
