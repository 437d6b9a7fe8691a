"""`semigradient/Molecule-v0`: molecules built of blocks, as an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from semigradient.envs.adapters import CoreEnv
from semigradient.envs.core import Step
from semigradient.envs.molecules import block_trees
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.envs.molecules.block_trees import Trees
from semigradient.envs.molecules.scored import ScoredOptions
from semigradient.envs.molecules.toy import draw
from semigradient.validate import Positive

Observation = Literal["flat", "graph"]
Masks = Literal["info", "observation", "none"]


@dataclass(frozen=True)
class MoleculeOptions(ScoredOptions):
    """Options of molecules that are built block by block."""

    lowest: Positive = 0.01
    """Lower bound of the scores, R_min."""
    scale: Positive = 8.0
    """Score whose reward is 1, T."""
    exponent: Positive = 1.0
    """Exponent β of the reward (max(R_min, score) / T)^β."""
    observation: Observation = "flat"
    """Numbers (flat), or a dictionary of blocks, bonds and stems (graph)."""
    masks: Masks = "info"
    """Where masks of legal actions are given: in the infos, in the observation, or nowhere."""

    def make(self, device: str = "cpu") -> MoleculeBuilding:
        """The core of `semigradient/Molecule-v0`."""
        rules = self.rules(device, self.lowest, self.scale, self.exponent)
        names = ("lowest", "scale", "exponent")
        protocol = {**self.protocol(rules), **{name: getattr(self, name) for name in names}}
        return MoleculeBuilding(rules, protocol, self.observation, self.masks)


class MoleculeState(NamedTuple):
    """Molecules under construction: canonical trees, and the progress of the episode."""

    kind: Tensor  # (B, N) int64, and so on: see `envs.molecules.block_trees.Trees`
    parent: Tensor
    host: Tensor
    own: Tensor
    steps: Tensor  # (B,) int64
    stopped: Tensor  # (B,) bool

    @property
    def trees(self) -> Trees:
        """The molecules."""
        return Trees(*(field.cpu().numpy() for field in self[:4]))


class MoleculeBuilding:
    """Molecules of up to eight blocks, attached one by one to open stems (Bengio et al. 2021).

    ## Action space
    `Discrete(1 + P·E)` for E entries of the vocabulary and at most P open stems (3151 for the
    published vocabulary and eight blocks): `stem·E + entry` attaches, the last one stops. The first
    block is attached to stem 0 of nothing. Stopping is legal from `min_blocks` on. An illegal
    action only takes a step. Without masks (`masks="none"`) stem numbers wrap around, so that
    learners without masks can build, too.

    ## Observation space
    `observation="flat"`: `Box` of 4 N + 2 P numbers, see `BlockMolecules.features_of`. "graph":
    `Dict` of `blocks` (N,) block numbers from 1, 0 for none; `bonds` (N, 3) of each block's bond:
    its parent and the types of the two atoms, -1 for none; `stems` (P, 2) of each open stem: its
    block and the type of its atom, -1 for none. Both are canonical: independent of how a
    molecule was built. With `masks="observation"` a `Dict` that includes `action_mask`.

    ## Rewards
    R = (max(R_min, score) / T)^β of the molecule when it is complete, 0 before; scores are those of
    `envs.molecules.rewards`, from 0 to 10.

    ## Starting state
    The empty molecule.

    ## Episode end
    Terminated by stop, at `max_blocks` blocks, or when no stem is open. Truncated after twice as
    many steps as the longest construction has, which only illegal actions can lead to.

    ## Information
    `action_mask` (A,) of legal actions (with `masks="info"`) and `blocks`, how many there are.

    ## Arguments
    Those of `MoleculeOptions`.

    ## Version history
    v0: first version.
    """

    network = "blocks"

    def __init__(
        self,
        rules: BlockMolecules,
        protocol: dict[str, Any],
        observation: Observation = "flat",
        masks: Masks = "info",
    ) -> None:
        self.rules, self.protocol, self.device = rules, protocol, rules.device
        self.observation, self.masks = observation, masks
        self.single_action_space: spaces.Space = spaces.Discrete(rules.actions)
        # A dictionary is for one environment at a time; `CoreVector` accepts a Box only.
        self.single_observation_space = cast(spaces.Box, self._space())
        self.max_steps = 2 * rules.horizon

    def reset(
        self, n: int, generator: torch.Generator | None = None, **options: Any
    ) -> MoleculeState:
        """`n` empty molecules; there are no options."""
        steps = torch.zeros(n, dtype=torch.int64, device=self.device)
        return self._state(block_trees.empty(n, self.rules.max_blocks), steps, steps > 0)

    def step(
        self, state: MoleculeState, actions: Tensor, generator: torch.Generator | None = None
    ) -> Step:
        """Attach a block, or stop. Actions are (B,)."""
        rules, trees = self.rules, state.trees
        chosen = actions.cpu().numpy()
        if self.masks == "none":
            chosen = rules.wrapped(trees, chosen)
        allowed = rules.legal_in(trees)[np.arange(len(chosen)), chosen]
        stop = chosen == rules.actions - 1
        rows = (allowed & ~stop).nonzero()[0]
        trees = rules.grown(trees, rows, chosen[rows])
        stopped = allowed & stop
        over, steps = stopped | rules.complete(trees), state.steps + 1
        reward = np.zeros(len(chosen))
        if over.any():
            smiles = rules.smiles_of(trees.select(over.nonzero()[0]))
            reward[over] = np.exp(rules.log_reward_of(rules.scores_of(smiles)))
        ended = self._tensor(over)
        truncated = (steps >= self.max_steps) & ~ended
        after = self._state(trees, steps, self._tensor(stopped))
        return Step(after, self._tensor(reward), ended, truncated)

    def observe(self, state: MoleculeState) -> Any:
        """(B, D) float32, or a dictionary of tensors."""
        flat = self._tensor(self.rules.features_of(state.trees))
        observation: Any = flat if self.observation == "flat" else self.graph(flat)
        if self.masks != "observation":
            return observation
        mask = self._tensor(self.rules.legal_in(state.trees)).to(torch.int8)
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        return {**parts, "action_mask": mask}

    def info(self, state: MoleculeState) -> dict[str, Tensor]:
        """Number of blocks (B,) and, with `masks="info"`, the mask of legal actions (B, A)."""
        info = {"blocks": (state.kind >= 0).sum(1)}
        if self.masks == "info":
            info["action_mask"] = self._tensor(self.rules.legal_in(state.trees))
        return info

    def render(self, state: MoleculeState) -> list[np.ndarray]:
        """Depictions (256, 256, 3) with open stems marked."""
        return [draw(molecule) for molecule in self.rules.molecules(state.trees)]

    def graph(self, flat: Tensor) -> dict[str, Tensor]:
        """`blocks` (B, N), `bonds` (B, N, 3) and `stems` (B, P, 2) int64 of flat observations."""
        blocks, most = self.rules.max_blocks, self.rules.stems
        block, parent, host, own, on, kind = flat.long().split([blocks] * 4 + [most] * 2, 1)
        bonds = torch.where((own > 0)[..., None], torch.stack([parent, host - 1, own - 1], 2), -1)
        stems = torch.where((kind > 0)[..., None], torch.stack([on, kind - 1], 2), -1)
        return {"blocks": block, "bonds": bonds, "stems": stems}

    def _state(self, trees: Trees, steps: Tensor, stopped: Tensor) -> MoleculeState:
        kind, parent, host, own = (self._tensor(array) for array in trees)
        return MoleculeState(kind, parent, host, own, steps, stopped)

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _space(self) -> spaces.Space:
        rules, tables = self.rules, self.rules.tables
        most = float(max(len(tables.blocks), tables.types, rules.max_blocks))
        shown: dict[str, spaces.Space] = {
            "observation": spaces.Box(0.0, most, (rules.width,), np.float32)
        }
        if self.observation == "graph":
            shown = {
                "blocks": _integers(0, len(tables.blocks), (rules.max_blocks,)),
                "bonds": _integers(-1, max(tables.types, rules.max_blocks), (rules.max_blocks, 3)),
                "stems": _integers(-1, max(tables.types, rules.max_blocks), (rules.stems, 2)),
            }
        elif self.masks != "observation":
            return shown["observation"]
        if self.masks == "observation":
            shown["action_mask"] = spaces.Box(0, 1, (rules.actions,), np.int8)
        return spaces.Dict(shown)


class MoleculeEnv(CoreEnv):
    """One molecule at a time, with queries about it."""

    core: MoleculeBuilding

    def legal_actions(self) -> np.ndarray:
        """Numbers of the legal actions, increasing."""
        return np.flatnonzero(self.core.rules.legal_in(self.state.trees)[0])

    def key(self) -> int:
        """Number of the state: equal for the same tree of blocks, however it was built."""
        return int(block_trees.canonical(self.core.rules.tables, self.state.trees).number[0])

    def smiles(self) -> str:
        """Canonical SMILES of the molecule so far."""
        return self.core.rules.smiles_of(self.state.trees)[0]


def _integers(low: int, high: int, shape: tuple[int, ...]) -> spaces.Box:
    return spaces.Box(low, high, shape, np.int64)
