"""A trained Coconet from its run folder, as conditionals for environments and samplers.

Environments name it `model=coconet@RUN`, or by the run folder alone.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semigradient.envs.music.chorale_completion import CompletionOptions
from semigradient.envs.music.chorales import PITCHES, VOICES
from semigradient.errors import UserError, require
from semigradient.nets.coconet import Coconet
from semigradient.training import checkpoint


def network(folder: str | Path, device: str | torch.device = "cpu") -> Coconet:
    """The newest policy of a run of the agent `coconet`, in evaluation mode.

    Raises:
        UserError: no such folder, or a run of another agent.
    """
    run = Path(folder).expanduser()
    try:
        config = _config(folder)["agent_config"]
        sizes = (int(config["channels"]), int(config["layers"]))
        pitch_bias = bool(config.get("pitch_bias", False))
    except (KeyError, TypeError, ValueError) as problem:
        raise UserError(f"{str(folder)!r}: no run folder of a Coconet ({problem})") from None
    loaded = checkpoint.load(run / "policy", None)
    weights = loaded.state["policy"].get("network", {})
    require("norms.0.weight" in weights, f"{str(folder)!r}: no run folder of a Coconet")
    net = Coconet(*sizes, len(PITCHES), len(VOICES), pitch_bias=pitch_bias)
    net.load_state_dict(weights)
    return net.to(device).eval().requires_grad_(False)


def trained_grid(folder: str | Path) -> int:
    """Sixteenths per frame of the pieces that a run was trained on."""
    try:
        options = [str(option).partition("=") for option in _config(folder)["run"]["env_options"]]
        grids = [int(value) for key, _, value in options if key == "grid"]
    except (KeyError, TypeError, ValueError) as problem:
        raise UserError(f"{str(folder)!r}: no run folder of a Coconet ({problem})") from None
    return grids[-1] if grids else CompletionOptions().grid


@dataclass(frozen=True)
class TrainedConditionals:
    """Log-probabilities (B, I, T, P) of a trained network, on frames of `grid` sixteenths."""

    network: Coconet
    grid: int

    @torch.no_grad()
    def __call__(self, pitches: Tensor, known: Tensor) -> Tensor:
        """Of pitch indices (B, I, T) and what is known (B, I, T)."""
        return self.network.conditionals(pitches, known)


def conditionals(folder: str, device: str = "cpu") -> TrainedConditionals:
    """The conditionals of a run folder."""
    return TrainedConditionals(network(folder, device), trained_grid(folder))


def _config(folder: str | Path) -> dict[str, Any]:
    """A run's `config.toml`."""
    try:
        return tomllib.loads(
            (Path(folder).expanduser() / "config.toml").read_text(encoding="utf-8")
        )
    except (OSError, ValueError) as problem:
        raise UserError(f"{str(folder)!r}: no run folder of a Coconet ({problem})") from None
