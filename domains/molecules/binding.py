"""Binding energy as a reward: the scale of docking scores, and the published proxy for them.

The proxy is a network that was fitted to docking scores against soluble epoxide hydrolase (Bengio
et al. 2021, section 4.2). Its parameters are not part of this project; users with the file give its
path, and `read_parameters` accepts only that file, unless `verify` is off.

Two interpretations of the root matrix W of the messages are in use. The code that made the file
computed x W (`x_W`); a later library copies W into a layer that computes x Wᵀ (`x_WT`), and later
papers compare by that one. They are different functions, correlated at 0.93; results name the one
used.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.domains.molecules.atoms import atom_graphs
from semigradient.envs.molecules.fingerprints import chemistry
from semigradient.errors import UserError, require
from semigradient.nets.atom_network import AtomNetwork

RootLayout = Literal["x_W", "x_WT"]
PUBLISHED = "f76ab480b62e23dda04fd45fefe0e7ae2374b3f8c3f18fb7e00651cad05b9e1f"
"""SHA-256 of the published file."""
SHAPES: tuple[tuple[int, ...], ...] = (
    *((64, 71), (64,)),  # embedding of atoms
    *((64, 64), (64,)),  # root and bias of the messages
    *((128, 4), (128,), (4096, 128), (4096,)),  # matrices of bonds
    *((192, 64), (192, 64), (192,), (192,)),  # update
    *((512, 64), (512,), (105, 512), (105,)),  # outputs by stem, which the score does not use
    *((256, 128), (256, 64), (256,), (256,)),  # query of the read-out
    *((1, 128), (1,)),  # output
)
"""Shapes of the file's arrays, in order."""
_NAMES = (
    *("embed.weight", "embed.bias", "root", "bias"),
    *("bonds.0.weight", "bonds.0.bias", "bonds.2.weight", "bonds.2.bias"),
    *("update.weight_ih", "update.weight_hh", "update.bias_ih", "update.bias_hh"),
    *("", "", "", ""),
    *("query.weight_ih", "query.weight_hh", "query.bias_ih", "query.bias_hh"),
    *("output.weight", "output.bias"),
)
_LARGEST = 2**26  # bytes, unpacked; the published file has 2.8 million
_BATCH = 256


def scaled(docking: Tensor) -> Tensor:
    """Scores of docking energies in kcal/mol, any shape: 4 - (min(0, energy) + 8.6) / 1.10."""
    return 4 - (docking.clamp(max=0) + 8.6) / 1.10


class BindingProxy:
    """Scores molecules with a network: higher binds better, most are between 0 and 10.

    Args:
        network: with one output.
        stem_mask: mark open stems in the atoms' features, as the published environment did;
            the score then depends on the construction and not on the molecule alone.
        name: of the network, for protocols.
    """

    def __init__(self, network: AtomNetwork, stem_mask: bool = False, name: str = "proxy") -> None:
        self.network, self.stem_mask, self.name = network.eval(), stem_mask, name

    @torch.no_grad()
    def __call__(self, mols: Sequence[Any], stems: Sequence[Sequence[int]] | None = None) -> Tensor:
        """Scores (m,) float64 of RDKit molecules, whose open stems are `stems`."""
        scores = [torch.zeros(0, dtype=torch.float64)]
        for start in range(0, len(mols), _BATCH):
            part = slice(start, start + _BATCH)
            marked = stems[part] if self.stem_mask and stems is not None else None
            scores.append(self.network(atom_graphs(mols[part], marked))[:, 0].double())
        return torch.cat(scores)


def load_proxy(
    path: str | Path,
    root_layout: RootLayout = "x_W",
    stem_mask: bool = False,
    verify: bool = True,
) -> BindingProxy:
    """Load the published proxy from the user's file.

    Args:
        path: of `best_params.pkl.gz`.
        root_layout: interpretation of the root matrix.
        stem_mask: see `BindingProxy`.
        verify: accept the published file only.

    Raises:
        UserError: no such file, or not that one.
    """
    layouts = get_args(RootLayout)
    require(
        root_layout in layouts, f"root_layout={root_layout!r}: accepted are {', '.join(layouts)}"
    )
    arrays = read_parameters(path, verify)
    state = {name: torch.from_numpy(a) for name, a in zip(_NAMES, arrays, strict=True) if name}
    if root_layout == "x_WT":
        state["root"] = state["root"].T.contiguous()
    network = AtomNetwork()
    network.load_state_dict(state)
    return BindingProxy(network, stem_mask, f"sEH proxy, root {root_layout}")


def published(path: str = "") -> Callable[[list[str]], Tensor]:
    """Scores of SMILES by the published proxy, `x_W` (`reward=proxy`)."""
    return of_smiles(load_proxy(path))


def published_transposed(path: str = "") -> Callable[[list[str]], Tensor]:
    """Scores of SMILES by the published proxy, `x_WT` (`reward=proxy_x_WT`)."""
    return of_smiles(load_proxy(path, "x_WT"))


def fitted(path: str = "") -> Callable[[list[str]], Tensor]:
    """Scores of SMILES by a network that `save` wrote (`reward=fitted`)."""
    return of_smiles(BindingProxy(load(path)))


def save(network: AtomNetwork, path: str | Path) -> None:
    """Write a network with one output to a safetensors file."""
    from safetensors.torch import save_file

    shape = {"steps": str(network.steps), "readouts": str(network.readouts)}
    save_file(network.state_dict(), path, shape)


def load(path: str | Path) -> AtomNetwork:
    """A network that `save` wrote; `UserError` for any other file."""
    from safetensors import SafetensorError, safe_open

    accepted = "accepted is a network fitted by `reproduce.py binding-proxy` (proxy-s0.safetensors)"
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        width, features = state["embed.weight"].shape
        network = AtomNetwork(features, width, int(about["steps"]), int(about["readouts"]))
        network.load_state_dict(state)
    except (OSError, SafetensorError, LookupError, ValueError, RuntimeError) as problem:
        what = str(problem).splitlines()[0]
        raise UserError(f"fitted proxy {str(path)!r}: {what}; {accepted}") from None
    return network


def of_smiles(score: Callable[[Sequence[Any]], Tensor]) -> Callable[[list[str]], Tensor]:
    """Scores of SMILES by a score of molecules."""
    chem = chemistry()
    return lambda smiles: score([chem.MolFromSmiles(name) for name in smiles])


def read_parameters(path: str | Path, verify: bool = True) -> list[NDArray[np.float32]]:
    """The arrays of a proxy's file, which are float32 and of `SHAPES`; see `load_proxy`."""
    accepted = "accepted is best_params.pkl.gz of the published sEH proxy"
    require(str(path) != "", f"proxy: needs a file (reward_file=PATH); {accepted}")
    try:
        content = Path(path).read_bytes()
    except OSError as problem:
        raise UserError(f"proxy {str(path)!r}: {problem.strerror}; {accepted}") from None
    digest = hashlib.sha256(content).hexdigest()
    require(
        not verify or digest == PUBLISHED,
        f"proxy {str(path)!r}: SHA-256 {digest[:12]}… is not {PUBLISHED[:12]}…; {accepted}",
    )
    try:
        arrays = _unpickle(content)
        is_valid = isinstance(arrays, list) and all(type(a) is np.ndarray for a in arrays)
    except Exception as problem:  # untrusted bytes can fail in any way
        raise UserError(f"proxy {str(path)!r}: cannot be read ({problem}); {accepted}") from None
    shapes = tuple(array.shape for array in arrays) if is_valid else None
    is_valid = shapes == SHAPES and all(array.dtype == np.float32 for array in arrays)
    finite = is_valid and all(np.isfinite(array).all() for array in arrays)
    require(finite, f"proxy {str(path)!r}: is not its {len(SHAPES)} arrays; {accepted}")
    # Writable copies, which torch needs for shared memory.
    return [np.array(array) for array in arrays]


class _Arrays(pickle.Unpickler):
    """Unpickles numeric arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return _ARRAY
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty
        raise pickle.UnpicklingError(f"asks for {module}.{name}")


_ARRAY = (
    object()
)  # stands for `numpy.ndarray`, whose constructor could be made to allocate all memory


def _empty(kind: object, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """The empty array that numpy makes before it fills it."""
    if kind is not _ARRAY or shape != (0,):
        raise pickle.UnpicklingError("holds an array of an odd kind")
    return np.ndarray(shape, np.dtype(np.uint8))


def _unpickle(content: bytes) -> Any:
    with gzip.open(io.BytesIO(content)) as unpacked:
        data = unpacked.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise pickle.UnpicklingError("is too large")
    return _Arrays(io.BytesIO(data)).load()
