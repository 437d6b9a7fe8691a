"""Texts, warps, numbers to add, and the balance of influences, beside plain constructions."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from semigradient.envs import OURS, make_vector
from semigradient.envs.core import resolve
from semigradient.envs.memory import streams
from semigradient.envs.memory.influence_balance import dynamics
from semigradient.errors import UserError
from support.memory import episodes


def characters(played) -> list[str]:
    names = played.core.source.names
    return ["".join(names[symbol] for symbol in row) for row in played.symbol]


def test_blocks_have_as_many_b_as_a() -> None:
    played = episodes("semigradient/AnBn-v0", 200, least=2, most=5, length=60)
    texts = characters(played)
    counts = []
    for text, target in zip(texts, played.target, strict=True):
        whole = re.findall(r"(a+)¶(b+)¶", text)
        assert all(len(a) == len(b) for a, b in whole)
        assert re.fullmatch(r"(a+¶b+¶)*(a*|a+¶b*)", text)
        counts += [len(a) for a, _ in whole]
        np.testing.assert_array_equal(
            target[:-1], [played.core.source.names.index(c) for c in text[1:]]
        )
    assert set(counts) == {2, 3, 4, 5}


def test_long_texts_have_the_published_rates() -> None:
    """1 - (31/32)/35 of the characters, and 0.1429 and 0.2857 bits."""
    one, other = (
        resolve(OURS["semigradient/AnBn-v0"], {"length": length}).source for length in (4000, 4350)
    )
    rate = (other.references["optimum"] - one.references["optimum"]) / 350
    assert rate == pytest.approx(1 - (31 / 32) / 35, abs=1e-6)
    rate = (other.references["memoryless"] - one.references["memoryless"]) / 350
    assert rate == pytest.approx(32 / 35, abs=1e-6)
    bits = {name: value / math.log(2) for name, value in one.losses.items()}
    assert bits == {"optimum": pytest.approx(5 / 35), "memoryless": pytest.approx(10 / 35)}
    losses = resolve(OURS["semigradient/Brackets-v0"], {}).source.losses
    bits = [value / math.log(2) for value in losses.values()]
    np.testing.assert_allclose(bits, [1.661, 1.938], atol=5e-4)


def test_lines_repeat_the_letters_in_brackets() -> None:
    played = episodes("semigradient/Brackets-v0", 100, inside=2, between=3, alphabet=4, length=36)
    letters = []
    for text in characters(played):
        lines = re.findall(r"\[(..)\](...)\[(..)\]¶", text)
        assert len(lines) == 3
        assert all(first == second for first, _, second in lines)
        letters += [letter for first, between, _ in lines for letter in first + between]
    shares = np.array([letters.count(letter) for letter in '!"#$']) / len(letters)
    np.testing.assert_allclose(shares, 0.25, atol=0.05)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variable", [False, True])
def test_characters_stay_for_a_while(variable: bool, padded: bool) -> None:
    played = episodes(
        "semigradient/Warp-v0", 200, warp=4, variable=variable, padded=padded, length=60
    )
    dummy, stays = 9, []
    for symbol, target in zip(played.symbol, played.target, strict=True):
        if padded:
            comes = np.flatnonzero(symbol != dummy)
            assert (target[symbol == dummy] == dummy).all()
        else:
            comes = np.flatnonzero(np.diff(symbol, prepend=-1))
        letters = symbol[comes]
        assert (letters[1:] != letters[:-1]).all()
        np.testing.assert_array_equal(target[comes], [dummy, *letters[:-1]])
        stays += np.diff(comes).tolist()
    shares = np.bincount(stays, minlength=5) / len(stays)
    wanted = [0, 0.25, 0.25, 0.25, 0.25] if variable else [0, 0, 0, 0, 1]
    np.testing.assert_allclose(shares, wanted, atol=0.03)


def test_the_sum_of_two_marked_numbers_is_wanted_at_the_end() -> None:
    stream = streams.make("semigradient/Adding-v0", 4000, 0, length=9)
    inputs, targets, is_learned, is_first = stream.take(9)
    numbers, marks = inputs.unbind(2)
    assert is_learned.sum(0).tolist() == [1] * 4000
    assert is_learned[-1].all()
    assert is_first[0].all()
    assert not is_first[1:].any()
    torch.testing.assert_close(targets[-1, :, 0], (numbers * marks).sum(0))
    assert (marks[:4].sum(0) == 1).all()
    assert (marks[4:].sum(0) == 1).all()
    np.testing.assert_allclose(marks.mean(1), [1 / 4] * 4 + [1 / 5] * 5, atol=0.03)
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)


def test_a_guess_of_the_sum_earns_what_is_said() -> None:
    """1 is the best guess, 1/2 more than the last number where that is marked."""
    many = make_vector("semigradient/Adding-v0", 20000, 0, length=3)
    obs, _ = many.reset()
    for _ in range(3):
        guess = np.where(obs[:, 1] > 0, obs[:, 0] + 0.5, 1.0)
        obs, reward, terminated, _, _ = many.step(guess[:, None].astype(np.float32))
        assert terminated.all() or not reward.any()
    assert many.references["memoryless"] == -(1 / 6 + 1 / 12) / 2
    assert reward.mean() == pytest.approx(many.references["memoryless"], abs=4 * 0.15 / 141)
    assert terminated.all()


def test_influences_balance_at_the_published_parameter() -> None:
    """θ* = -1/6, to which s₁ = -6 θ belongs, while the first effects are positive."""
    a, b = dynamics(23, 10)
    rest = torch.linalg.solve(torch.eye(23).double() - a, b)
    assert rest[0].item() == pytest.approx(-6)
    effects = [b]
    while len(effects) < 100:
        effects.append(a @ effects[-1])
    total = torch.stack(effects)[:, 0].cumsum(0)
    assert total[[0, 9, 18]].tolist() == pytest.approx([1, 10, 16.476], abs=1e-3)
    assert int((total < 0).nonzero()[0]) + 1 == 41

    many = make_vector("semigradient/InfluenceBalance-v0", 1, 0, rate=0.7, length=600)
    assert many.protocol["optimal_theta"] == -0.166667
    many.reset()
    unit, earned = torch.zeros(23).double(), []
    for step in range(600):
        change = -1 / 6 - 0.5 if step == 0 else 0.0
        _, reward, _, is_cut, _ = many.step(np.full((1, 1), change, np.float32))
        unit = a @ unit - b / 6
        assert reward[0] == pytest.approx(-0.5 * (unit[0].item() - 1) ** 2, abs=1e-5)
        earned.append(reward[0])
    assert is_cut[0]
    assert earned[-1] == pytest.approx(0, abs=1e-9)
    assert sum(earned) == pytest.approx(many.references["straight"], abs=1e-3)


NAMES = ("Copy", "VariableCopy", "Queue", "AnBn", "Brackets", "Warp", "Adding")


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_is_what_an_environment_shows_and_continues_exactly(name: str) -> None:
    env_id = f"semigradient/{name}-v0"
    one, whole = (streams.make(env_id, 3, seed=5) for _ in range(2))
    every = whole.take(250)
    first = one.take(90)
    saved = one.state_dict()
    rest = one.take(160)
    again = streams.make(env_id, 3, seed=6)
    again.load_state_dict(saved)
    for columns in zip(every, first, rest, again.take(160), strict=True):
        torch.testing.assert_close(columns[0], torch.cat(columns[1:3]), rtol=0, atol=0)
        torch.testing.assert_close(columns[2], columns[3], rtol=0, atol=0)

    core = resolve(OURS[env_id], {})
    source = getattr(core, "source", core)
    generator = torch.Generator().manual_seed(5)
    state = core.reset(3, generator)
    for step in range(source.length // 2):  # no sequence has ended yet
        assert torch.equal(core.observe(state), every.inputs[step])
        assert torch.equal(source.emit(state).target, every.targets[step])
        state = source.advance(state, generator)


def test_whole_sequences_begin_together_and_end_by_themselves() -> None:
    stream = streams.make("semigradient/VariableCopy-v0", 50, 0, letters=1, delay=4)
    stream.take(3)
    for _ in range(2):
        inputs, targets, is_learned, is_first = stream.whole()
        assert len(inputs) == 2 + 4 + 1
        assert is_first[0].all()
        lengths = is_learned.sum(0)
        assert set(lengths.tolist()) == {4, 5, 6, 7}
        signals = inputs[:, :, 9].argmax(0)
        torch.testing.assert_close(lengths, signals + 2)
        last = targets.gather(0, lengths[None] - 1)[0]
        assert torch.equal(last, inputs[0].argmax(1))


def test_a_stream_of_texts_can_go_on_without_end() -> None:
    cut, endless = (
        streams.make("semigradient/AnBn-v0", 4, 0, cut=cut, length=30) for cut in (True, False)
    )
    assert cut.take(70).is_first.sum(1).nonzero()[:, 0].tolist() == [0, 30, 60]
    assert endless.take(70).is_first.sum(1).nonzero()[:, 0].tolist() == [0]


def test_losses_of_guesses_without_memory() -> None:
    """Per symbol that is learned; of warps for a stream without end."""
    share = 10 * math.log(8)
    for name, options, loss in (
        ("Copy", {"delay": 500}, share / 520),
        ("VariableCopy", {"delay": 500}, share / (20 + 1 + 250.5)),
        ("Queue", {}, math.log(2)),
        ("Warp", {"warp": 7}, math.log(8)),
        ("Warp", {"warp": 7, "padded": True}, math.log(8) / 4),
        ("Adding", {}, 1 / 6),
    ):
        losses = streams.make(f"semigradient/{name}-v0", 1, 0, **options).source.losses
        assert losses == {"optimum": 0.0, "memoryless": pytest.approx(loss)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("AnBn", {"least": 4, "most": 3}, "most=3: must be ≥ least, here 4"),
        ("Brackets", {"alphabet": 60}, "alphabet=60: must be in"),
        ("Warp", {"warp": 3, "variable": False, "least": 2}, "least=2: acts only with variable"),
        ("Warp", {"least": 20}, "least=20: must be ≤ warp, here 10"),
        ("Warp", {"warp": 9, "variable": False, "length": 9}, "length=9: must be more than"),
        ("Adding", {"length": 1}, "length=1: must be ≥ 2"),
        ("InfluenceBalance", {"positive": 12}, "positive=12: must be less than half of units"),
    ],
)
def test_odd_options_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_vector(f"semigradient/{name}-v0", 1, 0, **options)


def test_what_has_no_symbols_is_no_stream() -> None:
    for env_id in ("semigradient/InfluenceBalance-v0", "CartPole-v1"):
        with pytest.raises(UserError, match="is no stream; accepted are semigradient/Copy-v0"):
            streams.make(env_id, 1, 0)
