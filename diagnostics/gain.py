"""Pointwise gain: effect of one update on the losses of steps before and after, in time.

    gain(A) = J_θ(A) - J_θ'(A),    θ' one update later    (first order: lr · ρ_AB for SGD)

E. Bengio, PhD thesis, eq. 3.7-3.11, §3.2.2.4, Fig. 3.7-3.11, 3.13. Positive: the update helped.
The update is the learner's own, with its optimizer's state, but made on a copy.
"""

from __future__ import annotations

from torch import Tensor

from semigradient.diagnostics.derivatives import losses
from semigradient.diagnostics.examples import Examples, Params
from semigradient.diagnostics.fork import Fork
from semigradient.diagnostics.interference import reach
from semigradient.diagnostics.observer import Findings, Profile, View, masked_mean


def pointwise_gain(examples: Examples, before: Params, after: Params) -> Tensor:
    """J at `before` minus J at `after`, targets recomputed where they move: (m,)."""
    return losses(examples, before) - losses(examples, after)


def measure(view: View) -> Findings:
    """Gain by distance in time from the steps that one batch updates, and elsewhere."""
    experience = view.experience
    centre = experience.draw(experience.batch_size, view.generator)
    elsewhere = view.drawn(view.samples)
    fork = Fork(experience)
    before = fork.values()
    fork.update(experience.at(centre))
    after = fork.values()
    offsets = reach(experience.times, experience.device)
    # More steps in a batch than `samples` add cost but little precision.
    index, valid = experience.around(centre[: view.samples], offsets)
    gain = pointwise_gain(experience.at(index.flatten()), before, after).view_as(index)
    near = valid & ((offsets != 0) & (offsets.abs() <= 10))[:, None]
    scalars = {
        "updated": gain[offsets == 0].mean(),
        "near": masked_mean(gain.flatten(), near.flatten(), 0),
        "elsewhere": pointwise_gain(elsewhere, before, after).mean(),
    }
    curves = {"gain": masked_mean(gain, valid, 1), "count": valid.sum(1)}
    return Findings(scalars, {"offset": Profile("distance in time", offsets, curves)})
