"""Atari games through ale-py's native vector environment, exactly resumable.

Protocol (Machado et al. 2018, "Revisiting the Arcade Learning Environment"): the v5 ids take
sticky actions with probability 0.25 per frame, four frames per step, the maximum over the last two
frames, 84×84 grayscale, four frames stacked, and end only when the game does. Rewards are the
raw score differences. The protocol card of these settings accompanies every score.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import batch_space

from semigradient.envs.actions import checked
from semigradient.envs.options import Options
from semigradient.envs.vector import Arrays, ExactVector, digest
from semigradient.errors import UserError
from semigradient.validate import Count, Share, build, first_line, within

_RESET = -1
_INT32 = 2**31 - 1


@dataclass(frozen=True)
class AtariOptions(Options):
    """Options of the protocol; an id may set its own values."""

    TRAINING_ONLY = ("episodic_life",)

    repeat_action_probability: Share = 0.25
    """Probability that the last action is repeated instead, at each frame (sticky actions)."""
    full_action_space: bool = False
    """All 18 actions, and not only those that do something in the game."""
    frameskip: Annotated[int, within(1, 1000)] = 4
    """Frames per step."""
    max_num_frames_per_episode: Annotated[int, within(1, _INT32)] = 108_000
    """Frames after which an episode is cut off."""
    noop_max: Annotated[int, within(0, 10_000)] = 30
    """Most steps without action at the beginning of an episode."""
    episodic_life: bool = False
    """For learning, end an episode when a life is lost; the same game goes on (training only)."""
    use_fire_reset: bool = False
    """Press fire at the beginning of an episode."""
    img_height: Annotated[int, within(1, 1000)] = 84
    """Rows per frame."""
    img_width: Annotated[int, within(1, 1000)] = 84
    """Columns per frame."""
    stack_num: Annotated[int, within(1, 100)] = 4
    """Frames per observation."""
    num_threads: Annotated[int, within(0, 10_000)] = 0
    """Threads that run the games; 0: one per game, at most one per core."""
    reseed_after: Count = 5000
    """Steps between seeded resets, the most that a resume replays besides the running episode."""

    @classmethod
    def of(cls, spec: EnvSpec, options: Mapping[str, Any]) -> AtariOptions:
        """The protocol of an id, with some values replaced."""
        return build(cls, {**registered(spec), **options}, f"option of {spec.id}")


def registered(spec: EnvSpec) -> dict[str, Any]:
    """Options of the protocol that the id itself sets."""
    names = {field.name for field in dataclasses.fields(AtariOptions)}
    values = {key: value for key, value in spec.kwargs.items() if key in names}
    skip = values.get("frameskip", 4)
    # v4 ids without frame skip were always run behind a wrapper that skips four.
    return {**values, "frameskip": 4 if not isinstance(skip, int) or skip == 1 else skip}


class AtariVector(ExactVector):
    """B games stepped by C++ threads.

    ale-py is run with explicit resets: seeding an emulator reloads its cartridge (a tenth of a
    second), so a game is seeded anew only at the first episode end after `reseed_after` steps;
    shorter episodes reset from the emulator's own generator. State is the seed and the actions
    since, with the resets marked.

    Args:
        spec: a registered ALE id.
        num_envs: B.
        seed: root of all seeds.
        render: run a twin in colour, with the same seeds and actions, for `frames`.
        options: those of `AtariOptions`, which replace the id's own.
    """

    stacked_frames = True

    def __init__(
        self,
        spec: EnvSpec,
        num_envs: int,
        seed: int,
        render: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(num_envs, seed)
        self.spec = spec
        chosen = dataclasses.asdict(AtariOptions.of(spec, options))
        self.reseed_after = chosen.pop("reseed_after")
        self._by_life = chosen.pop("episodic_life")
        self._settings = {"game": spec.kwargs["game"], **chosen}
        self._games = _native(num_envs, self._settings)
        self._twin = _native(num_envs, {**self._settings, **_COLOUR}) if render else None
        self.render_mode = "rgb_array" if render else None
        self.single_observation_space = self._games.single_observation_space
        self.single_action_space = self._games.single_action_space
        batched = batch_space(self.single_observation_space, num_envs)
        self.observation_space = cast(spaces.Box, batched)
        self.action_space = batch_space(self.single_action_space, num_envs)
        card = {"episodic_life": self._by_life, "maxpool": True, "grayscale": True}
        self.protocol = {"env": spec.id, **self._settings, **card}
        self._lives = np.zeros(num_envs, dtype=np.int64)
        self._history: list[list[int]] = [[] for _ in range(num_envs)]
        # A digest of what each game returned since: the replay must return the same.
        self._trails = [0] * num_envs
        self._colour: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a fresh, seeded episode everywhere; `seed` replaces the root of all seeds."""
        self.reseed(seed)
        seeds = np.array([self.next_seed(i) for i in range(self.num_envs)])
        self._history = [[] for _ in range(self.num_envs)]
        self._trails = [0] * self.num_envs
        self.last_obs, infos = self._reset_games(np.ones(self.num_envs, dtype=bool), seeds)
        return self.last_obs.copy(), {"lives": infos["lives"]}

    def step(self, actions: np.ndarray) -> Arrays:
        """Act in all games, in parallel; games that end are reset in the same step.

        Args:
            actions: (B,) whole numbers; `UserError` for others.

        Returns:
            Observations (B, 4, 84, 84) uint8, raw rewards (B,) float64, terminated and
            truncated (B,) bool, infos with `lives` (B,). Where only a life ended, `terminated`
            is set too and `goes_on` (B,) says so: the next observation is of the same game.
        """
        actions = checked(self.single_action_space, actions, self.num_envs)
        before = self._lives
        obs, rewards, terminated, truncated, native = self._step_games(actions)
        self._note(range(self.num_envs), obs, rewards)
        for events, action in zip(self._history, actions.tolist(), strict=True):
            events.append(action)
        infos: dict[str, Any] = {"lives": native["lives"]}
        ended = terminated | truncated
        over = ended
        if self._by_life:
            infos["goes_on"] = (native["lives"] < before) & ~ended
            terminated = terminated | infos["goes_on"]
            over = ended | infos["goes_on"]
        if over.any():
            infos["final_obs"] = obs.copy()
            infos["_final_obs"] = over
        if ended.any():
            obs = self._restart(obs, ended)
        self.last_obs = obs
        return obs, rewards.astype(np.float64), terminated, truncated, infos

    def state_dict(self) -> dict[str, Any]:
        """Each game's seed count and the actions and resets since."""
        return {
            "seed": self.seed,
            "resets": self.resets.copy(),
            "last_obs": self.last_obs.copy(),
            "trails": np.array(self._trails, np.uint32),
            "history": {
                str(i): np.asarray(events, dtype=np.int16) for i, events in enumerate(self._history)
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Replay the games since their last seeds; true if all steps return what they did."""
        self.seed = int(state["seed"])
        self.resets = np.asarray(state["resets"]).copy()
        self._history = [state["history"][str(i)].tolist() for i in range(self.num_envs)]
        self._trails = [0] * self.num_envs
        self.last_obs = self._replay()
        exact = np.array_equal(self.last_obs, state["last_obs"])
        exact &= list(state.get("trails", self._trails)) == self._trails
        if not exact:
            self.reset()
        return exact

    def frames(self) -> list[np.ndarray]:
        """Colour frames (210, 160, 3) of each game."""
        if self._colour is None:
            raise RuntimeError("frames need render=True and a reset")
        return list(self._colour[:, -1])

    def close_extras(self, **kwargs: Any) -> None:
        """Release the native threads."""
        del self._games, self._twin

    def _restart(self, obs: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Reset the games that ended: with a new seed after at least `reseed_after` steps."""
        long = np.array([len(events) >= self.reseed_after for events in self._history])
        obs = obs.copy()
        fresh, again = ended & long, ended & ~long
        if fresh.any():
            seeds = np.array([self.next_seed(i) for i in np.flatnonzero(fresh).tolist()])
            obs[fresh] = self._reset_games(fresh, seeds)[0][fresh]
        if again.any():
            obs[again] = self._reset_games(again, None)[0][again]
        for index in np.flatnonzero(fresh):
            self._history[index], self._trails[index] = [], 0
        for index in np.flatnonzero(again):
            self._history[index].append(_RESET)
        return obs

    def _replay(self) -> np.ndarray:
        """Bring all games to the end of their histories at the same step.

        All games are stepped together, so the one with the longest history starts first and
        the others idle until it is their turn. A reset takes no step.
        """
        steps = [sum(event != _RESET for event in events) for events in self._history]
        longest = max(steps)
        self._reset_games(np.ones(self.num_envs, dtype=bool), self._current_seeds(slice(None)))
        cursors = [0] * self.num_envs
        obs = self.last_obs
        for time in range(longest + 1):
            starting = np.array([longest - count == time and time > 0 for count in steps])
            if starting.any():
                obs, _ = self._reset_games(starting, self._current_seeds(np.flatnonzero(starting)))
            resetting = np.zeros(self.num_envs, dtype=bool)
            actions = np.zeros(self.num_envs, dtype=np.int64)
            for index, events in enumerate(self._history):
                if longest - steps[index] > time:
                    continue
                if cursors[index] < len(events) and events[cursors[index]] == _RESET:
                    resetting[index] = True
                    cursors[index] += 1
                if cursors[index] < len(events):
                    actions[index] = events[cursors[index]]
                    cursors[index] += 1
            if resetting.any():
                obs, _ = self._reset_games(resetting, None)
            if time < longest:
                obs, rewards = self._step_games(actions)[:2]
                self._note(
                    [i for i, count in enumerate(steps) if longest - count <= time], obs, rewards
                )
        if longest == 0:
            obs, _ = self._reset_games(
                np.ones(self.num_envs, dtype=bool), self._current_seeds(slice(None))
            )
        return obs.copy()

    def _note(self, games: Iterable[int], obs: np.ndarray, rewards: np.ndarray) -> None:
        """Take in the newest frames and the rewards of some games."""
        for index in games:
            self._trails[index] = digest(self._trails[index], obs[index, -1], float(rewards[index]))

    def _current_seeds(self, which: Any) -> np.ndarray:
        indices = np.arange(self.num_envs)[which]
        return np.array([self.seed_of(int(i), int(self.resets[i]) - 1) for i in indices])

    def _reset_games(
        self, mask: np.ndarray, seeds: np.ndarray | None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if self._twin is not None:
            frames, _ = self._twin.reset(seed=seeds, options={"reset_mask": mask})
            self._colour = frames
        obs, infos = self._games.reset(seed=seeds, options={"reset_mask": mask})
        self._lives = np.where(mask, infos["lives"], self._lives)
        return obs, infos

    def _step_games(self, actions: np.ndarray) -> Arrays:
        if self._twin is not None:
            self._colour = self._twin.step(actions)[0]
        result = self._games.step(actions)
        self._lives = np.array(result[-1]["lives"])
        return result


_COLOUR = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}


def _native(num_envs: int, settings: dict[str, Any]) -> Any:
    from ale_py.vector_env import AtariVectorEnv

    settings = dict(settings)
    threads = settings.pop("num_threads") or min(num_envs, os.cpu_count() or 1)
    fixed: dict[str, Any] = {"reward_clipping": False, "autoreset_mode": "NextStep"}
    try:
        return AtariVectorEnv(num_envs=num_envs, num_threads=threads, **fixed, **settings)
    except Exception as problem:
        words = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise UserError(f"Atari game ({words}): {first_line(problem)}") from problem
