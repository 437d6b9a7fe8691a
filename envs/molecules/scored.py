"""Options that the environments of molecules with scores share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.envs.molecules.block_tables import Tables
from semigradient.envs.molecules.blocks import load
from semigradient.envs.molecules.rewards import Batch, Scorer
from semigradient.envs.options import Options
from semigradient.errors import require
from semigradient.validate import Natural, within


@dataclass(frozen=True)
class ScoredOptions(Options):
    """The blocks of molecules, and their score."""

    NEEDS: ClassVar = {"reward_seed": ("reward", ("dock_like",))}

    reward: str | Batch = "qed"
    """Score: qed, sa, qed_sa, plogp, mw_window, dock_like, proxy, proxy_x_WT, fitted, vina, or
    module:function."""
    vocabulary: str = "published"
    """Blocks: published, small, a file, or entries such as "CC[0,1]; O[0]"."""
    min_blocks: Annotated[int, within(1, 20)] = 2
    """Fewest blocks of a molecule that may be kept."""
    max_blocks: Annotated[int, within(2, 20)] = 8
    """Most blocks of a molecule."""
    reward_seed: Natural = 0
    """Seed of scores with a random part (dock_like)."""
    reward_file: str = ""
    """File of scores that need one (fitted, vina)."""
    workers: Annotated[int, within(0, 10_000)] = 0
    """Processes that compute scores; 0: this one."""
    engine: str = "local"
    """Where these processes are: local or ray."""
    ray_address: str = ""
    """Ray cluster, HOST:PORT; empty: one on this machine."""

    def check(self) -> None:
        """The numbers of blocks are consistent."""
        is_valid = self.min_blocks <= self.max_blocks
        require(is_valid, f"min_blocks={self.min_blocks}: must be in [1, {self.max_blocks}]")

    def scorer(self) -> Scorer:
        """The score of molecules."""
        where = (self.workers, self.engine, self.ray_address)
        return Scorer(self.reward, self.reward_seed, self.reward_file, *where)

    def rules(
        self, device: str, lowest: float = 0.01, scale: float = 8.0, exponent: float = 1.0
    ) -> BlockMolecules:
        """The construction, with R = (max(lowest, score) / scale)^exponent."""
        tables, scores = Tables(load(self.vocabulary)), self.scorer()
        fewest, most = self.min_blocks, self.max_blocks
        return BlockMolecules(tables, scores, fewest, most, lowest, scale, exponent, device=device)

    def protocol(self, rules: BlockMolecules) -> dict[str, Any]:
        """The settings that scores depend on."""
        name, vocabulary = self.reward, self.vocabulary
        return {
            "reward": name if isinstance(name, str) else getattr(name, "__name__", "function"),
            "vocabulary": vocabulary if len(vocabulary) < 40 else f"{rules.entries} entries",
            "blocks": f"{self.min_blocks} to {self.max_blocks}",
        }
