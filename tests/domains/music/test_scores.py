"""Loss, likelihoods and samplers of scores against exact joint laws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from semigradient.domains.music import framewise, gibbs, orderless
from semigradient.domains.music.framewise import ensemble_nll
from semigradient.envs.music import chorale_tasks
from semigradient.envs.music.chorale_filling import draw, fill
from semigradient.errors import UserError
from semigradient.nets.coconet import Coconet
from support.exact_scores import Joint, distance, toy, two_voices


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Loss ------------------------------------------------------------------------------------------


def order_averaged(joint: Joint) -> float:
    """D E[l] with the exact conditionals, all scores and all sets C by enumeration."""
    cells = joint.scores[0].numel()
    total = 0.0
    for bits in itertools.product((False, True), repeat=cells):
        if all(bits):
            continue
        known = torch.tensor(bits).view(1, *joint.scores.shape[1:]).expand_as(joint.scores)
        hidden = cells - sum(bits)
        weight = 1 / cells / math.comb(cells, hidden)
        losses = orderless.loss(joint.conditionals(joint.scores, known), joint.scores, known)
        total += weight * (joint.p @ losses).item()
    return cells * total


def test_the_weight_makes_the_loss_the_entropy() -> None:
    joint = toy()
    entropy = -(joint.p * joint.p.log()).sum().item()
    assert entropy == pytest.approx(4.673384, abs=1e-6)
    assert order_averaged(joint) == pytest.approx(entropy, abs=1e-9)
    assert -joint.p.log().max().item() == pytest.approx(1.944255, abs=1e-6)


# Likelihoods -----------------------------------------------------------------------------------


def expected(joint: Joint, draws: int, order: str, within: str) -> float:
    """Mean over p of the NLL of single orderings, nats a frame; likely scores get most of them."""
    source, total = generator(), 0.0
    for score, p in zip(joint.scores, joint.p.tolist(), strict=True):
        members = math.ceil(draws * p)
        frames = framewise.framewise(joint.conditionals, score, members, order, within, source)
        total -= p * frames.mean().item()
    return total


def test_framewise_is_not_the_likelihood_by_the_published_example() -> None:
    joint = two_voices()
    truth = -(joint.p * joint.p.log()).sum().item()
    assert truth == pytest.approx(1.0182, abs=1e-4)
    assert expected(joint, 1, "random", "truth") == pytest.approx(truth, abs=1e-12)
    # Enumerated: the first voice is 1/2, the second follows a draw, right nine times in ten.
    right, wrong = math.log(0.9), math.log(0.1)
    exact = math.log(2) - (0.5 * (0.9 * right + 0.1 * wrong) + 0.5 * (0.1 * right + 0.9 * wrong))
    assert exact == pytest.approx(1.8971, abs=1e-4)
    assert expected(joint, 60_000, "random", "sample") == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(("order", "value"), [("random", 1.959181), ("chronological", 1.953134)])
def test_framewise_of_the_toy(order: str, value: float) -> None:
    joint = toy()
    assert expected(joint, 12_000, order, "sample") == pytest.approx(value, abs=0.025)
    assert value > 1.557795 + 0.3  # the true entropy of a frame


def test_notewise_is_the_likelihood_in_every_ordering() -> None:
    joint = toy()
    for order in framewise.ORDERS:
        for score, p in zip(joint.scores[::243], joint.p[::243], strict=True):
            notes = framewise.notewise(joint.conditionals, score, 4, order, generator(), batch=7)
            assert notes.shape == (4, 2, 3)
            torch.testing.assert_close(notes.sum((1, 2)), p.log().expand(4))
            frames = framewise.framewise(joint.conditionals, score, 4, order, "truth", generator())
            torch.testing.assert_close(frames.sum(1), p.log().expand(4))


def test_frames_of_a_network_are_those_of_a_plain_loop(float64: None) -> None:
    network = Coconet(6, 4, pitches=5, voices=2).eval()
    score = torch.randint(5, (2, 4))
    found = framewise.framewise(
        network.conditionals, score, 20, "chronological", "argmax", generator(), batch=9
    )
    for frame in range(4):
        known = torch.zeros(1, 2, 4, dtype=torch.bool)
        known[:, :, :frame] = True
        both = set()
        for first in range(2):
            seen, context, total = score.clone()[None], known.clone(), 0.0
            for voice in (first, 1 - first):
                log_probs = network(seen, context)[0, voice, frame].log_softmax(0)
                total += log_probs[score[voice, frame]].item()
                seen[0, voice, frame] = log_probs.argmax()
                context[0, voice, frame] = True
            both.add(round(total, 9))
        assert {round(value, 9) for value in found[:, frame].tolist()} == both


def test_an_ensemble_is_no_worse_than_its_members() -> None:
    frames = torch.tensor([[-1.0, -3.0], [-2.0, -3.0]]).double()
    exact = [-math.log((math.exp(-1) + math.exp(-2)) / 2), 3.0]
    torch.testing.assert_close(ensemble_nll(frames), torch.tensor(exact).double())
    members = framewise.framewise(toy().conditionals, toy().scores[100], 5, generator=generator())
    assert (ensemble_nll(members) <= -members.mean(0) + 1e-12).all()


def test_choices_are_checked() -> None:
    joint = two_voices()
    score, known = joint.scores[0], torch.zeros(1, 2, 1).bool()
    for bad in ({"order": "backward"}, {"within": "mean"}, {"orderings": 0}):
        with pytest.raises(UserError, match=f"{next(iter(bad))}=.*(accepted are|must be)"):
            framewise.framewise(joint.conditionals, score, **bad)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"alpha_min=0\.5, alpha_max=0\.2: must be"):
        gibbs.Annealed(0.2, 0.5)
    with pytest.raises(UserError, match=r"rate=1\.5: must be in \[0, 1\]"):
        gibbs.last(gibbs.ancestral_gibbs(joint.conditionals, score[None], known, 1, 1.5))


# Samplers --------------------------------------------------------------------------------------


def blank(joint: Joint, count: int) -> tuple[Tensor, Tensor]:
    shape = (count, *joint.scores.shape[1:])
    return torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)


@pytest.mark.parametrize("order", framewise.ORDERS)
def test_ancestral_sampling_has_the_law_of_an_exact_model(order: str) -> None:
    joint = Joint(1, 3, 3)
    drawn = gibbs.ancestral(joint.conditionals, *blank(joint, 100_000), generator(), order)
    assert distance(joint.law(drawn), joint.p) < 0.02


def test_ancestral_sampling_completes_what_is_given_by_the_posterior() -> None:
    joint = Joint(1, 3, 3)
    pitches, known = blank(joint, 60_000)
    pitches[:30_000, :, 1], known[:30_000, :, 1] = 2, True  # the others have more to write
    drawn = gibbs.ancestral(joint.conditionals, pitches, known, generator())
    assert (drawn[:30_000, :, 1] == 2).all()
    posterior = joint.p * (joint.scores[:, 0, 1] == 2)
    assert distance(joint.law(drawn[:30_000]), posterior / posterior.sum()) < 0.02
    assert distance(joint.law(drawn[30_000:]), joint.p) < 0.02


@pytest.mark.parametrize("rate", [0.0, 0.4, 0.8])
def test_ancestral_gibbs_leaves_the_law_as_it_is(rate: float) -> None:
    joint = Joint(1, 3, 3)
    chain = gibbs.ancestral_gibbs(joint.conditionals, *blank(joint, 50_000), 3, rate, generator())
    laws = [joint.law(step.pitches) for step in chain]
    assert len(laws) == 4
    assert max(distance(law, joint.p) for law in laws) < 0.02


@pytest.mark.parametrize(("alpha", "value", "steps"), [(0.9, 7.1884, 8), (0.5, 5.4511, 40)])
def test_independent_gibbs_has_its_own_law(alpha: float, value: float, steps: int) -> None:
    """E[-log p] under the stationary law of the whole kernel, which is 729 by 729."""
    joint = toy()
    chain = gibbs.independent_gibbs(
        joint.conditionals,
        *blank(joint, 10_000),
        steps,
        generator(),
        gibbs.Annealed(alpha, alpha),
    )
    log_p = joint.p[joint.index(gibbs.last(chain))].log()
    assert -log_p.mean().item() == pytest.approx(value, abs=0.06)


def test_independent_gibbs_of_single_notes_is_gibbs_sampling() -> None:
    joint = Joint(1, 3, 3)
    schedule = gibbs.Annealed(0.9, 0.02, 0.5)
    chain = gibbs.independent_gibbs(
        joint.conditionals, *blank(joint, 20_000), 120, generator(), schedule
    )
    assert distance(joint.law(gibbs.last(chain)), joint.p) < 0.02


def test_the_published_schedule() -> None:
    alpha = gibbs.Annealed()
    assert alpha(0, 100) == 0.9
    assert alpha(35, 100) == pytest.approx(0.5)
    assert alpha(70, 100) == pytest.approx(0.1)
    assert alpha(99, 100) == 0.1
    assert alpha(69, 100) > 0.1


def test_what_is_known_is_never_erased() -> None:
    network = Coconet(6, 4, pitches=5).eval()
    pitches = torch.randint(5, (8, 4, 8), generator=generator())
    for task in ("harmonize", "voice:2", "bridge", "inpaint", "upsample"):
        known = chorale_tasks.known(task, 8, 4, 8, generator())
        chains = (
            gibbs.independent_gibbs(network.conditionals, pitches, known, 4, generator()),
            gibbs.ancestral_gibbs(network.conditionals, pitches, known, 2, 0.5, generator()),
        )
        for chain in chains:
            steps = list(chain)
            assert torch.equal(steps[0].erased, ~known)
            for step in steps:
                assert not (step.erased & known).any()
                assert torch.equal(step.pitches[known], pitches[known])
            for before, after in itertools.pairwise(steps):
                assert torch.equal(after.pitches[~after.erased], before.pitches[~after.erased])


def test_rates_keep_and_alphas_erase() -> None:
    joint = Joint(1, 3, 3)
    start = blank(joint, 20_000)
    kept = list(gibbs.ancestral_gibbs(joint.conditionals, *start, 1, 0.8, generator()))[1]
    assert kept.erased.double().mean().item() == pytest.approx(0.2, abs=0.01)
    schedule = gibbs.Annealed(0.9, 0.1, 0.5)
    chain = gibbs.independent_gibbs(joint.conditionals, *start, 4, generator(), schedule)
    erased = [step.erased.double().mean().item() for step in chain]
    assert erased == pytest.approx([1, 0.9, 0.5, 0.1, 0.1], abs=0.01)


def test_a_low_temperature_takes_the_most_probable() -> None:
    log_probs = torch.randn(50, 7).log_softmax(-1)
    assert torch.equal(framewise.draw(log_probs, generator(), 1e-3), log_probs.argmax(-1))


# Temperature


def _one_note(pitches: Tensor, known: Tensor) -> Tensor:
    return torch.tensor([0.5, 0.3, 0.2]).double().log().expand(*pitches.shape, 3)


def test_draws_are_tempered() -> None:
    log_p = _one_note(torch.zeros(20_000), torch.zeros(20_000))
    for temperature in (0.5, 1.0, 2.0):
        drawn = draw(log_p, torch.Generator().manual_seed(0), temperature)
        found = drawn.bincount(minlength=3).double() / 20_000
        torch.testing.assert_close(found, (log_p[0] / temperature).softmax(0), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "name", ["fill", "one by one", "ancestral", "independent", "gibbs", "kept"]
)
def test_every_sampler_takes_the_temperature(name: str) -> None:
    pitches = torch.zeros(300, 1, 1, dtype=torch.int64)
    known, cold = torch.zeros(300, 1, 1, dtype=torch.bool), {"temperature": 0.02}
    arguments = _one_note, pitches, known
    random = torch.Generator().manual_seed(0)
    samplers = {
        "fill": lambda **t: fill(*arguments, "independent", generator=random, **t),
        "one by one": lambda **t: fill(*arguments, "ancestral", generator=random, **t),
        "ancestral": lambda **t: gibbs.ancestral(*arguments, random, **t),
        "independent": lambda **t: gibbs.independent(*arguments, random, **t).pitches,
        "gibbs": lambda **t: gibbs.last(gibbs.independent_gibbs(*arguments, 2, random, **t)),
        "kept": lambda **t: gibbs.last(gibbs.ancestral_gibbs(*arguments, 2, 0.0, random, **t)),
    }
    assert samplers[name](**cold).unique().tolist() == [0]
    assert samplers[name]().unique().tolist() == [0, 1, 2]
