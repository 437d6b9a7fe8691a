"""Optimizers by name.

Nothing here imports torch: a command line can list the names and describe every
hyperparameter (`config_class`) before the first heavy import. `make` does the rest.

    config = optim.config_class("adam")(lr=3e-4)
    optimizer = optim.make(config, network.parameters())

The optimizers of our own are to be had as classes, too:

    from semigradient.optim import CorrectedMomentum, LowRank
    optimizer = CorrectedMomentum(network.parameters(), 1e-2, 0.9, zeta=LowRank(window=5))

Each optimizer reads `group["lr"]` at every step, so a schedule is whatever writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from semigradient.errors import require
from semigradient.optim.forms import Block as Block
from semigradient.optim.forms import Diagonal as Diagonal
from semigradient.optim.forms import Full as Full
from semigradient.optim.forms import Kronecker as Kronecker
from semigradient.optim.forms import Layer as Layer
from semigradient.optim.forms import LowRank as LowRank
from semigradient.registry import Entry, Registry

if TYPE_CHECKING:
    import torch

    from semigradient.optim.configs import OptimizerConfig
    from semigradient.optim.corrected_momentum import CorrectedMomentum as CorrectedMomentum
    from semigradient.optim.momentum import Momentum as Momentum
    from semigradient.optim.oracle_momentum import OracleMomentum as OracleMomentum
    from semigradient.optim.rmsprop import RMSprop as RMSprop
    from semigradient.optim.temporal_difference import TemporalDifference as TemporalDifference

_NOTHING = "semigradient.optim.configs:NoOptimizerConfig"
_OURS = {
    "sgd": Entry("semigradient.optim.configs:SGDConfig"),
    "momentum": Entry("semigradient.optim.configs:MomentumConfig"),
    "nesterov": Entry("semigradient.optim.configs:NesterovConfig"),
    "rmsprop": Entry("semigradient.optim.configs:RMSpropConfig"),
    "adam": Entry("semigradient.optim.configs:AdamConfig"),
    "adamw": Entry("semigradient.optim.configs:AdamWConfig"),
    "corrected-momentum": Entry("semigradient.optim.configs:CorrectedMomentumConfig"),
    "corrected-adam": Entry("semigradient.optim.configs:CorrectedAdamConfig"),
    "oracle-momentum": Entry("semigradient.optim.configs:OracleMomentumConfig"),
}

NO_OPTIMIZER = "none"
"""Name of the optimizer of an agent that has none."""

OPTIMIZERS = Registry("optimizer", Entry, _OURS, group="semigradient.optimizers")
"""Ours, and those of installed packages."""

# Classes that import torch, which is why they are imported on first use.
_CLASSES = {
    "CorrectedMomentum": "semigradient.optim.corrected_momentum",
    "Momentum": "semigradient.optim.momentum",
    "OracleMomentum": "semigradient.optim.oracle_momentum",
    "RMSprop": "semigradient.optim.rmsprop",
    "TemporalDifference": "semigradient.optim.temporal_difference",
}


def __getattr__(name: str) -> Any:
    """One of the classes."""
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_CLASSES[name]), name)


def names() -> list[str]:
    """Return the name of every optimizer."""
    return OPTIMIZERS.names()


def split(text: str) -> tuple[str, list[str]]:
    """Name and flags of NAME:KEY=VALUE,KEY=VALUE, as `compare.py` takes it too.

    "module:Config" is a name by itself, and takes options after another colon.
    """
    name, options = named(text, (NO_OPTIMIZER,))
    pairs = [word.partition("=") for word in options.split(",")] if options else []
    for key, _, value in pairs:
        require(bool(key and value), f"--optim {text!r}: accepted is NAME:KEY=VALUE,KEY=VALUE")
    return name, flags({key: value for key, _, value in pairs})


def named(text: str, further: Iterable[str] = ()) -> tuple[str, str]:
    """Name, and what stands behind its colon; "module:Config" is a name by itself.

    `further` are names besides those of optimizers.
    """
    name, _, options = text.partition(":")
    is_known = name in OPTIMIZERS or name in further
    if name and not is_known and options.partition(":")[0].isidentifier():
        attribute, _, options = options.partition(":")
        name = f"{name}:{attribute}"
    return name, options


def flags(options: Mapping[str, str]) -> list[str]:
    """Options of an optimizer as words of a command line; true and false are flags alone."""
    words = []
    for key, value in options.items():
        if value.lower() in ("true", "false"):
            words.append(f"--optim.{'no-' * (value.lower() == 'false')}{key.replace('_', '-')}")
        else:
            words += [f"--optim.{key}", value]
    return words


def config_class(name: str) -> type[OptimizerConfig]:
    """Return the frozen dataclass that holds the hyperparameters of optimizer `name`.

    "module:Config" is one from elsewhere: a dataclass with `lr` and `build(params)`, as in
    `optim.configs`.
    """
    config = OPTIMIZERS.load(name if name != NO_OPTIMIZER else _NOTHING)
    is_valid = is_dataclass(config) and callable(getattr(config, "build", None))
    require(is_valid, f"optimizer {name!r}: must be a dataclass with a method build(params)")
    return cast("type[OptimizerConfig]", config)


def make(
    config: OptimizerConfig, params: Iterable[torch.Tensor] | Iterable[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Build the optimizer that `config` describes over `params` (tensors or param groups)."""
    return config.build(params)
