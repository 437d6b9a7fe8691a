"""Adapters that wrap any batched core: as one Gymnasium environment, and as a vector of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from torch import Tensor

from semigradient.envs.actions import checked
from semigradient.envs.core import Core, State, advance, resolve
from semigradient.envs.pictures import enlarged
from semigradient.envs.vector import Arrays, ExactVector
from semigradient.errors import UserError


class CoreEnv(gymnasium.Env):
    """One environment over a core: a batch of one.

    Args:
        core: the rules, or "module:Class" of the options that make them.
        render_mode: None or "rgb_array".
        device: where the core computes.
        options: values of the options.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        core: Core | str,
        render_mode: str | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        self.core = resolve(core, options, device)
        self.render_mode = _render_mode(render_mode)
        self.observation_space = self.core.single_observation_space
        self.action_space = self.core.single_action_space
        self.generator = torch.Generator(self.core.device)
        self.state: State = None
        self.past: list[State] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `options` are the core's own."""
        super().reset(seed=seed)
        self.generator.manual_seed(int(self.np_random.integers(2**63)))
        self.state = self.core.reset(1, self.generator, **(options or {}))
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act; raises `gymnasium.error.ResetNeeded` before the first reset, and `UserError` for
        what is no action.
        """
        if self.state is None:
            raise gymnasium.error.ResetNeeded("step needs a reset first")
        array = checked(self.action_space, action)
        if self.render_mode is not None:
            remember(self.core, self.past, self.state)
        actions = torch.as_tensor(array[None], device=self.core.device)
        self.state, reward, terminated, truncated = self.core.step(
            self.state, actions, self.generator
        )
        return (
            self._observe(),
            reward.item(),
            bool(terminated.item()),
            bool(truncated.item()),
            self._info(),
        )

    def render(self) -> np.ndarray | None:
        """RGB frame (H, W, 3) uint8, when made with render_mode="rgb_array"."""
        if self.render_mode is None or self.state is None:
            return None
        return frames_of(self.core, self.state, self.past)[0]

    def _observe(self) -> Any:
        observation: Any = self.core.observe(self.state)
        if isinstance(observation, dict):
            return {key: _array(value[0]) for key, value in observation.items()}
        return _array(observation[0])

    def _info(self) -> dict[str, Any]:
        first = {key: value[0] for key, value in self.core.info(self.state).items()}
        return {k: v.cpu().numpy() if v.dim() else v.item() for k, v in first.items()}


class WrittenEnv(CoreEnv):
    """One environment over a core that can also be rendered as text (`text(state)`).

    Args:
        core, options: as of `CoreEnv`.
        render_mode: None, "rgb_array" or "ansi".
    """

    metadata: dict[str, Any] = {**CoreEnv.metadata, "render_modes": ["rgb_array", "ansi"]}  # noqa: RUF012

    def __init__(self, core: Core | str, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(core, None if render_mode == "ansi" else render_mode, **options)
        self.render_mode = render_mode

    def render(self) -> Any:
        """RGB frame (H, W, 3) uint8, or a string of lines, as `render_mode` says."""
        if self.render_mode == "ansi" and self.state is not None:
            return cast(Any, self.core).text(self.state)[0]
        return super().render()


class CoreVector(ExactVector):
    """B environments over a core, with SAME_STEP autoreset and exact state.

    State is the core's tensors and one generator. Inputs and outputs are numpy arrays; learners on
    a GPU that avoid copies use the core and `advance`.

    Args:
        core: the rules, or "module:Class" of the options that make them.
        num_envs: B.
        seed: root of all randomness.
        device: where the core computes.
        render_mode: None or "rgb_array".
        options: values of the options.
    """

    def __init__(
        self,
        core: Core | str,
        num_envs: int = 1,
        seed: int = 0,
        device: str = "cpu",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_envs, seed)
        self.core = resolve(core, options, device)
        self.render_mode = _render_mode(render_mode)
        self.metadata = {**CoreEnv.metadata, **self.metadata}
        self.single_observation_space = self.core.single_observation_space
        self.single_action_space = self.core.single_action_space
        if not isinstance(self.single_observation_space, spaces.Box):
            raise UserError(
                f"observation space {self.single_observation_space}: a vector of environments "
                "shows a Box; gymnasium.make_vec(…, vectorization_mode='sync') takes others"
            )
        self.observation_space = cast(
            spaces.Box, batch_space(self.single_observation_space, num_envs)
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.protocol = dict(self.core.protocol)
        self.references = dict(getattr(self.core, "references", {}))
        self.clock = getattr(self.core, "clock", None)
        self.generator = torch.Generator(self.core.device)
        self.state: State = None
        self.past: list[State] = []

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start fresh episodes everywhere; `seed` replaces the root of all randomness."""
        # One generator serves all: a seed for each environment is mixed into one root.
        self.reseed(seed if seed is None or isinstance(seed, int) else _hash(seed))
        self.generator.manual_seed(self.next_seed(0))
        self.state = self.core.reset(self.num_envs, self.generator, **(options or {}))
        self.last_obs = _array(self.core.observe(self.state))
        return self.last_obs.copy(), self._infos(self.state)

    def step(self, actions: np.ndarray) -> Arrays:
        """Act everywhere; episodes that end are followed by new ones in the same step.

        Args:
            actions: (B, *action); `UserError` for others.

        Returns:
            Observations (B, *observation), rewards (B,) float64, terminated and truncated (B,)
            bool, infos; where episodes ended, `final_obs` and `final_info` beside them.
        """
        array = checked(self.single_action_space, actions, self.num_envs)
        if self.render_mode is not None:
            remember(self.core, self.past, self.state)
        chosen = torch.as_tensor(array, device=self.core.device)
        now = advance(self.core, self.state, chosen, self.generator)
        self.state, self.last_obs = now.state, _array(now.obs)
        infos = self._infos(now.state)
        terminated, truncated = _array(now.terminated), _array(now.truncated)
        if len(now.ended):
            # Pages of zeros cost nothing until they are written, and few rows are.
            final_obs = np.zeros(self.last_obs.shape, self.last_obs.dtype)
            final_obs[_array(now.ended)] = _array(now.final_obs)
            infos |= {"final_obs": final_obs, "final_info": self._infos(now.last_state)}
            infos["_final_obs"] = infos["_final_info"] = terminated | truncated
        return self.last_obs, _array(now.reward), terminated, truncated, infos

    def state_dict(self) -> dict[str, Any]:
        """The core's state and the generator."""
        return {
            "seed": self.seed,
            "resets": self.resets.copy(),
            "last_obs": self.last_obs.copy(),
            "generator": self.generator.get_state(),
            "state": {name: value.cpu() for name, value in self.state._asdict().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restore a saved state; false if the core's observations of it differ."""
        self.seed = int(state["seed"])
        self.resets = np.asarray(state["resets"]).copy()
        self.generator.set_state(state["generator"].clone())
        device = self.core.device
        saved = {name: value.clone().to(device) for name, value in state["state"].items()}
        blank = self.core.reset(self.num_envs, torch.Generator(device))
        if saved.keys() != set(blank._fields):  # of another version of the core
            self.reset()
            return False
        self.state = blank._replace(**saved)
        try:
            self.last_obs = _array(self.core.observe(self.state))
        except IndexError:  # the state refers to something, such as an image, that this core lacks
            self.last_obs = np.zeros(0)
        exact = np.array_equal(self.last_obs, state["last_obs"])
        if not exact:
            self.reset()
        return exact

    def action_masks(self) -> np.ndarray | None:
        """Legal actions (B, A) now, or None where the core has no mask."""
        return self._infos(self.state).get("action_mask")

    def frames(self) -> list[np.ndarray]:
        """RGB frames (H, W, 3) of each environment."""
        return frames_of(self.core, self.state, self.past)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """RGB frames of all environments, when made with render_mode="rgb_array"."""
        return None if self.render_mode is None else tuple(self.frames())

    def _infos(self, state: State) -> dict[str, Any]:
        # Copies: what is handed out must not be the state's own memory.
        return {key: _array(value).copy() for key, value in self.core.info(state).items()}


def remember(core: Core, past: list[State], state: State) -> None:
    """Keep a state for the pictures of those to come, as far back as the core's `remembers`."""
    most = getattr(core, "remembers", 0)
    if most:
        past.append(state)
        del past[:-most]


def frames_of(core: Core, state: State, past: list[State]) -> list[np.ndarray]:
    """RGB frames (H, W, 3) of at least 256 pixels; `past` for cores that show what went before."""
    show: Any = core.render
    frames = show(state, past) if getattr(core, "remembers", 0) else show(state)
    return [enlarged(frame) for frame in frames]


def _render_mode(mode: str | None) -> str | None:
    if mode not in (None, "rgb_array"):
        raise UserError(f"render_mode={mode!r}: accepted are None, 'rgb_array'")
    return mode


def _hash(seeds: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(seeds)).generate_state(1)[0])


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
