"""Samples and likelihoods of trained models of scores, for `evaluate.py`.

An agent models scores if it has `conditionals` (`domains/music/orderless.py`) and, in `core`, the
chorales that it was trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semigradient.domains.music.framewise import ORDERS, ensemble_nll, framewise
from semigradient.domains.music.gibbs import Rewrite, independent_gibbs
from semigradient.domains.music.piano_rolls import film_strip, frames, save_piece
from semigradient.envs.music import chorale_tasks, chorales
from semigradient.envs.music.chorale_setting import Conditionals
from semigradient.envs.music.chorales import PITCHES, VOICES
from semigradient.errors import require

TEMPERATURE = 0.99  # of the published code's samplers
_ROWS = 6  # of a film strip


class Score(NamedTuple):
    """A score (I, T) of pitch indices, its known cells, and its name."""

    pitches: Tensor
    known: Tensor
    name: str


def require_composer(agent: Any) -> None:
    """Raise `UserError` unless an agent models scores."""
    is_composer = callable(getattr(agent, "conditionals", None)) and hasattr(agent, "core")
    require(is_composer, "--render, --likelihood: accepted are runs of coconet")


def given(agent: Any, task: str, score: str, count: int, seed: int, split: str) -> list[Score]:
    """The scores to complete: from the user's file, else random crops of a split.

    Args:
        agent: a composer.
        task: which notes are known, of `envs.music.chorale_tasks`.
        score: a MusicXML or MIDI file; "": crops.
        count: how many, of crops.
        seed: of crops and of random tasks.
        split: of crops.
    """
    core, source = agent.core, torch.Generator().manual_seed(seed)
    grid = core.pieces.grid
    if score:
        path = Path(score).expanduser()
        rolls = chorales.indices(chorales.read_score(path)[:, ::grid])[None].repeat(count, 1, 1)
        name = f"{path.stem}-{task}"
    else:
        pieces = chorales.load(split, grid, core.protocol.get("source", "music21"))
        rolls = chorales.crops(pieces, count, core.steps, source)
        name = task
    known = chorale_tasks.known(task, count, len(VOICES), rolls.shape[2], source)
    name = name.replace(":", "-")
    return [Score(*pair, f"{name}-{i}") for i, pair in enumerate(zip(rolls, known, strict=True))]


def compose(
    conditionals: Conditionals, scores: list[Score], steps: int, generator: torch.Generator
) -> list[Rewrite]:
    """Rewrite scores of one length by annealed independent Gibbs sampling; returns all steps."""
    pitches = torch.stack([score.pitches for score in scores])
    known = torch.stack([score.known for score in scores])
    chain = independent_gibbs(
        conditionals, pitches, known, steps, generator, temperature=TEMPERATURE
    )
    return list(chain)


def render(folder: Path, agent: Any, scores: list[Score], steps: int, seed: int) -> list[Path]:
    """Complete scores and write pictures, MIDI and sound, and a film strip of the first.

    Args:
        folder: of the files.
        agent: a composer.
        scores: of one length, from `given`.
        steps: of Gibbs sampling; 0: as many as there are notes, the rule of thumb.
        seed: of the draws.

    Returns:
        The files.
    """
    from matplotlib.figure import Figure

    cells = scores[0].pitches.numel()
    generator = torch.Generator().manual_seed(seed)
    chain = compose(agent.conditionals, scores, steps or cells, generator)
    files = []
    for score, pitches in zip(scores, chain[-1].pitches, strict=True):
        roll = (pitches + PITCHES[0]).numpy().astype(np.int8)
        files += save_piece(folder / score.name, roll, agent.core.pieces.grid)
    shown = np.unique(np.linspace(0, len(chain) - 1, _ROWS).round().astype(int)).tolist()
    figure = Figure(figsize=(9, 1.4 * len(shown)), layout="constrained")
    film_strip(figure, frames(chain, shown))
    strip = folder / f"{scores[0].name}-strip.png"
    figure.savefig(strip, dpi=120)
    return [*files, strip]


def likelihoods(agent: Any, pieces: int, seed: int, split: str) -> dict[str, Any]:
    """Framewise NLL of the beginnings of a split's pieces, for both orders of frames.

    Args:
        agent: a composer.
        pieces: how many.
        seed: of the orderings.
        split: which.

    Returns:
        By order, mean and standard error over pieces in nats per frame, five orderings each.
    """
    core, generator = agent.core, torch.Generator().manual_seed(seed)
    loaded = chorales.load(split, core.pieces.grid, core.protocol.get("source", "music21"))
    rolls = [roll for roll in loaded.pieces if roll.shape[1] >= core.steps][:pieces]
    results: dict[str, Any] = {"split": split, "pieces": len(rolls), "orderings": 5}
    for order in ORDERS:
        nll = [
            ensemble_nll(
                framewise(
                    agent.conditionals,
                    chorales.indices(roll[:, : core.steps]),
                    order=order,
                    generator=generator,
                )
            ).mean()
            for roll in rolls
        ]
        values = torch.stack(nll)
        results[order] = {
            "mean": float(values.mean()),
            "sem": float(values.std() / len(values) ** 0.5),
        }
    return results
