"""The kept mutations, read from the lists of this folder."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


@dataclass(frozen=True)
class Mutation:
    """One way to break the code.

    Attributes:
        name: its list and its number there, from 1.
        breaks: what is wrong afterwards, in a few words.
        file: path of the source, from the root of the checkout.
        old: text that occurs exactly once in it.
        new: what stands there instead.
        tests: files or node ids of pytest that must fail.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def source(self, root: Path) -> str:
        """The source with the mutation.

        Raises:
            ValueError: the text does not occur exactly once.
        """
        text = (root / self.file).read_text()
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name} ({self.breaks}): found {count} times in {self.file}")
        return text.replace(self.old, self.new)

    def missing_tests(self, root: Path) -> list[str]:
        """Those of `tests` that do not exist."""
        return [test for test in self.tests if not _exists(root, test)]


def mutations(names: tuple[str, ...] = ()) -> list[Mutation]:
    """The mutations of the named lists, or of all.

    Raises:
        ValueError: an unknown list, or an entry that lacks a field or has another.
    """
    known = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no list {', '.join(unknown)}: there are {', '.join(known)}")
    return [each for name in names or known for each in _read(known[name])]


def _read(path: Path) -> list[Mutation]:
    wanted = {field.name for field in dataclasses.fields(Mutation)} - {"name"}
    found = []
    for number, entry in enumerate(tomllib.loads(path.read_text())["mutation"], 1):
        name = f"{path.stem}-{number}"
        if entry.keys() != wanted:
            raise ValueError(f"{name}: has the fields {sorted(entry)}, not {sorted(wanted)}")
        found.append(Mutation(name, **{**entry, "tests": tuple(entry["tests"])}))
    return found


def _exists(root: Path, test: str) -> bool:
    path, *function = test.split("[")[0].split("::")
    file = root / path
    return file.is_file() and all(f"def {name}(" in file.read_text() for name in function)
