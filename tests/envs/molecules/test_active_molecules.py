"""Rounds of measuring molecules: what they pay, how actions build, and what is remembered."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")

from semigradient import envs
from semigradient.envs.molecules.active_molecules import UNKNOWN, ActiveMolecules, ActiveOptions
from semigradient.envs.molecules.block_trees import Trees
from semigradient.errors import UserError

ID = "semigradient/ActiveMolecule-v0"
SMALL: dict[str, Any] = {
    "vocabulary": "small",
    "max_blocks": 3,
    "initial": 12,
    "queries": 3,
    "rounds": 2,
}


def lengths(smiles: list[str]) -> list[float]:
    return [float(len(each)) for each in smiles]


def core(**options: Any) -> ActiveMolecules:
    return ActiveOptions(lengths, **{**SMALL, "top_k": 2, **options}).make()


def test_a_round_pays_the_rise_of_the_best() -> None:
    campaign = core()
    state = campaign.reset(2, torch.Generator().manual_seed(0))
    names = [campaign.smiles(state, row) for row in range(2)]
    assert [len(set(each)) for each in names] == [12, 12]
    assert names[0] != names[1]
    before = [np.sort(lengths(each))[-2:].mean() for each in names]
    assert campaign.top(state).tolist() == before
    random = np.random.default_rng(0)
    actions = torch.from_numpy(random.integers(campaign.rules.actions - 1, size=(2, 9)))
    step = campaign.step(state, actions)
    for row in range(2):
        built = campaign.rules.smiles_of(campaign.build(actions[row].numpy().reshape(3, 3)))
        after = sorted(lengths(list({*names[row], *built})))[-2:]
        assert float(step.reward[row]) == np.mean(after) - before[row]
        assert campaign.smiles(step.state, row)[:12] == names[row]
        assert set(campaign.smiles(step.state, row)) == {*names[row], *built}
        assert step.state.last[row].tolist() == lengths(built)
    # What is known already tells nothing new, and the state that was given is as it was.
    again = campaign.step(step.state, actions)
    assert again.reward.tolist() == [0, 0]
    assert again.terminated.tolist() == [True, True]
    assert step.terminated.tolist() == [False, False]
    assert [campaign.smiles(state, row) for row in range(2)] == names
    assert campaign.info(again.state)["known"].equal(campaign.info(step.state)["known"])
    best = state.trees[[0, 1], state.score.argmax(1)].numpy().astype(np.int64)
    twice = [Trees(*each[:, None].repeat(2, 1)) for each in best]
    paid = campaign.measure(state, twice)
    assert paid.reward.tolist() == [0, 0]
    assert paid.state.last[:, 0].tolist() == state.score.max(1).values.tolist()


def test_actions_build_as_in_the_other_environment() -> None:
    campaign = core()
    entries, stop = campaign.rules.entries, campaign.rules.actions - 1
    single = gymnasium.make(
        "semigradient/Molecule-v0", reward="qed", vocabulary="small", max_blocks=3
    )
    single.reset(seed=0)
    building = single.unwrapped
    taken = []
    for _ in range(2):
        action = int(building.legal_actions()[1])  # type: ignore[attr-defined]
        taken.append(action)
        single.step(action)
    expected = building.smiles()  # type: ignore[attr-defined]
    # A stop before two blocks is passed over; what follows a stop is ignored.
    rows = [
        [*taken, stop],
        [taken[0], stop, taken[1]],
        [stop, *taken],
        [taken[0] + 5 * entries, *taken],
    ]
    smiles = campaign.rules.smiles_of(campaign.build(np.array(rows)))
    assert smiles[:3] == [expected] * 3
    assert smiles[3] != expected
    alone = campaign.build(np.array([[taken[0], stop, stop]]))
    assert alone.size.tolist() == [1]
    state = campaign.reset(1, torch.Generator().manual_seed(0))
    step = campaign.measure(state, [alone])
    assert step.state.last.tolist() == [[UNKNOWN] * 3]
    assert campaign.info(step.state)["known"].tolist() == [12]


def test_the_faces_keep_their_contracts() -> None:
    options: dict[str, Any] = {**SMALL, "reward": "mw_window"}
    vector: Any = envs.make_vector(ID, 2, 0, **options)
    obs, infos = vector.reset()
    assert obs.shape == (2, 13)
    assert (obs[:, -3:] == UNKNOWN).all()
    assert infos["known"].tolist() == [12, 12]
    assert vector.frames()[0].shape == (256, 256, 3)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="initial=1: must be ≥ top_k=2"):
        core(initial=1)
    with pytest.raises(UserError, match="queries=0: must be ≥ 1"):
        core(queries=0)
    with pytest.raises(UserError, match="unknown reward 'gold'"):
        ActiveOptions("gold").make()
