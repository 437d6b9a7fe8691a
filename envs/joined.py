"""Several vector environments as one: one pass over arrays steps all of them.

Each member stays what it is alone: its states are a part of the joined ones, its seeds, counts of
resets and last observations its own. So a run in it is, bit for bit, the run that it would have
been alone, and is saved and resumed as such.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semigradient.envs.actions import checked
from semigradient.envs.classic import ClassicVector, Episodes, final
from semigradient.envs.vector import Arrays
from semigradient.errors import require


class Joined:
    """K vectors of B environments each, stepped together.

    A vector belongs to the last that it was joined in; the one before no longer steps.

    Args:
        members: of one environment, with the same options and B; where they are, they stay.

    Raises:
        UserError: none, or vectors that differ.
    """

    def __init__(self, members: Sequence[ClassicVector]) -> None:
        _check(members)
        first = members[0]
        self.members = list(members)
        self.shape = (len(members), first.num_envs)
        states = np.stack([member.episodes.state for member in members], axis=1)
        ages = np.stack([member.episodes.ages for member in members])
        form, flat = first.form, states.reshape(len(states), -1)
        self.episodes = Episodes(form.rules, form.limit, flat, ages.reshape(-1))
        for index, member in enumerate(members):
            if member.joined is not None:
                member.joined.members = []
            member.joined = self
            member.episodes.state, member.episodes.ages = states[:, index], ages[index]

    def step(self, actions: np.ndarray) -> Arrays:
        """Act everywhere; each member is then as if it had been stepped alone.

        Args:
            actions: (K, B, *action); `UserError` for others.

        Returns:
            Observations (K, B, *observation), rewards (K, B) float64, terminated and truncated
            (K, B) bool, infos; where episodes ended, `final_obs` (K, B, *observation).

        Raises:
            EnvironmentFailureError: a reward is not finite.
        """
        require(bool(self.members), "joined environments: they have been joined anew since")
        space = self.members[0].single_action_space
        chosen = checked(space, actions, self.shape).astype(space.dtype, copy=False)
        obs, reward, terminated, truncated = (
            array.reshape(*self.shape, *array.shape[1:])
            for array in self.episodes.step(chosen.reshape(-1, *chosen.shape[2:]))
        )
        if not self.episodes.rules.is_finite:
            for member, rewards, taken in zip(self.members, reward, chosen, strict=True):
                member.hold(rewards, taken)
        ended = terminated | truncated
        infos = final(obs, ended)
        for row, index in np.argwhere(ended).tolist() if infos else ():
            self.members[row].begin(index, obs[row])
        for member, row in zip(self.members, obs, strict=True):
            member.last_obs = row
        return obs, reward, terminated, truncated, infos


def _check(members: Sequence[ClassicVector]) -> None:
    require(len(members) > 0, "joined environments: there must be at least one")
    require(len({*map(id, members)}) == len(members), "joined environments: one comes twice")
    said = [_description(member) for member in members]
    for words in said:
        require(words == said[0], f"joined environments differ: {said[0]} and {words}")


def _description(member: ClassicVector) -> str:
    """What members must have in common, in words."""
    name = member.protocol["env"]
    require(
        isinstance(member, ClassicVector),
        f"joined environments: {name} is stepped as copies (only Gymnasium's classic control, "
        "without render=True, is one array)",
    )
    _, options, limit = member.form.key
    given = "".join(f" {key}={value}" for key, value in options)
    return f"{name}{given} of at most {limit} steps with num_envs={member.num_envs}"
