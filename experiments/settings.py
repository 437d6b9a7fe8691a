"""Optimizers as a comparison names them: NAME, NAME:KEY=VALUE,…, or a grid of settings,
NAME:KEY=VALUE,VALUE,…, of which the best is chosen by runs of its own (`experiments/tuning.py`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from semigradient import optim as optimizers
from semigradient.errors import UserError, require

DEFAULT_OPTIMIZER = "default"
FORM = "accepted is NAME or NAME:KEY=VALUE,KEY=VALUE; several values, KEY=VALUE,VALUE, are a grid"


@dataclass(frozen=True)
class Grid:
    """An optimizer and the values that each of its options is tried at.

    Attributes:
        text: as it was typed.
        name: of the optimizer.
        values: option → its values, in order.
    """

    text: str
    name: str
    values: dict[str, tuple[str, ...]]

    @property
    def swept(self) -> list[str]:
        """The options with several values."""
        return [key for key, values in self.values.items() if len(values) > 1]

    @property
    def settings(self) -> list[str]:
        """All combinations, each as the text of an optimizer with one value per option."""
        if not self.swept:
            return [self.text]
        points = itertools.product(*self.values.values())
        return [_join(self.name, zip(self.values, point, strict=True)) for point in points]

    @property
    def label(self) -> str:
        """The text with a star in the place of several values."""
        stars = {k: "*" if k in self.swept else values[0] for k, values in self.values.items()}
        return _join(self.name, stars.items()) if self.swept else self.text

    def edges(self, setting: str) -> list[str]:
        """For each swept number at the end of its values in a setting, a sentence that says so."""
        chosen = read_grid(setting).values
        sentences = []
        for key in self.swept:
            numbers = [_number(value) for value in self.values[key]]
            here = _number(chosen[key][0])
            known = [number for number in numbers if number is not None]
            if here is None or len(known) < len(numbers):
                continue
            for end, extreme in (("smallest", min(known)), ("largest", max(known))):
                if here == extreme:
                    sentences.append(
                        f"{key}={chosen[key][0]} is the {end} value of its grid: "
                        "better ones may lie beyond"
                    )
        return sentences


def read_grid(text: str) -> Grid:
    """The grid that a text stands for; NAME may be module:Config.

    Raises:
        UserError: another form, an option twice, or one value twice.
    """
    name, options = optimizers.named(text, (DEFAULT_OPTIMIZER,))
    values: dict[str, list[str]] = {}
    for word in options.split(",") if options else []:
        key, equals, value = word.partition("=")
        if equals:
            require(key not in values, f"--optim {text!r}: {key} stands there twice")
            values[key] = [value]
        elif values:
            values[next(reversed(values))].append(value := word)
        require(bool(key and value and values), f"--optim {text!r}: {FORM}")
    for key, several in values.items():
        twice = [value for value, count in Counter(map(_same, several)).items() if count > 1]
        require(not twice, f"--optim {text!r}: {key} has the value {twice[:1]} twice")
    return Grid(text, name, {key: tuple(several) for key, several in values.items()})


def read_optimizer(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of an optimizer with one value per option.

    Raises:
        UserError: it is a grid.
    """
    grid = read_grid(text)
    if grid.swept:
        raise UserError(f"--optim {text!r}: {grid.swept[0]} has several values")
    return grid.name, {key: value for key, (value,) in grid.values.items()}


def labels(texts: Iterable[str]) -> dict[str, str]:
    """A short name for each text; the text itself where short names would be the same."""
    short = {text: read_grid(text).label for text in texts}
    count = Counter(short.values())
    return {text: label if count[label] == 1 else text for text, label in short.items()}


def _join(name: str, options: Iterable[tuple[str, str]]) -> str:
    words = [f"{key}={value}" for key, value in options]
    return f"{name}:{','.join(words)}" if words else name


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _same(text: str) -> float | str:
    """What decides whether two values are one."""
    number = _number(text)
    return text if number is None else number
