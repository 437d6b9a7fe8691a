"""The binding-energy proxy: its network atom by atom, its file, and its published scores."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from semigradient.domains.molecules.atoms import atom_graphs
from semigradient.domains.molecules.binding import (
    SHAPES,
    BindingProxy,
    load,
    load_proxy,
    read_parameters,
    save,
    scaled,
)
from semigradient.domains.molecules.molecule_sets import Fitting
from semigradient.envs.molecules.fingerprints import chemistry
from semigradient.envs.molecules.rewards import Scorer
from semigradient.errors import UserError
from semigradient.nets.atom_network import AtomNetwork, join
from semigradient.reproductions.molecules.binding_proxy import REFERENCES, train

SMILES = (
    "c1ccccc1",
    "CCO",
    "CC(=O)Oc1ccccc1C(=O)O",
    "C#CC[NH3+]",
    "O",
    "Brc1cnc[nH]1",
    "[Na+].C=C",
)
REAL = os.environ.get("SEMIGRADIENT_SEH_PROXY", "")
Array = NDArray[np.float64]


@pytest.fixture
def chem() -> Any:
    pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    return chemistry()


def written(folder: Path, seed: int = 0, shapes: Any = SHAPES, scale: float = 0.2) -> Path:
    """A file of the published form with random numbers."""
    rng = np.random.default_rng(seed)
    arrays = [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in shapes]
    path = folder / "params.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(arrays), 1))
    return path


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.01 * x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def by_hand(mol: Any, arrays: list[Array], root: Array, stems: tuple[int, ...] = ()) -> float:
    """The published network, written down once more: one molecule, atom by atom."""
    chem, symbols = chemistry(), ["H", "C", "N", "O", "F"]
    states = []
    for atom in mol.GetAtoms():
        x = np.zeros(71)
        x[symbols.index(atom.GetSymbol()) if atom.GetSymbol() in symbols else 5] = 1
        kinds = chem.rdchem.HybridizationType
        x[9:13] = [
            atom.GetIsAromatic(),
            *(atom.GetHybridization() == k for k in (kinds.SP, kinds.SP2, kinds.SP3)),
        ]
        x[13] = atom.GetTotalNumHs(includeNeighbors=True)
        x[14 + atom.GetAtomicNum() - 1] = 1
        x[70] = atom.GetIdx() in stems
        states.append(leaky(arrays[0] @ x + arrays[1]))
    orders = ["SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"]
    for _ in range(12):
        after = []
        for v, atom in enumerate(mol.GetAtoms()):
            got = []
            for bond in atom.GetBonds():
                e = np.eye(4)[orders.index(str(bond.GetBondType()))]
                matrix = arrays[6] @ leaky(arrays[4] @ e + arrays[5]) + arrays[7]
                got.append(states[bond.GetOtherAtomIdx(v)] @ matrix.reshape(64, 64))
            if mol.GetNumBonds() == 0:
                matrix = arrays[6] @ leaky(arrays[5]) + arrays[7]
                got.append(states[v] @ matrix.reshape(64, 64))
            mean = np.mean(got, 0) if got else np.zeros(64)
            m = leaky(states[v] @ root + mean + arrays[3])
            r, z, n = np.split(arrays[8] @ m + arrays[10], 3)
            hr, hz, hn = np.split(arrays[9] @ states[v] + arrays[11], 3)
            new = np.tanh(n + sigmoid(r + hr) * hn)
            update = sigmoid(z + hz)
            after.append((1 - update) * new + update * states[v])
        states = after
    found, hidden, cell = np.zeros(128), np.zeros(64), np.zeros(64)
    for _ in range(3):
        gates = arrays[16] @ found + arrays[18] + arrays[17] @ hidden + arrays[19]
        i, f, g, o = np.split(gates, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        fits = np.exp([float(hidden @ state) for state in states])
        mean = sum(w * state for w, state in zip(fits / fits.sum(), states, strict=True))
        found = np.concatenate([hidden, mean])
    return float((arrays[20] @ found + arrays[21])[0])


@pytest.mark.parametrize("layout", ["x_W", "x_WT"])
def test_the_network_is_the_one_written_atom_by_atom(
    chem: Any, tmp_path: Path, layout: Any
) -> None:
    path = written(tmp_path)
    arrays = [array.astype(np.float64) for array in read_parameters(path, verify=False)]
    root = arrays[2] if layout == "x_W" else arrays[2].T
    mols = [chem.MolFromSmiles(each) for each in SMILES]
    proxy = load_proxy(path, layout, verify=False)
    proxy.network.double()
    graphs = atom_graphs(mols)
    with torch.no_grad():
        got = proxy.network(graphs._replace(atoms=graphs.atoms.double()))[:, 0]
    # Single atoms of a mixture have no bond at all; their molecule has, and so no dummy.
    want = [by_hand(mol, arrays, root) for mol in mols]
    assert got.tolist() == pytest.approx(want, abs=1e-9)
    assert np.std(want) > 0.01
    assert proxy.name == f"sEH proxy, root {layout}"


def test_scores_know_open_stems_only_with_the_mask(chem: Any, tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    arrays = [array.astype(np.float64) for array in read_parameters(path, verify=False)]
    mol = [chem.MolFromSmiles("c1ccncc1")]
    masked = load_proxy(path, stem_mask=True, verify=False)(mol, [(0, 2, 2)])
    assert float(masked) == pytest.approx(by_hand(mol[0], arrays, arrays[2], (0, 2)), abs=1e-4)
    blind = load_proxy(path, verify=False)(mol, [(0, 2, 2)])
    assert float(blind) == pytest.approx(by_hand(mol[0], arrays, arrays[2]), abs=1e-4)
    assert float(blind) != pytest.approx(float(masked), abs=1e-3)


def test_a_batch_scores_as_its_molecules_do(chem: Any) -> None:
    torch.manual_seed(0)
    network = AtomNetwork()
    mols = [chem.MolFromSmiles(each) for each in SMILES]
    single = [atom_graphs([mol]) for mol in mols]
    with torch.no_grad():
        together = network(join(single))
        assert torch.allclose(together, network(atom_graphs(mols)))
        assert torch.allclose(together, torch.cat([network(each) for each in single]), atol=1e-6)
    assert BindingProxy(network)([]).shape == (0,)


def test_energies_are_scaled_as_published() -> None:
    found = scaled(torch.tensor([-8.6, -13.0, -15.2, 3.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([4.0, 8.0, 10.0, 4 - 8.6 / 1.1])


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/semigradient-was-unpickled",)


class Greedy:
    def __reduce__(self) -> tuple[Any, ...]:
        return np.ndarray, ((2**40,),)


def test_other_files_are_one_line_each(tmp_path: Path) -> None:
    good = written(tmp_path)
    with pytest.raises(UserError, match=r"nowhere.*: No such file.*accepted is best_params"):
        read_parameters(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"params.pkl.gz': SHA-256 .* is not f76ab480b62e"):
        load_proxy(good)
    with pytest.raises(UserError, match="root_layout='W_x': accepted are x_W, x_WT"):
        load_proxy(good, "W_x", verify=False)  # type: ignore[arg-type]
    odd = tmp_path / "odd"
    for content, says in (
        (b"no gzip", "cannot be read"),
        (good.read_bytes()[:-2000], "cannot be read"),
        (gzip.compress(b"no pickle"), "cannot be read"),
        (gzip.compress(pickle.dumps([Bomb()])), "asks for posix.mkdir"),
        (gzip.compress(pickle.dumps([Greedy()])), "cannot be read"),
        (gzip.compress(pickle.dumps([np.zeros(3, np.float32)])), "is not its 22 arrays"),
        (gzip.compress(pickle.dumps([np.zeros(s) for s in SHAPES])), "is not its 22 arrays"),
        (gzip.compress(pickle.dumps({"a": 1})), "is not its 22 arrays"),
        (gzip.compress(bytes(2**26 + 1), 1), "is too large"),
    ):
        odd.write_bytes(content)
        with pytest.raises(UserError, match=says) as caught:
            read_parameters(odd, verify=False)
        assert "\n" not in str(caught.value)
    assert not Path("/tmp/semigradient-was-unpickled").exists()


def test_odd_atoms_and_bonds_are_named(chem: Any) -> None:
    with pytest.raises(UserError, match="atom Au: accepted are atomic numbers 1 to 56"):
        atom_graphs([chem.MolFromSmiles("[Au]")])
    with pytest.raises(UserError, match="bond DATIVE: accepted are SINGLE"):
        atom_graphs([chem.MolFromSmiles("N->B")])


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="SEMIGRADIENT_SEH_PROXY does not name the proxy's file")
def test_the_published_file_has_its_published_scores(chem: Any) -> None:
    mols = [chem.MolFromSmiles(each) for each in REFERENCES]
    for column, layout in enumerate(("x_W", "x_WT")):
        found = load_proxy(REAL, layout)(mols)  # type: ignore[arg-type]
        want = [pair[column] for pair in REFERENCES.values()]
        assert found.tolist() == pytest.approx(want, abs=1e-3)


def test_the_network_is_fitted_on_the_spot_and_kept(chem: Any, tmp_path: Path) -> None:
    found = train(0, 20, Fitting(updates=2, evaluate_every=1, batch_size=4), tmp_path)
    assert found["validation"].shape == (2,)
    assert found["truth"].shape == found["predicted"].shape == (2,)
    assert np.isfinite(found["r2"]).all()
    path = tmp_path / "proxy-s0.safetensors"
    network = load(path)
    mols = [chem.MolFromSmiles(each) for each in ("CCO", "c1ccccc1")]
    want = BindingProxy(network)(mols)
    assert Scorer("fitted", file=str(path))(["CCO", "c1ccccc1"]).tolist() == want.tolist()
    other = tmp_path / "other"
    save(AtomNetwork(width=8, steps=2, readouts=1), other)
    assert (load(other).width, load(other).steps, load(other).readouts) == (8, 2, 1)
    path.write_bytes(b"nothing")
    for each in (path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"fitted proxy .* accepted is a network fitted by"):
            load(each)


def test_the_proxy_is_a_reward_by_name(chem: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"proxy '.*params.pkl.gz': SHA-256"):
        Scorer("proxy", file=str(written(tmp_path)))
    with pytest.raises(UserError, match="needs a file"):
        Scorer("proxy_x_WT")
    if REAL:
        for name, column in (("proxy", 0), ("proxy_x_WT", 1)):
            found = Scorer(name, file=REAL)(list(REFERENCES))
            want = [pair[column] for pair in REFERENCES.values()]
            assert found.tolist() == pytest.approx(want, abs=1e-3)
