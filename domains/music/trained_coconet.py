"""A trained Coconet from its run folder, as conditionals for environments and samplers.

Environments name it `model=coconet@RUN`, or by the run folder alone.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import torch
from torch import Tensor

from semigradient.envs.music.chorale_setting import Conditionals
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
        config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["agent_config"]
        sizes = (int(config["channels"]), int(config["layers"]))
    except (OSError, KeyError, ValueError) as problem:
        raise UserError(f"{str(folder)!r}: no run folder of a Coconet ({problem})") from None
    loaded = checkpoint.load(run / "policy", None)
    weights = loaded.state["policy"].get("network", {})
    require("norms.0.weight" in weights, f"{str(folder)!r}: no run folder of a Coconet")
    net = Coconet(*sizes, len(PITCHES), len(VOICES))
    net.load_state_dict(weights)
    return net.to(device).eval().requires_grad_(False)


def conditionals(folder: str, device: str = "cpu") -> Conditionals:
    """Log-probabilities (B, I, T, P) of a trained network."""
    net = network(folder, device)

    def log_probs(pitches: Tensor, known: Tensor) -> Tensor:
        with torch.no_grad():
            return net.conditionals(pitches, known)

    return log_probs
