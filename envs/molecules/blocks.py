"""The vocabulary of molecular building blocks of Bengio et al. 2021.

72 blocks, mined from ZINC by the junction-tree procedure, and where each may be attached: 105
entries. The data are those that the paper's repository publishes (bengioe/gflownet,
`mols/data/blocks_PDB_105.json`, MIT licence), in a compact form: SMILES, then one bracket per
entry. The first number of a bracket is the atom by which the block is attached, the others are the
stems it brings; an atom that is named several times takes several attachments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from semigradient.errors import UserError, require

PUBLISHED = """
Br[0]; C[0]; C#N[0]; C1=CCCCC1[0]|[2,0]|[3,0]; C1=CNC=CC1[0,2]|[2,0]; C1CC1[0]; C1CCCC1[0];
C1CCCCC1[0,1,2,3,4,5]; C1CCNC1[0,3,4]|[2,0,3,4]|[3,0,4]; C1CCNCC1[0,3]|[1,0,3]|[3,0];
C1CCOC1[0,4,1,2,4]|[2,4,0,1,4]; C1CCOCC1[0,1,2,4,5]|[1,0,2,4,5]|[2,0,1,4,5]; C1CNCCN1[2,5];
C1COCCN1[5]; C1COCC[NH2+]1[5]; C=C[0,1]; C=C(C)C[0]; C=CC[0,1]|[1,0]; C=N[0]; C=O[0]; CC[0,1];
CC(C)C[1]; CC(C)O[1]; CC(N)=O[2]; CC=O[1]; CCC[1]; CCO[1]; CN[0,1,1]|[1,0,0]; CNC[1]; CNC(C)=O[0];
CNC=O[0,2]|[2,0,0]; CO[0,1]|[1,0,0,0]; CS[0]; C[NH3+][0]; C[SH2+][1]; Cl[0]; F[0]; FC(F)F[1];
I[0]; N[0]; N=CN[1]; NC=O[0,1]|[1,0]; N[SH](=O)=O[1]; O[0]; O=CNO[1]; O=CO[1]; O=C[O-][1];
O=PO[1]; O=P[O-][1]; O=S=O[1]; O=[NH+][O-][1]; O=[PH](O)O[1]; O=[PH]([O-])O[1]; O=[SH](=O)O[1];
O=[SH](=O)[O-][1]; O=c1[nH]cnc2[nH]cnc12[3,6]|[6,3]; O=c1[nH]cnc2c1NCCN2[3,8]|[8,3];
O=c1cc[nH]c(=O)[nH]1[2,4]|[4,2]; O=c1nc2[nH]c3ccccc3nc-2c(=O)[nH]1[8,4,7]|[7,4,8]|[4,7,8];
O=c1nccc[nH]1[3,6]|[6,3]; S[0]; c1cc[nH+]cc1[1,3]|[3,1]; c1cc[nH]c1[0]|[2]; c1ccc2[nH]ccc2c1[6];
c1ccc2ccccc2c1[0]|[2]; c1ccccc1[0,1,2,3,4,5]; c1ccncc1[0,1,2,4,5]|[1,0,2,4,5]|[2,0,1,4,5];
c1ccsc1[2,4]; c1cn[nH]c1[0,1,3,4]|[1,0,3,4]|[4,0,1,3]|[3,0,1,4];
c1cncnc1[0,1,3,5]|[1,0,3,5]|[3,0,1,5];
c1cscn1[0,3]|[3,0]; c1ncc2nc[nH]c2n1[2,6]|[6,2]
"""

SMALL = """
c1ccccc1[0,1,2,3,4,5]; c1ccncc1[0,1,2,4,5]|[1,0,2,4,5]|[2,0,1,4,5];
c1cn[nH]c1[0,1,3,4]|[1,0,3,4]|[4,0,1,3]|[3,0,1,4]; C1CCNCC1[0,3]|[1,0,3]|[3,0];
C1CCOCC1[0,1,2,4,5]|[1,0,2,4,5]|[2,0,1,4,5]; C1CNCCN1[2,5]; C1CC1[0]; CC[0,1];
CO[0,1]|[1,0,0,0]; CN[0,1,1]|[1,0,0]; NC=O[0,1]|[1,0]; C=O[0]; C#N[0]; FC(F)F[1]; N[0]; O[0];
F[0]; Cl[0]
"""
"""18 of the blocks with 30 entries, for small experiments; the choice is this project's."""

VOCABULARIES = {"published": PUBLISHED, "small": SMALL}


class Entry(NamedTuple):
    """A block and one way to attach it."""

    smiles: str
    bond: int  # the atom that is bonded to a stem
    stems: tuple[int, ...]  # atoms that take further blocks


def read(text: str = PUBLISHED) -> list[Entry]:
    """Entries of a vocabulary; `UserError` for words other than SMILES and brackets."""
    entries = []
    for word in filter(None, map(str.strip, text.replace("\n", " ").split(";"))):
        match = re.fullmatch(r"(\S+?)((?:\[\d+(?:,\d+)*\]\|)*\[\d+(?:,\d+)*\])", word)
        require(match is not None, f"vocabulary word {word!r}: accepted are words like 'CC[0,1]'")
        assert match is not None
        for bracket in match[2].split("|"):
            first, *others = map(int, bracket.strip("[]").split(","))
            entries.append(Entry(match[1], first, tuple(others)))
    require(len(entries) > 0, "vocabulary: has no entry")
    return entries


def load(vocabulary: str) -> list[Entry]:
    """Entries by name, written out, or from a file; `UserError` for anything else.

    A file holds text as above, or the published JSON: columns `block_smi` and `block_r`, each a
    list or an object of rows.
    """
    if vocabulary in VOCABULARIES:
        return read(VOCABULARIES[vocabulary])
    if "[" in vocabulary:
        return read(vocabulary)
    path = Path(vocabulary)
    accepted = f"accepted are {', '.join(VOCABULARIES)}, entries like 'CC[0,1]; O[0]', or a file"
    require(path.is_file(), f"vocabulary {vocabulary!r}: no such file; {accepted}")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return read(text)
        content = json.loads(text)
        smiles, lists = (_column(content[name]) for name in ("block_smi", "block_r"))
        entries = [Entry(s, r[0], tuple(r[1:])) for s, r in zip(smiles, lists, strict=True)]
    except UserError as problem:
        raise UserError(f"vocabulary file {vocabulary!r}: {problem}") from None
    except (OSError, ValueError, TypeError, LookupError) as problem:
        what = f"{type(problem).__name__}: {problem}"
        raise UserError(f"vocabulary file {vocabulary!r}: {what}; {accepted}") from None
    require(len(entries) > 0, f"vocabulary file {vocabulary!r}: has no entry")
    is_valid = all(
        isinstance(e.smiles, str) and all(isinstance(a, int) for a in (e.bond, *e.stems))
        for e in entries
    )
    require(
        is_valid, f"vocabulary file {vocabulary!r}: block_smi must be text, block_r atom numbers"
    )
    return entries


def _column(rows: Any) -> list[Any]:
    return list(rows.values()) if isinstance(rows, Mapping) else list(rows)
