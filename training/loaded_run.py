"""A trained run: its policy on given observations, and its evaluation."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from semigradient.envs import ExactVector, make_vector, masks
from semigradient.envs.declared import hold
from semigradient.envs.forms import MASK
from semigradient.errors import UserError, require
from semigradient.training import checkpoint, parts
from semigradient.training.agent import Agent, Policy, forget
from semigradient.training.build import build
from semigradient.training.checkpoint import Loaded
from semigradient.training.cli import parse
from semigradient.training.command import Command
from semigradient.training.evaluation import SEED_OFFSET, Scores, score
from semigradient.training.generators import seed_all, undisturbed
from semigradient.training.saving import BEST, CHECKPOINTS, POLICY, fit, save_policy
from semigradient.validate import Natural, conform


@dataclass(frozen=True)
class LoadedRun:
    """A run and its latest policy.

    Attributes:
        folder: the run folder.
        command: what decides the run.
        agent: the agent with the latest policy; it has no replay memory.
        loaded: path and step of the policy, and the damaged checkpoints that were skipped.
    """

    folder: Path
    command: Command
    agent: Agent
    loaded: Loaded
    _policies: dict[bool, Policy] = field(default_factory=dict, init=False, repr=False)

    def policy(
        self, observation: Any, mask: Any = None, deterministic: bool = True
    ) -> np.ndarray[Any, Any]:
        """The action of the policy.

        Args:
            observation: one, of the shape of the environment's observation space, or a batch
                (B, *observation).
            mask: legal actions (A,) or (B, A), where the environment has a mask.
            deterministic: the best action; else one is sampled.

        Returns:
            The action (*action), or a batch of them (B, *action).

        Raises:
            UserError: the observation has another shape.
        """
        space = self.agent.setup.envs.single_observation_space
        batch = np.asarray(observation, space.dtype)
        is_single = batch.shape == space.shape
        require(
            is_single or batch.shape[1:] == space.shape,
            f"observation of shape {batch.shape}: accepted are {space.shape} and a batch of such",
        )
        legal = None if mask is None else np.asarray(mask, bool)
        if is_single:
            batch, legal = batch[None], None if legal is None else legal[None]
        if deterministic not in self._policies:
            self._policies[deterministic] = self.agent.policy(deterministic)
        actions = self._policies[deterministic](batch, legal)
        return actions[0] if is_single else actions

    def forget(self) -> None:
        """New episodes begin: a recurrent policy starts from nothing, as it does at first."""
        for policy in self._policies.values():
            forget(policy)

    def act(self, observation: Any, mask: Any = None, deterministic: bool = True) -> Any:
        """An action of the environment's own action space for one of its own observations.

            env = gymnasium.make(…)
            observation, info = env.reset()
            env.step(run.act(observation, info.get("action_mask")))

        Args:
            observation: such as a dictionary, where `policy` takes what agents see of it.
            mask: legal actions, in any form that environments give them.
            deterministic: the best action; else one is sampled.

        Raises:
            UserError: the observation or the mask is none of the environment.
        """
        forms = self.agent.setup.envs.forms
        if forms is None:
            return self.policy(observation, mask, deterministic)
        seen, acted = forms
        try:
            held = hold(seen.own, observation, "observation")
            given = observation[MASK] if seen.masked and mask is None else mask
            legal = None if given is None else masks.legal(given, acted.sizes)
        except ValueError as problem:
            raise UserError(str(problem)) from problem
        action = self.policy(seen(held), legal, deterministic)
        return acted(action if action.ndim else int(action))

    def evaluate(
        self,
        episodes: int = 100,
        seed: int | None = None,
        deterministic: bool = True,
        max_steps: int | None = None,
    ) -> Scores:
        """Play whole episodes: the returns and lengths that `evaluate.py` reports.

        Args:
            episodes: how many.
            seed: root of their seeds; by default apart from all that training and its
                evaluations use.
            deterministic: the best actions; else they are sampled.
            max_steps: steps after which an episode is cut; default: the run's `eval_max_steps`.
        """
        require(episodes >= 1, f"episodes={episodes}: must be ≥ 1")
        root = self.evaluation_seed(seed)
        with undisturbed():  # for agents that draw from the global generators
            seed_all(root)
            policy = self.agent.policy(deterministic)
            return score(self.command, policy, episodes, root, max_steps)

    def sample(
        self, count: int = 1000, seed: int = 0, paths: int = 0, condition: float | None = None
    ) -> Any:
        """Objects that a trained flow network builds: `domains.flows.samples.Samples`.

        Args:
            count: how many.
            seed: decides the draws.
            paths: see `domains.flows.samples.draw`.
            condition: β, or the weight of the second objective, where a range of it was learned.

        Raises:
            UserError: the run's agent builds no objects.
        """
        draw = getattr(self.agent, "sample", None)
        name = self.command.run.agent
        require(draw is not None, f"run of {name}: has no objects to sample; accepted: gflownet")
        return draw(count, seed, paths, condition) if draw is not None else None

    def env(self, num_envs: int = 1, seed: int | None = None, render: bool = False) -> ExactVector:
        """The environment that the run is evaluated on, as a vector of `num_envs` copies."""
        run = self.command.run
        options = run.evaluation_environment()
        return make_vector(run.env, num_envs, self.evaluation_seed(seed), render=render, **options)

    def evaluation_seed(self, seed: int | None = None) -> int:
        """`seed` if there is one, else that of evaluations after training."""
        if seed is None:
            return self.command.run.seed + 2 * SEED_OFFSET
        root: int = conform("seed", seed, Natural)
        return root


def load_run(
    folder: str | Path, device: str = "", trust: bool = False, best: bool = False
) -> LoadedRun:
    """The agent of a run folder with its latest policy.

    Where the file of the policy is missing or damaged, the checkpoint has the policy too.

    Args:
        folder: the run folder.
        device: auto, cpu or cuda; default: the run's own.
        trust: take code that the folder's files name as "module:Name"; see `training.trust`.
        best: the policy of the best evaluation instead of the latest.

    Raises:
        UserError: no such folder, no valid policy in it, or code that is not trusted.
    """
    words = ["--resume", str(folder), *(["--device", device] if device else [])]
    command = parse([*words, *(["--trust"] if trust else [])]).command
    agent = build(command, learning=False)
    place = Path(folder) / (BEST if best else POLICY)
    try:
        loaded = checkpoint.load(place, command.identity(), command.absent())
    except UserError as problem:
        if best or not checkpoint.holds_any(Path(folder) / CHECKPOINTS):
            raise _without_policy(problem, best) from None
        return _from_checkpoint(Path(folder), command, str(problem))
    fit(lambda: parts.load_policy_state(agent, loaded.state["policy"]), loaded)
    return LoadedRun(Path(folder), command, agent, loaded)


def _without_policy(problem: UserError, best: bool) -> UserError:
    hint = "the best policy is kept from the first evaluation on" if best else ""
    hint = hint or "a policy is kept from the first checkpoint on"
    return UserError(f"{problem} ({hint})" if "no checkpoint" in str(problem) else str(problem))


def _from_checkpoint(folder: Path, command: Command, reason: str) -> LoadedRun:
    """The policy of the newest checkpoint, for want of its file; which is written again."""
    agent = build(command)
    place = folder / CHECKPOINTS
    loaded = checkpoint.load(place, command.identity(), command.absent())
    fit(lambda: parts.load(agent, loaded.state["agent"]), loaded)
    with contextlib.suppress(OSError):  # the folder may be read-only
        save_policy(folder / POLICY, loaded.step, agent, command)
    notes = [*loaded.skipped, f"{reason}; taken from the checkpoint of step {loaded.step}"]
    return LoadedRun(folder, command, agent, replace(loaded, skipped=notes))
