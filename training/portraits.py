"""Phase portraits: what an agent of the pendulum thinks of every angle and speed.

Images over θ in [-π, π] (x) and θ̇ in [-10, 10] (y), 50 × 50, as C. Tallec, PhD thesis, 2019,
figures 8.1 and A.1 to A.3: the value, and the policy's action (lighter: higher).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE, _SPEED = 50, 10.0


@dataclass(frozen=True)
class Portrait:
    """Value and action (50, 50), rows by speed, columns by angle."""

    value: NDArray[np.float64]
    policy: NDArray[np.float64]

    def draw(self, above: Axes, below: Axes, title: str = "") -> None:
        """Put both images into axes."""
        for axes, image, name in ((above, self.value, "value"), (below, self.policy, "policy")):
            axes.imshow(
                image,
                origin="lower",
                cmap="gray",
                aspect="auto",
                extent=(-np.pi, np.pi, -_SPEED, _SPEED),
            )
            axes.set_title(f"{title} {name}", fontsize=7)
            axes.tick_params(labelsize=6)

    def save(self, path: Path) -> None:
        """Write both images as one picture."""
        from matplotlib.figure import Figure

        path.parent.mkdir(parents=True, exist_ok=True)
        figure = Figure(figsize=(6, 3), layout="constrained")
        self.draw(*figure.subplots(1, 2))
        figure.savefig(path, dpi=120)


def require_pendulum(agent: Any) -> None:
    """`UserError` unless portraits can be made: a pendulum, and an agent that has `values`."""
    spec = agent.setup.envs.spec
    name = spec.id if spec is not None else "?"
    require("Pendulum-v" in name, f"portraits of {name!r}: accepted are pendulums")
    known = callable(getattr(agent, "values", None))
    require(known, "portraits: accepted are agents that know values, dau and ddpg")


def pendulum_portrait(agent: Any) -> Portrait:
    """Value and action at every angle and speed; actions are scaled to [-1, 1]."""
    angle, speed = np.meshgrid(
        np.linspace(-np.pi, np.pi, _SIZE), np.linspace(-_SPEED, _SPEED, _SIZE)
    )
    obs = np.stack([np.cos(angle), np.sin(angle), speed], -1).reshape(-1, 3).astype(np.float32)
    space = agent.setup.envs.single_action_space
    action = np.asarray(agent.policy(True)(obs, None), float)
    if isinstance(space, spaces.Discrete):
        action = 2 * action / (int(space.n) - 1) - 1
    else:
        action = action[:, 0] / space.high[0]
    shape = (_SIZE, _SIZE)
    return Portrait(agent.values(obs).astype(float).reshape(shape), action.reshape(shape))
