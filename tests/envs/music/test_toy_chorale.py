"""The toy chorale: everything a model of chorales is asked for, by enumeration."""

from __future__ import annotations

import itertools
import math

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient import envs
from semigradient.envs.music.chorale_fill import ToyChoraleOptions
from semigradient.envs.music.chorale_filling import fill, framewise_log_likelihood
from semigradient.envs.music.chorale_tasks import orderless
from semigradient.envs.music.toy_chorale import CELLS, FRAMES, PITCHES, VOICES, toy_joint
from semigradient.reproductions.music.toy_chorale_exact import (
    all_contexts,
    ancestral_policy,
    gibbs_laws,
    one_by_one_kernel,
    optimal_values,
    orderless_loss,
    reach,
    refill_kernel,
    stationary,
    subsets,
    total_variation,
)

TOY = "semigradient/ToyChorale-v0"
JOINT = toy_joint()
P = JOINT.log_p.exp()


def test_exact_numbers_of_the_joint() -> None:
    assert JOINT.log_z == pytest.approx(8.944255, abs=1e-6)
    assert JOINT.entropy() == pytest.approx(4.673384, abs=1e-6)
    assert float(JOINT.log_p.max()) == pytest.approx(-1.944255, abs=1e-6)
    assert int((JOINT.log_p > JOINT.log_p.max() - 1e-9).sum()) == 2
    assert float(P.sum()) == pytest.approx(1, abs=1e-12)


def test_conditionals_are_sums_over_the_joint() -> None:
    pitches, known = all_contexts()
    rng = np.random.default_rng(0)
    for row in rng.integers(len(pitches), size=20):
        found = JOINT.conditionals(pitches[row : row + 1], known[row : row + 1])[0]
        for voice, time in itertools.product(range(VOICES), range(FRAMES)):
            others = known[row].clone()
            others[voice, time] = False
            fits = ((JOINT.rolls == pitches[row]) | ~others).flatten(1).all(1)
            mass = [P[fits & (JOINT.rolls[:, voice, time] == p)].sum() for p in range(PITCHES)]
            expected = torch.stack(mass) / sum(mass)
            torch.testing.assert_close(found[voice, time].exp(), expected)


def test_every_ordering_gives_the_joint() -> None:
    rolls = JOINT.rolls[::37]
    for order in itertools.islice(itertools.permutations(range(CELLS)), 0, 720, 41):
        known, total = torch.zeros_like(rolls, dtype=torch.bool), torch.zeros(len(rolls)).double()
        for cell in order:
            voice, time = divmod(cell, FRAMES)
            log_p = JOINT.conditionals(rolls, known)[:, voice, time]
            total += log_p.gather(1, rolls[:, voice, time][:, None]).squeeze(1)
            known[:, voice, time] = True
        torch.testing.assert_close(total, JOINT.log_p[::37])


def test_the_orderless_loss_is_the_entropy() -> None:
    assert CELLS * orderless_loss() == pytest.approx(JOINT.entropy(), abs=1e-10)


def test_the_law_of_masks_gives_the_same_by_sampling() -> None:
    random = torch.Generator().manual_seed(0)
    rolls = JOINT.sample(200_000, random)
    known = orderless(len(rolls), VOICES, FRAMES, random)
    chosen = JOINT.conditionals(rolls, known).gather(-1, rolls[..., None]).squeeze(-1)
    loss = -chosen.where(~known, 0.0).flatten(1).sum(1) / (~known).flatten(1).sum(1)
    error = 4 * CELLS * float(loss.std()) / len(rolls) ** 0.5
    assert CELLS * float(loss.mean()) == pytest.approx(JOINT.entropy(), abs=error)


# The decision process


def test_soft_value_is_log_of_the_number_of_orderings() -> None:
    pitches, known = all_contexts()
    missing = (~known).flatten(1).sum(1)
    value = optimal_values(1.0, False)
    expected = torch.lgamma(missing.double() + 1)
    torch.testing.assert_close(value[JOINT.number(pitches, known)], expected, atol=1e-10, rtol=0)
    assert float(expected.max()) == pytest.approx(6.579251, abs=1e-6)
    assert optimal_values(1.0, True).abs().max() < 1e-12


def test_hard_value_is_the_mode() -> None:
    assert float(optimal_values(0.0, False)[-1]) == pytest.approx(-1.944255, abs=1e-6)


@pytest.mark.parametrize("order", ["free", "random", "chrono"])
def test_the_environment_returns_the_log_probability(order: str) -> None:
    core = ToyChoraleOptions(order=order).make()
    random = torch.Generator().manual_seed(3)
    state = core.reset(20_000, random)
    total = torch.zeros(20_000, dtype=torch.float64)
    for count in range(CELLS):
        # The ancestral policy: a random unknown cell, a pitch from its conditional.
        known = state.pitches >= 0
        log_p = JOINT.conditionals(state.pitches.clamp(min=0), known)
        legal = core.legal(state)
        if order == "free":
            assert int(legal.sum()) == 20_000 * PITCHES * (CELLS - count)
            weight = log_p.exp().where(~known[..., None], 0.0).flatten(1)
        else:
            here = state.cell[:, None, None].expand(-1, 1, PITCHES)
            weight = log_p.flatten(1, 2).gather(1, here).squeeze(1).exp()
        action = torch.multinomial(weight, 1, generator=random).squeeze(1)
        state, reward, terminated, truncated = core.step(state, action, random)
        total += reward
    assert bool(terminated.all())
    assert not bool(truncated.any())
    torch.testing.assert_close(total, JOINT.log_p[JOINT.index(state.pitches)])
    torch.testing.assert_close(total, state.log_p)
    assert float(total.mean()) == pytest.approx(-JOINT.entropy(), abs=0.04)
    found = torch.bincount(JOINT.index(state.pitches), minlength=len(P)) / len(total)
    perfect = float((P * (1 - P) / len(total) * 2 / math.pi).sqrt().sum() / 2)
    assert float((found - P).abs().sum() / 2) < 1.1 * perfect


# Gibbs sampling


@pytest.fixture(scope="module")
def laws() -> dict[float, Tensor]:
    return gibbs_laws((0.9, 0.5, 0.25, 0.1, 0.02))


@pytest.mark.parametrize(
    ("alpha", "tv", "kl", "nll"),
    [
        (0.9, 0.4659, 0.9993, 7.1884),
        (0.5, 0.1723, 0.1280, 5.4511),
        (0.25, 0.0726, 0.0219, 4.9776),
        (0.1, 0.0265, 0.0029, 4.7812),
        (0.02, 0.0051, 0.0001, 4.6937),
    ],
)
def test_independent_gibbs_is_biased_and_less_so_with_fewer_cells(
    laws: dict[float, Tensor], alpha: float, tv: float, kl: float, nll: float
) -> None:
    q = laws[alpha]
    assert total_variation(q, P) == pytest.approx(tv, abs=6e-5)
    assert float((q * (q.log() - JOINT.log_p)).sum()) == pytest.approx(kl, abs=6e-5)
    assert -float((q * JOINT.log_p).sum()) == pytest.approx(nll, abs=6e-5)


def test_kernels_are_laws() -> None:
    for known in subsets()[::9]:
        kernel = refill_kernel(known)
        torch.testing.assert_close(kernel.sum(1), torch.ones(len(P)).double())
        mixed = kernel @ refill_kernel(~known)
        torch.testing.assert_close(stationary(mixed) @ mixed, stationary(mixed))


def test_ancestral_gibbs_leaves_the_joint_as_it_is() -> None:
    # With exact conditionals, filling one by one draws from p(rest | kept), whatever the order.
    for known in subsets()[::7]:
        torch.testing.assert_close(P @ one_by_one_kernel(known), P)
    # And the sampler does just that.
    random = torch.Generator().manual_seed(5)
    rolls = JOINT.sample(100_000, random)
    for _ in range(2):
        known = torch.rand(rolls.shape, generator=random) < 0.4
        rolls = fill(JOINT.conditionals, rolls, known, "ancestral", generator=random)
    found = torch.bincount(JOINT.index(rolls), minlength=len(P)) / len(rolls)
    assert float((found - P).abs().sum() / 2) < 0.03  # a perfect sampler: 0.024


def test_fillings_follow_their_kernels() -> None:
    random, mask = torch.Generator().manual_seed(6), subsets()[21]
    start = JOINT.rolls[400].expand(100_000, -1, -1)
    for how, kernel in (("independent", refill_kernel), ("ancestral", one_by_one_kernel)):
        filled = fill(JOINT.conditionals, start, mask.expand_as(start), how, generator=random)
        found = torch.bincount(JOINT.index(filled), minlength=len(P)) / len(start)
        assert total_variation(found, kernel(mask)[400]) < 0.02


def test_the_ancestral_policy_reaches_the_joint() -> None:
    policy = ancestral_policy()
    mass, law = reach(policy)
    torch.testing.assert_close(law, P)
    assert float(mass[-1]) == 1
    # Its entropy-regularised return from the empty roll is the optimal one, log 720.
    _, known = all_contexts()
    pitches = all_contexts()[0]
    log_p = JOINT.conditionals(pitches, known).flatten(1, 2)
    gain = policy * (log_p - policy.clamp(min=1e-300).log())
    assert float((mass[:, None, None] * gain).sum()) == pytest.approx(math.log(720), abs=1e-9)


# Framewise likelihood


def test_framewise_likelihood_of_two_tied_coins() -> None:
    joint = torch.tensor([[0.45, 0.05], [0.05, 0.45]], dtype=torch.float64)

    def conditionals(pitches: Tensor, known: Tensor) -> Tensor:
        even = torch.full((len(pitches), 2, 1, 2), 0.5, dtype=torch.float64)
        for voice in (0, 1):
            told = joint[pitches[:, 1 - voice, 0]] / 0.5
            even[:, voice, 0] = torch.where(known[:, 1 - voice], told, even[:, voice, 0])
        return even.log()

    assert -float((joint * joint.log()).sum()) == pytest.approx(1.0182, abs=5e-5)
    random = torch.Generator().manual_seed(0)
    cells = torch.multinomial(joint.flatten(), 200_000, replacement=True, generator=random)
    rolls = torch.stack([cells // 2, cells % 2], 1)[:, :, None]
    found = -framewise_log_likelihood(conditionals, rolls, random)
    error = 4 * float(found.std()) / len(found) ** 0.5
    assert float(found.mean()) == pytest.approx(1.8971, abs=error)


@pytest.mark.parametrize(("chronological", "nats"), [(False, 1.959181), (True, 1.953134)])
def test_framewise_likelihood_of_the_toy(chronological: bool, nats: float) -> None:
    random = torch.Generator().manual_seed(1)
    rolls = JOINT.sample(100_000, random)
    found = -framewise_log_likelihood(JOINT.conditionals, rolls, random, chronological)
    error = 4 * float(found.std()) / len(found) ** 0.5
    assert float(found.mean()) == pytest.approx(nats, abs=error)
    assert error < 0.02


# Faces


# Three axes of floats look like a badly typed image to that checker.
@pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.common.env_checker")
@pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3.common.preprocessing")
@pytest.mark.parametrize(
    "options",
    [{}, {"order": "random"}, {"task": "inpaint", "actions": "multidiscrete"}],
)
def test_checkers_pass(options: dict[str, str]) -> None:
    from stable_baselines3.common.env_checker import check_env as check

    check(gymnasium.make(TOY, **options).unwrapped)
    many = envs.make_vector(TOY, 5, 0, **options)
    obs, infos = many.reset()
    assert obs.shape == (5, *many.single_observation_space.shape)
    assert infos["pianoroll"].shape == (5, VOICES, FRAMES)
