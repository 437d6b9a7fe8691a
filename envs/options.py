"""Options of an environment, which also make its core.

One dataclass serves `gymnasium.make`, `envs.make_vector`, `--env-options` and `--help`:

    @dataclass(frozen=True)
    class WalkOptions(Options):
        length: Count = 5
        \"\"\"Cells of the corridor.\"\"\"

        def make(self, device="cpu"):
            return Walk(self.length, device)

Fields are validated by their annotations (see `semigradient.validate`), combinations by `check`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from semigradient.errors import UserError, require
from semigradient.validate import check_fields, first_line, shown

RESERVED = {
    "core": "the environment's id decides it",
    "disable_env_checker": "is decided here",
    "env_id": "use --env",
    "id": "use --env",
    "num_envs": "use --num-envs",
    "render": "frames are taken by evaluate.py",
    "render_mode": "frames are taken by evaluate.py",
    "seed": "use --seed",
    "self": "is no option",
    "spec": "the environment's id decides it",
    "vectorization_mode": "is decided here",
}
"""Names that are never options of an environment, and what to use instead."""


@dataclass(frozen=True)
class Options:
    """Base class of the options of our own environments."""

    NEEDS: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = {}
    """Options that act only beside certain values of another: {option: (other, values)}."""
    TRAINING_ONLY: ClassVar[tuple[str, ...]] = ()
    """Options that change what is learned from, and have no part in evaluation."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name, (other, values) in self.NEEDS.items():
            self._check_need(name, other, values)
        self.check()

    def _check_need(self, name: str, other: str, values: tuple[Any, ...]) -> None:
        """Refuse an option that would do nothing."""
        value, decides = getattr(self, name), getattr(self, other)
        default = type(self).__dataclass_fields__[name].default
        accepted = " or ".join(f"{other}={shown(each)}" for each in values)
        require(
            value == default or decides in values,
            f"{name}={shown(value)}: acts only with {accepted}, not {other}={shown(decides)}",
        )

    def check(self) -> None:
        """Raise `UserError` for incompatible values."""

    def make(self, device: str = "cpu") -> Any:
        """The environment's core, on a device: each class of options has its own."""
        raise NotImplementedError


def check_names(names: Iterable[str]) -> None:
    """`UserError` for a name that is no option of any environment."""
    for name in names:
        if name in RESERVED:
            raise UserError(f"environment option {name!r}: is reserved; {RESERVED[name]}")


def check_device(device: Any) -> str:
    """The name of a device that is there; `UserError` otherwise."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    name = str(device)
    require(
        name in devices,
        f"device={shown(device)}: accepted are {', '.join(devices)} on this machine",
    )
    return name


def made(options: Any, device: Any, name: str) -> Any:
    """The core that options make; every failure is a one-line error about environment `name`."""
    place = check_device(device)
    try:
        return options.make(place)
    except UserError:
        raise
    except Exception as problem:
        raise UserError(
            f"environment {name!r} {chosen(options)}: {first_line(problem)}"
        ) from problem


def chosen(options: Any) -> str:
    """The values that differ from their defaults, as they are typed: (size=5, seat=1)."""
    pairs = [(field, getattr(options, field.name)) for field in dataclasses.fields(options)]
    different = [
        f"{field.name}={shown(value)}" for field, value in pairs if value is not field.default
    ]
    return f"({', '.join(different)})"
