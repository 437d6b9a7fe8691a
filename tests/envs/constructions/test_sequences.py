"""Bit sequences and scored sequences: numbers, edges, rewards, files, and exact distributions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.domains.flows.estimates import policy_table
from semigradient.envs import make_vector
from semigradient.envs.constructions.bit_sequences import (
    BLOCKS,
    BitSequences,
    BitSequencesOptions,
    edit_distance,
)
from semigradient.envs.constructions.construction import tabulate
from semigradient.envs.constructions.scored_sequences import ScoredSequences, SequencesOptions
from semigradient.envs.constructions.sequences import Dense, Digests, Order, Sequences
from semigradient.errors import UserError
from semigradient.training.build import build
from semigradient.training.cli import parse


def letters(rules: Sequences, states: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(x for x in row if x >= 0) for row in rules.sequence(states).letters.tolist()]


@pytest.mark.parametrize("order", ["append", "both"])
def test_every_sequence_has_one_number_and_the_edges_of_its_order(order: Order) -> None:
    rules = ScoredSequences(SequencesOptions("abc", 3, order))
    states = torch.arange(rules.size)
    words = letters(rules, states)
    assert words == [w[::-1] for n in range(4) for w in itertools.product(range(3), repeat=n)]
    assert torch.equal(rules.numbers.number(rules.sequence(states)), states)
    place = {word: number for number, word in enumerate(words)}
    into: dict[int, list[tuple[int, int]]] = {number: [] for number in range(rules.size)}
    for number, word in enumerate(words):
        legal = rules.legal(states[number : number + 1])[0]
        assert legal.tolist() == [len(word) < 3] * (rules.actions - 1) + [False]
        for action in range(rules.actions - 1) if len(word) < 3 else []:
            letter = action % 3
            child = (letter, *word) if action >= 3 else (*word, letter)
            found = rules.child(states[number : number + 1], torch.tensor([action]))
            assert int(found) == place[child]
            into[place[child]].append((number, action))
    parents = rules.parents(states)
    for number in range(rules.size):
        real = parents.real[number]
        pairs = zip(
            parents.state[number][real].tolist(), parents.action[number][real].tolist(), strict=True
        )
        assert sorted(pairs) == sorted(into[number])
        assert int(rules.edges_into(states[number : number + 1])) == len(into[number])
    # Orders of building: one, or two for every further letter and for the first one.
    paths = tabulate(rules).paths()
    assert paths[-1] == (1 if order == "append" else 2**3)


def test_digests_stand_for_the_same_sequences_as_dense_numbers() -> None:
    options = BitSequencesOptions(16, 2, "both", modes=3)
    dense, hashed = BitSequences(options), BitSequences(options)
    hashed.numbers = Digests(8, hashed.device)
    assert isinstance(dense.numbers, Dense)
    random = torch.Generator().manual_seed(0)
    ours = theirs = torch.zeros(40, dtype=torch.int64)
    for _ in range(8):
        actions = torch.randint(dense.actions - 1, (40,), generator=random)
        ours, theirs = dense.child(ours, actions), hashed.child(theirs, actions)
        assert torch.equal(dense.features(ours), hashed.features(theirs))
        assert torch.equal(dense.log_reward(ours), hashed.log_reward(theirs))
        a, b = dense.parents(ours), hashed.parents(theirs)
        assert torch.equal(a.action, b.action)
        assert letters(dense, a.state.flatten()) == letters(hashed, b.state.flatten())
    assert len(ours.unique()) == len(theirs.unique())
    assert bool(hashed.finished(theirs).all())
    hashed.limit = 10
    hashed.evict_unused(lambda: theirs[:5])
    assert len(hashed.numbers) == 1 + len(theirs[:5].unique())
    assert letters(hashed, theirs[:5]) == letters(dense, ours[:5])


# Bits


def levenshtein(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row, before = [i], row
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def test_edit_distances_are_those_of_the_plain_recursion() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(2, size=(6, 13)), rng.integers(2, size=(5, 13))
    one[0, 9:] = -1  # a beginning
    text = lambda row: "".join(str(bit) for bit in row if bit >= 0)  # noqa: E731
    expected = [[levenshtein(text(a), text(b)) for b in other] for a in one]
    assert edit_distance(one.astype(np.int8), other.astype(np.int8)).tolist() == expected


@pytest.mark.parametrize("distance", ["edit", "hamming"])
def test_rewards_fall_with_the_distance_of_the_nearest_mode(distance: str) -> None:
    rules = BitSequences(BitSequencesOptions(120, 8, modes=7, distance=distance))  # type: ignore[arg-type]
    targets = torch.from_numpy(rules.targets)
    for mode in targets.view(7, 15, 8).tolist():
        assert {"".join(map(str, block)) for block in mode} <= set(BLOCKS)
    state = torch.zeros(7, dtype=torch.int64)
    weights = 2 ** torch.arange(7, -1, -1)
    for word in range(15):
        state = rules.child(state, (targets[:, 8 * word : 8 * word + 8] * weights).sum(1))
    assert rules.log_reward(state).tolist() == [1.0] * 7
    assert rules.modes(state).tolist() == list(range(7))
    assert rules.names(state) == ["".join(map(str, row)) for row in targets.tolist()]
    # One word of the first one inverted: eight bits at most.
    wrong = torch.zeros(1, dtype=torch.int64)
    for word in range(15):
        value = int((targets[0, 8 * word : 8 * word + 8] * weights).sum())
        wrong = rules.child(wrong, torch.tensor([255 - value if word == 0 else value]))
    gap = 120 * (1 - float(rules.log_reward(wrong)))
    assert 1 <= round(gap) <= 8 if distance == "edit" else gap == pytest.approx(8)
    assert rules.modes(wrong).tolist() == [0]


def test_modes_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "modes.txt"
    file.write_text("010101\n111000\n010101\n")
    rules = BitSequences(BitSequencesOptions(6, 1, modes_file=str(file), radius=0))
    assert rules.targets.tolist() == [[0, 1, 0, 1, 0, 1], [1, 1, 1, 0, 0, 0]]
    table = tabulate(rules)
    found = table.modes(table.objects)
    assert int((found >= 0).sum()) == 2
    assert table.log_partition() == pytest.approx(
        math.log(
            sum(
                math.exp(1 - min(levenshtein(x, "010101"), levenshtein(x, "111000")) / 6)
                for x in map("".join, itertools.product("01", repeat=6))
            )
        )
    )


# Scores


def test_scores_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    words = ["".join(each) for each in itertools.product("AB", repeat=3)]
    rows = [f"{word},{0.1 * index}" for index, word in enumerate(words)]
    file.write_text("\n".join(["sequence,score", *rows[::-1]]))
    rules = ScoredSequences(SequencesOptions("AB", 3, scores_file=str(file), lowest=0.05))
    table = tabulate(rules)
    found = dict(zip(rules.names(table.objects), rules.score(table.objects).tolist(), strict=True))
    assert found == pytest.approx({word: 0.1 * index for index, word in enumerate(words)})
    total = sum(max(0.05, 0.1 * index) for index in range(8))
    assert table.log_partition() == pytest.approx(math.log(total))
    best = rules.modes(table.objects) >= 0
    assert rules.names(table.objects[best]) == ["BBB"]


def test_modes_are_the_best_that_no_single_letter_improves() -> None:
    rules = ScoredSequences(SequencesOptions(length=5))
    scores = rules.scores.numpy()
    names = ["".join("ACGT"[index // 4**i % 4] for i in range(5)) for index in range(4**5)]
    value = dict(zip(names, scores.tolist(), strict=True))
    limit = np.quantile(scores, 0.995)
    peaks = {
        name
        for name, score in value.items()
        if score >= limit
        and all(score >= value[name[:i] + x + name[i + 1 :]] for i in range(5) for x in "ACGT")
    }
    table = tabulate(rules)
    found = table.objects[rules.modes(table.objects) >= 0]
    assert set(rules.names(found)) == peaks
    assert rules.mode_count == len(peaks) > 0


def make(env: str, *flags: str, options: tuple[str, ...] = ()) -> GFlowNet:
    words = ["--agent", "gflownet", "--env", f"semigradient/{env}-v0", *flags]
    agent = build(parse([*words, "--env-options", *options]).command)
    assert isinstance(agent, GFlowNet)
    return agent


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("Sequences", ("length=3", "order=both")),
        ("BitSequences", ("length=8", "word=2", "modes=2")),
    ],
)
@pytest.mark.parametrize("loss", ["tb", "fm"])
def test_small_sequences_are_learned_exactly(env: str, options: tuple[str, ...], loss: str) -> None:
    flags = "--hidden 64 --batch-size 32 --optim.lr 1e-2 --exact-every 0 --steps 28000"
    agent = make(env, *flags.split(), "--schedule", "linear", "--loss", loss, options=options)
    while agent.progress.steps < 28_000:
        agent.iterate()
    table = agent.table
    assert table is not None
    law = table.reach(policy_table(table, agent.network))[1]
    assert float((law - table.distribution()).abs().sum() / 2) < 0.06
    found = agent.sample(200)
    assert found.exact
    assert found.objects == agent.source.names(found.states)


def test_published_bit_sequences_are_sampled_with_exact_probabilities() -> None:
    agent = make("BitSequences", "--hidden", "16", "--batch-size", "4", "--exact-every", "0")
    agent.iterate()
    found = agent.sample(6)
    assert found.exact  # each has its beginnings as ancestors only
    assert not found.enumerated
    assert all(len(name) == 120 for name in found.objects)
    assert agent.rules.size == 0


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        ("BitSequences", {"length": 12, "word": 8}, "length=12: must be a multiple of word=8"),
        ("BitSequences", {"length": 12, "word": 4}, "generated modes need a multiple of 8"),
        ("BitSequences", {"length": 8, "modes": 6}, "modes=6: 8 bits have at most 5 of blocks"),
        ("BitSequences", {"modes_file": "no.txt"}, "modes_file='no.txt': .*No such file"),
        ("BitSequences", {"length": 8, "modes_file": "FILE"}, "mode 1 'AB,1': must be 8 char"),
        ("Sequences", {"letters": "AA"}, "letters='AA': must be two or more different letters"),
        ("Sequences", {"letters": "A,"}, "letters='A,': must not have spaces, commas"),
        ("Sequences", {"length": 12}, "must make at most 1048576 sequences, not 16777216"),
        ("Sequences", {"scores_file": "no.csv"}, "scores_file='no.csv': .*No such file"),
        ("Sequences", {"length": 2, "scores_file": "FILE"}, "line 1 'AB,1': must have 2 letters"),
        (
            "Sequences",
            {"length": 2, "letters": "AB", "scores_file": "FILE"},
            "lacks 3 sequences, such as AA",
        ),
        (
            "Sequences",
            {"length": 2, "letters": "AB", "scores_file": "TWICE"},
            "line 2 'AB,2': has another score in an earlier line",
        ),
    ],
)
def test_bad_input_is_one_line(
    env: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    files = {"FILE": tmp_path / "one.csv", "TWICE": tmp_path / "two.csv"}
    files["FILE"].write_text("AB,1\n")
    files["TWICE"].write_text("AB,1\nAB,2\n")
    filled = {
        k: str(files[v]) if isinstance(v, str) and v in files else v for k, v in options.items()
    }
    with pytest.raises(UserError, match=message) as problem:
        make_vector(f"semigradient/{env}-v0", 1, 0, **filled)
    assert "\n" not in str(problem.value)
