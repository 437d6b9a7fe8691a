"""Molecules of blocks as construction and environments: parents, validity, adapters, errors."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from support.molecules import built, everything, ones, rules

pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")

from rdkit import Chem
from rdkit.Chem.Crippen import MolLogP  # type: ignore[attr-defined]
from rdkit.Chem.Descriptors import MolWt  # type: ignore[attr-defined]

from semigradient import envs
from semigradient.envs.molecules.blocks import load, read
from semigradient.envs.molecules.molecule import MoleculeOptions
from semigradient.envs.molecules.toy import TOYS, Assembler, Molecule, enumerate_all
from semigradient.errors import UserError

ID = "semigradient/Molecule-v0"


# States


@pytest.mark.parametrize("name", TOYS)
def test_toys_have_the_states_that_enumeration_by_smiles_finds(name: str) -> None:
    text, blocks = TOYS[name]
    small = rules(text, 1, blocks)
    found = enumerate_all(Assembler(read(text)), blocks)
    levels = everything(small)
    sizes = [len(level) for level in levels]
    counts = [molecule.blocks for molecule in found.molecules]
    assert sizes == [counts.count(k) for k in range(blocks + 1)]
    states = torch.cat(levels)
    # Not counting stop, as many edges lead in as out.
    assert int(small.edges_into(states).sum()) == int((found.child[:, :-1] >= 0).sum())
    assembler = Assembler(read(text))
    both = [sorted(small.smiles(states)), sorted(map(assembler.smiles, found.molecules))]
    assert both[0] == both[1]


def test_parents_are_all_actions_that_lead_to_a_state() -> None:
    small = rules("CC[0,1]; CO[0,1]|[1,0,0]; c1ccccc1[0,1,2,3,4,5]; F[0]", 1, 4)
    levels = everything(small)
    for above, states in pairwise(levels):
        legal = small.legal(above)
        legal[:, -1] = False
        row, action = legal.nonzero(as_tuple=True)
        child = small.child(above[row], action)
        forwards = set(zip(above[row].tolist(), action.tolist(), child.tolist(), strict=True))
        parents = small.parents(states)
        at, slot = parents.real.nonzero(as_tuple=True)
        edges = (parents.state[at, slot], parents.action[at, slot], states[at])
        backwards = list(zip(*(each.tolist() for each in edges), strict=True))
        assert len(backwards) == len(set(backwards))
        assert set(backwards) == forwards


def test_parents_of_random_molecules_replay_to_them() -> None:
    big = rules()
    paths = built(big, 1000)
    states = paths.state[1:][paths.valid].unique()
    parents = big.parents(states)
    at, slot = parents.real.nonzero(as_tuple=True)
    source, action = parents.state[at, slot], parents.action[at, slot]
    assert bool(big.legal(source).gather(1, action[:, None]).all())
    assert torch.equal(big.child(source, action), states[at])
    # What was walked is among them, and several actions of one parent are several edges.
    steps = paths.valid & (paths.action != big.actions - 1)
    edges = [paths.state[:-1][steps], paths.action[steps], paths.state[1:][steps]]
    listed = set(zip(source.tolist(), action.tolist(), states[at].tolist(), strict=True))
    assert set(zip(*(each.tolist() for each in edges), strict=True)) <= listed
    assert len({(s, c) for s, _, c in listed}) < len(listed)


def test_the_root_need_not_be_a_block_that_can_be_attached() -> None:
    # C can only be first, since it has no bond to attach it by once it carries a stem.
    lopsided = rules("CO[1,0]|[1,0,0,0]; F[0]", 1, 2)
    levels = everything(lopsided)
    parents = lopsided.parents(levels[2])
    for state, real in zip(parents.state.tolist(), parents.real.tolist(), strict=True):
        assert {s for s, r in zip(state, real, strict=True) if r} <= set(levels[1].tolist())


def test_molecules_are_those_that_are_put_together_block_by_block() -> None:
    big, assembler = rules(), Assembler(read())
    paths = built(big, 60, seed=1)
    for b in range(60):
        molecule = Molecule(None, (), 0)
        for t in range(int(paths.length[b])):
            action = int(paths.action[t, b])
            if action == big.actions - 1:
                break
            entry = action % big.entries
            # The canonical number of a stem is found by what it leads to.
            wanted = big.smiles(paths.state[t + 1, b][None])[0]
            count = max(1, len(molecule.stems))
            made = [assembler.attach(molecule, s, entry) for s in range(count)]
            molecule = next(each for each in made if assembler.smiles(each) == wanted)
        assert assembler.smiles(molecule) == big.smiles(paths.objects[b][None])[0]


def random_agent(count: int) -> dict[str, float]:
    """Statistics of uniformly random constructions; fails on the first invalid molecule."""
    big = rules()
    objects = built(big, count, seed=2).objects
    smiles = big.smiles(objects)
    mols = [Chem.MolFromSmiles(each) for each in smiles]
    assert all(mol is not None for mol in mols)
    assert all("." not in each for each in smiles)
    size = torch.tensor([int(n) for n in big.trees(objects).size])
    assert int(size.min()) >= 2
    return {
        "unique": len(set(smiles)) / count,
        "full": float((size == 8).float().mean()),
        "heavy": float(np.mean([mol.GetNumHeavyAtoms() for mol in mols])),
        "logp": float(np.mean([MolLogP(mol) for mol in mols])),
        "mw": float(np.mean([MolWt(mol) for mol in mols])),
    }


def test_random_molecules_are_valid_and_like_the_published_ones() -> None:
    found = random_agent(400)
    assert found["unique"] > 0.96
    assert found["full"] == pytest.approx(0.5, abs=0.08)
    assert found["heavy"] == pytest.approx(28, abs=2.5)
    assert found["logp"] == pytest.approx(1.3, abs=0.4)
    assert found["mw"] == pytest.approx(414, abs=40)


@pytest.mark.slow
def test_ten_thousand_random_molecules_are_valid() -> None:
    found = random_agent(10_000)
    assert found["mw"] == pytest.approx(414, abs=12)
    assert found["heavy"] == pytest.approx(28, abs=1)


def test_stop_is_masked_below_the_fewest_and_forced_at_the_most_blocks() -> None:
    some = rules("small", 3, 4)
    paths = built(some, 300)
    size = torch.from_numpy(some.trees(paths.state.flatten()).size).view(paths.state.shape)
    legal = some.legal(paths.state.flatten())
    stop = legal[:, -1].view(size.shape)
    assert not stop[size < 3].any()
    assert not legal[size.flatten() == 4].any()
    open_ = ~some.finished(paths.state.flatten()).view(size.shape)
    assert bool(stop[(size == 3) & open_].all())
    assert bool((size[-1][open_[-1]] == 3).all())  # who stopped did so at three


def test_what_is_not_needed_is_forgotten_and_found_again() -> None:
    some = rules("small", 2, 5)
    paths = built(some, 50)
    live = paths.objects.unique()
    edges, smiles = some.edges_into(live), some.smiles(live)
    saved = some.export_states(live)
    some.limit = 10
    some.evict_unused(lambda: live)
    assert torch.equal(some.edges_into(live), edges)
    assert some.smiles(live) == smiles
    fresh = rules("small", 2, 5)
    fresh.import_states(saved)
    assert torch.equal(fresh.edges_into(live), edges)
    assert torch.equal(fresh.features(live), some.features(live))


# Faces


@pytest.mark.parametrize("observation", ["flat", "graph"])
@pytest.mark.parametrize("masks", ["info", "observation", "none"])
def test_gymnasium_accepts_every_face(observation: str, masks: str) -> None:
    options: dict[str, Any] = {"observation": observation, "masks": masks, "reward": "mw_window"}
    env = gymnasium.make(ID, vocabulary="small", max_blocks=3, render_mode="rgb_array", **options)
    check_env(env.unwrapped)
    env.reset(seed=0)
    env.step(0)
    frame: Any = env.render()
    assert frame.shape == (256, 256, 3)
    assert frame.min() < 200


def test_an_episode_ends_with_the_reward_of_its_molecule() -> None:
    env = gymnasium.make(ID, reward="qed", exponent=2.0, vocabulary="CC[0,1]; C=O[0]; O[0]")
    env.reset(seed=0)
    inner: Any = env.unwrapped
    for action in (0, 2):
        assert action in inner.legal_actions()
        _, reward, over, _, info = env.step(action)
        assert (reward, over) == (0.0, False)
    assert info["blocks"] == 2
    assert info["action_mask"].sum() == 4
    assert inner.smiles() == "CCO"
    _, reward, over, _, _ = env.step(inner.core.rules.actions - 1)
    from rdkit.Chem.QED import qed

    assert over
    assert reward == pytest.approx((10 * qed(Chem.MolFromSmiles("CCO")) / 8) ** 2)


def test_keys_do_not_depend_on_the_order_of_building() -> None:
    env = gymnasium.make(ID, reward=ones, vocabulary="CC[0,1]; O[0]; F[0]")
    inner: Any = env.unwrapped
    keys = set()
    for words in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1)):
        env.reset()
        for word in words:
            env.step(word)
        keys.add((inner.key(), inner.smiles()))
    assert len(keys) == 1
    assert keys.pop()[1] == "OCCF"


def test_illegal_actions_take_a_step_or_are_counted_on() -> None:
    strict = MoleculeOptions(ones, "CC[0,1]; O[0]").make()
    stop = torch.tensor([strict.rules.actions - 1])
    state = strict.reset(1)
    for _ in range(16):
        state, reward, over, cut = strict.step(state, stop)
        assert float(reward) == 0.0
    assert bool(cut)
    assert not bool(over)
    lenient = MoleculeOptions(ones, "CC[0,1]; O[0]", masks="none").make()
    state = lenient.reset(1)
    for _ in range(2):
        state = lenient.step(state, torch.tensor([7 * 2])).state  # CC on stem 7 of fewer
    assert lenient.rules.smiles_of(state.trees) == ["CCCC"]


def test_a_vector_steps_all_at_once_and_comes_back_exactly() -> None:
    from support.states import differences

    vector = envs.make_vector(ID, 5, 0, vocabulary="small", max_blocks=4, reward="mw_window")
    random = np.random.default_rng(0)

    def act(infos: dict[str, Any]) -> np.ndarray:
        return np.array([random.choice(np.flatnonzero(m)) for m in infos["action_mask"]])

    _, infos = vector.reset()
    rewards = []
    for _ in range(6):
        _, reward, over, _, infos = vector.step(act(infos))
        rewards.append(reward[over])
    assert np.concatenate(rewards).max() == pytest.approx(10 / 8)
    saved, actions = vector.state_dict(), act(infos)
    first = vector.step(actions)
    assert vector.load_state_dict(saved)
    assert differences(dict(enumerate(first[:4])), dict(enumerate(vector.step(actions)[:4]))) == []


def test_building_without_rewards_is_fast() -> None:
    vector: Any = envs.make_vector(ID, 64, 0, reward=ones)
    core: Any = vector.core
    core.rules.smiles_of = lambda trees: ["C"] * len(trees.kind)
    _, infos = vector.reset()
    random, spent = np.random.default_rng(0), 0.0
    for _ in range(20):
        legal = infos["action_mask"].sum(1)
        # Legal actions are the first ones, and stop.
        actions = (random.random(64) * legal).astype(int)
        stop = actions >= infos["action_mask"][:, :-1].sum(1)
        start = time.process_time()
        _, _, _, _, infos = vector.step(np.where(stop, core.rules.actions - 1, actions))
        spent += time.process_time() - start
    assert 20 * 64 / spent > 2000


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "qad"}, "unknown reward 'qad': did you mean qed"),
        ({"reward": "nowhere:maker"}, "reward 'nowhere:maker': No module named"),
        ({"vocabulary": "published.json"}, "vocabulary 'published.json': no such file"),
        ({"vocabulary": "CC[7]"}, "'CC' has no atom 7"),
        ({"lowest": 0.0}, "lowest=0.0: must be > 0"),
        ({"min_blocks": 9}, r"min_blocks=9: must be in \[1, 8\]"),
        ({"max_blocks": 1}, r"max_blocks=1: must be in \[2, 20\]"),
        ({"observation": "picture"}, "observation='picture': accepted are flat, graph"),
        ({"masks": "no"}, "masks='no': accepted are info, observation, none"),
        ({"workers": -1}, r"workers=-1: must be in \[0, 10000\]"),
    ],
)
def test_bad_input_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MoleculeOptions(**options).make()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "vocabulary file .*JSONDecodeError"),
        ("b.json", '{"block_smi": ["C"]}', "vocabulary file .*'block_r'"),
        ("c.json", '{"block_smi": ["C"], "block_r": [["0"]]}', "block_r atom numbers"),
        ("d.txt", "CC", "vocabulary file .*vocabulary word 'CC'"),
        ("e.txt", "C(C[0]", r"'C\(C' is no SMILES"),
    ],
)
def test_bad_vocabulary_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        MoleculeOptions(ones, str(tmp_path / name)).make()


def test_vocabulary_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(
        '{"block_smi": {"0": "CC", "1": "O"}, "block_r": {"0": [0, 1], "1": [0]}}'
    )
    (tmp_path / "v.txt").write_text("CC[0,1]; O[0]")
    assert load(str(tmp_path / "v.json")) == load(str(tmp_path / "v.txt")) == read("CC[0,1]; O[0]")
    small = load("small")
    assert (len(small), len({entry.smiles for entry in small})) == (30, 18)
    assert set(small) <= set(read())


def test_observations_of_graphs_are_for_single_environments() -> None:
    with pytest.raises(UserError, match="a vector of environments shows a Box"):
        envs.make_vector(ID, 2, 0, observation="graph", reward=ones)
    several = gymnasium.make_vec(
        ID, 2, vectorization_mode="sync", observation="graph", reward=ones, vocabulary="small"
    )
    obs, _ = several.reset(seed=0)
    assert obs["stems"].shape == (2, 30, 2)


def test_missing_rdkit_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(UserError, match="RDKit is not installed; pip install"):
        MoleculeOptions("qed").make()
