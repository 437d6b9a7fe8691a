"""Phase portraits: an agent's values and actions over the pendulum's angles and speeds.

Images over θ in [-π, π] (x) and θ̇ in [-10, 10] (y), 50 × 50, as C. Tallec, PhD thesis, 2019,
figures 8.1 and A.1 to A.3: the value, and the policy's action (lighter: higher).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE, _SPEED = 50, 10.0


@dataclass(frozen=True)
class Portrait:
    """Value and action (50, 50), rows by speed, columns by angle."""

    value: NDArray[np.float64]
    policy: NDArray[np.float64]

    def draw(self, above: Axes, below: Axes, title: str = "") -> None:
        """Draw both images into axes."""
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

    def image(self) -> NDArray[np.uint8]:
        """Both images as one picture, RGB (H, W, 3)."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        self.draw(*figure.subplots(1, 2))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def portraits(agent: Any) -> dict[str, NDArray[np.uint8]]:
    """The pictures of an agent that has `values`: a portrait where it swings a pendulum up."""
    spec = agent.setup.envs.spec
    is_pendulum = spec is not None and "Pendulum-v" in spec.id
    return {"portrait": pendulum_portrait(agent).image()} if is_pendulum else {}


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
