"""Results of a search for molecules: the best ones, their diversity, and the number of modes.

Molecules are identified by canonical SMILES. Similarity is Tanimoto's of RDKit's own
path fingerprint, which the published figures seem to use: only it gives random molecules the
similarity they report. Morgan's, with radius 2, is reported as well.

A mode is a molecule above a threshold that is less than 0.7 similar to every earlier mode (Bengio
2022, figure 5.10), so the count depends on the order of discovery.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semigradient.envs.molecules.fingerprints import (
    SIMILAR,
    chemistry,
    morgan,
    paths,
    similarity,
    tanimoto,
)

TOP = (10, 100, 1000)
THRESHOLDS = (7.0, 8.0)


class TopMolecules:
    """The best molecules, modes and scaffolds of a run.

    Args:
        thresholds: scores above which molecules count as modes and give scaffolds, increasing.

    Attributes:
        objects: number of sampled molecules, repetitions included.
        best: scores of the best distinct molecules, up to 1000, by SMILES.
        modes: by threshold, the SMILES of the modes in order of discovery.
        high: scores of all distinct molecules above the lowest threshold, by SMILES.
        scaffolds: by threshold, the Bemis-Murcko scaffolds of those.
    """

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS) -> None:
        self.thresholds, self.objects = tuple(thresholds), 0
        self.best: dict[str, float] = {}
        self.high: dict[str, float] = {}
        self.modes: dict[float, list[str]] = {threshold: [] for threshold in thresholds}
        self.scaffolds: dict[float, set[str]] = {threshold: set() for threshold in thresholds}
        self._prints: dict[float, list[Any]] = {threshold: [] for threshold in thresholds}
        self._heap: list[tuple[float, str]] = []

    def add(self, smiles: Sequence[str], scores: Sequence[float]) -> None:
        """Record molecules in the order of discovery."""
        self.objects += len(smiles)
        for name, score in zip(smiles, scores, strict=True):
            if name not in self.best and (
                len(self._heap) < TOP[-1] or (score, name) > self._heap[0]
            ):
                self._enter(name, score)
            if score > self.thresholds[0] and name not in self.high:
                self._rank(name, score)

    def top(self, count: int) -> list[tuple[str, float]]:
        """The best distinct molecules with their scores, best first."""
        return sorted(self.best.items(), key=lambda item: (-item[1], item[0]))[:count]

    def counters(self) -> dict[str, float]:
        """Means of the best, modes, scaffolds and high scorers: cheap enough for every iteration.

        The mean of the best k is missing while there are fewer.
        """
        ranked = sorted(self.best.values(), reverse=True)
        found = {"objects": float(self.objects)}
        for k in TOP:
            if len(ranked) >= k:
                found[f"top_{k}"] = float(np.mean(ranked[:k]))
        for threshold in self.thresholds:
            high = sum(score > threshold for score in self.high.values())
            found[f"above_{threshold:g}"] = float(high)
            found[f"modes_{threshold:g}"] = float(len(self.modes[threshold]))
            found[f"scaffolds_{threshold:g}"] = float(len(self.scaffolds[threshold]))
        return found

    def metrics(self) -> dict[str, float]:
        """The counters, and the similarity within the best."""
        metrics, names = self.counters(), [name for name, _ in self.top(TOP[-1])]
        if len(names) > 1:
            metrics["similarity"] = similarity(names)
            metrics["similarity_morgan"] = similarity(names, morgan)
        return metrics

    def picture(self, count: int = 12) -> NDArray[np.uint8]:
        """The best ones with their scores, as an image (H, W, 3)."""
        return grid(self.top(count))

    def state_dict(self) -> dict[str, Any]:
        """Everything except fingerprints, which are recomputed."""
        return {
            "objects": self.objects,
            "best": [[name, score] for name, score in self.best.items()],
            "high": [[name, score] for name, score in self.high.items()],
            "modes": [self.modes[threshold] for threshold in self.thresholds],
            "scaffolds": [sorted(self.scaffolds[threshold]) for threshold in self.thresholds],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.objects = int(state["objects"])
        self.best = {name: float(score) for name, score in state["best"]}
        self.high = {name: float(score) for name, score in state["high"]}
        self.modes = {k: list(v) for k, v in zip(self.thresholds, state["modes"], strict=True)}
        pairs = zip(self.thresholds, state["scaffolds"], strict=True)
        self.scaffolds = {k: set(v) for k, v in pairs}
        self._prints = {k: [paths(name) for name in names] for k, names in self.modes.items()}
        self._heap = [(score, name) for name, score in self.best.items()]
        heapq.heapify(self._heap)

    def _enter(self, smiles: str, score: float) -> None:
        """Add a molecule to the best."""
        self.best[smiles] = score
        heapq.heappush(self._heap, (score, smiles))
        if len(self._heap) > TOP[-1]:
            del self.best[heapq.heappop(self._heap)[1]]

    def _rank(self, smiles: str, score: float) -> None:
        """Record a molecule above the lowest threshold, its scaffold, and whether it is a mode."""
        from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

        self.high[smiles] = score
        scaffold, mark = MurckoScaffoldSmiles(smiles), paths(smiles)
        for threshold in self.thresholds:
            if score > threshold:
                self.scaffolds[threshold].add(scaffold)
                prints = self._prints[threshold]
                if not prints or max(tanimoto(mark, prints)) < SIMILAR:
                    prints.append(mark)
                    self.modes[threshold].append(smiles)


def grid(scored: Sequence[tuple[str, float]]) -> NDArray[np.uint8]:
    """Molecules with their scores below, four per row: (H, W, 3)."""
    import io

    from PIL import Image
    from rdkit.Chem.Draw import rdMolDraw2D

    if not scored:
        return np.full((200, 200, 3), 255, np.uint8)
    columns, side = min(4, len(scored)), 200
    rows = -(-len(scored) // columns)
    canvas = rdMolDraw2D.MolDraw2DCairo(columns * side, rows * side, side, side)
    mols = [chemistry().MolFromSmiles(name) for name, _ in scored]
    canvas.DrawMolecules(mols, legends=[f"{score:.2f}" for _, score in scored])
    canvas.FinishDrawing()
    return np.asarray(Image.open(io.BytesIO(canvas.GetDrawingText())).convert("RGB")).copy()
