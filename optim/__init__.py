"""Optimizers by name.

Nothing here imports torch: a command line can list the names and describe every
hyperparameter (`config_class`) before the first heavy import. `make` does the rest.

    config = optim.config_class("adam")(lr=3e-4)
    optimizer = optim.make(config, network.parameters())

Each optimizer reads `group["lr"]` at every step, so a schedule is whatever writes it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from semigradient.errors import unknown

if TYPE_CHECKING:
    import torch

    from semigradient.optim.configs import OptimizerConfig

_CONFIGS = {
    "sgd": "semigradient.optim.configs:SGDConfig",
    "momentum": "semigradient.optim.configs:MomentumConfig",
    "nesterov": "semigradient.optim.configs:NesterovConfig",
    "rmsprop": "semigradient.optim.configs:RMSpropConfig",
    "adam": "semigradient.optim.configs:AdamConfig",
    "adamw": "semigradient.optim.configs:AdamWConfig",
    "corrected-momentum": "semigradient.optim.configs:CorrectedMomentumConfig",
    "corrected-adam": "semigradient.optim.configs:CorrectedAdamConfig",
    "oracle-momentum": "semigradient.optim.configs:OracleMomentumConfig",
}


def names() -> list[str]:
    """Return the name of every optimizer."""
    return list(_CONFIGS)


def config_class(name: str) -> type[OptimizerConfig]:
    """Return the frozen dataclass that holds the hyperparameters of optimizer `name`."""
    if name not in _CONFIGS:
        unknown("optimizer", name, names())
    module, attribute = _CONFIGS[name].split(":")
    return cast("type[OptimizerConfig]", getattr(importlib.import_module(module), attribute))


def make(
    config: OptimizerConfig, params: Iterable[torch.Tensor] | Iterable[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Build the optimizer that `config` describes over `params` (tensors or param groups)."""
    return config.build(params)
