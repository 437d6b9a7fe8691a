"""Ablation of meta-value learning on the iterated Prisoner's Dilemma: figure 6.3.

One component at a time is removed: the correction U (V itself is learned), exploration by sign
flips, the target network, λ-returns, quantiles. Models of each variant are trained against
themselves.
Every ten outer loops new pairs of policies follow the model for 100 updates. Recorded are

- their final return;
- the root mean square error of the model's value along these updates, over stretches of 10
  updates (short) and over all 100 (long):  (1 − γ) Σ_{t<n} γᵗ fᵗ + γⁿ V(xⁿ) − V(x⁰).

The figure has no numbers. The text states that U matters most and V converges worse; that the
target network and λ-returns slow learning down and stabilise it; that exploration matters least.

Source: T. Cooijmans, PhD thesis (2024), figure 6.3 and its text; the long error as in the public
code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.agents.games.meva import MeVa
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.games.meva_tables import QUICK
from semigradient.reproductions.report import Job, Report, Row
from semigradient.reproductions.rows import separated, signed
from semigradient.training.build import build
from semigradient.training.cli import parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Meta-value learning without one of its parts: meta-value thesis, figure 6.3"
SEEDS = {"quick": 3, "full": 10}
VARIANTS: Mapping[str, list[str]] = {
    "default": [],
    "V instead of U": ["--formulation", "v"],
    "no exploration": ["--flip-probability", "0"],
    "no target network": ["--target-rate", "1"],
    "no λ-returns": ["--td-lambda", "0"],
    "no quantiles": ["--quantiles", "1"],
}
EVERY = 10
"""Outer loops between measurements."""
PAIRS, UPDATES, STRETCH = 64, 100, 10
"""Monitored pairs per model, their updates, and the updates of a short stretch."""
_LOOPS = {"quick": 120, "full": 300}
_LEARNED = -1.5
"""Halfway between mutual defection and cooperation: the threshold of having learned."""


@torch.no_grad()
def value_errors(agent: MeVa, visited: Tensor) -> tuple[Array, Array]:
    """Short and long errors (S,) along policies x⁰ … xⁿ (n + 1, S, B, 2, 5)."""
    config, game = agent.config, agent.game
    network = agent.target if config.target_rate < 1 else agent.network
    gamma = torch.full(visited.shape[1:4], config.gamma)
    returns = game.value(visited)
    rewards = (1 - config.gamma) * (returns[1:] if config.formulation == "u" else returns[:-1])

    def error(start: int, stop: int) -> Tensor:
        first, last = (
            network(game.features(visited[at]).float(), gamma).mean(-1) for at in (start, stop)
        )
        powers = config.gamma ** torch.arange(stop - start, dtype=rewards.dtype)
        paid = torch.einsum("t,tsbp->sbp", powers, rewards[start:stop])
        return paid + config.gamma ** (stop - start) * last - first

    def size(errors: Tensor) -> Array:
        return errors.square().transpose(0, 1).flatten(1).mean(1).sqrt().numpy()

    count = len(visited) - 1
    short = [error(start, start + STRETCH) for start in range(0, count, STRETCH)]
    return size(torch.stack(short)), size(error(0, count)[None])


def monitor(agent: MeVa, random: torch.Generator) -> dict[str, Array]:
    """Final return (S,) of policies that follow the model, and its errors along the way."""
    models = agent.config.models
    x = agent.game.draw(models * PAIRS, random).view(models, PAIRS, 2, -1)
    visited = [x]
    for _ in range(UPDATES):
        visited.append(agent.learn_policies(visited[-1], 1))
    path = torch.stack(visited)
    short, long = value_errors(agent, path)
    returns = agent.game.value(path[-1]).mean((1, 2)).numpy()
    return {"return": returns, "short": short, "long": long}


def train(job: Job, variant: str) -> dict[str, Array]:
    """Learning curves (points, S) of one variant, and their outer loops."""
    loops = _LOOPS[job.scale]
    words = ["--agent", "meva", "--env", "semigradient/IPD-v0", "--models", str(job.seeds)]
    size = [] if job.full else QUICK
    command = parse([*words, "--threads", "1", *size, *VARIANTS[variant]]).command

    def work() -> dict[str, Any]:
        agent = build(command)
        assert isinstance(agent, MeVa)
        random = torch.Generator().manual_seed(1)
        courses: dict[str, list[Array]] = {"return": [], "short": [], "long": []}
        for loop in range(1, loops + 1):
            agent.iterate()
            if loop % EVERY == 0:
                for name, measured in monitor(agent, random).items():
                    courses[name].append(measured)
                job.say(f"{variant} {loop}/{loops}: {courses['return'][-1].mean():.2f}")
        at = np.arange(1, loops // EVERY + 1) * EVERY
        return {"loops": at.astype(float), **{k: np.array(v) for k, v in courses.items()}}

    key = variant.replace(" ", "-").replace("λ", "lambda").lower()
    identity = (command.identity(), loops, EVERY, PAIRS, UPDATES, STRETCH)
    return job.cell(key, identity, work)


def reproduce(job: Job) -> Report:
    """Train and compare all variants."""
    variants = {variant: train(job, variant) for variant in VARIANTS}

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 3)
        for panel, name in zip(axes, ("return", "short", "long"), strict=True):
            for (variant, course), colour in zip(variants.items(), COLOURS, strict=False):
                mean = course[name].mean(1)
                panel.plot(course["loops"], mean, color=colour, label=variant)
            panel.set(xlabel="outer loop")
        for panel, label in zip(axes, ("return", "short TD error", "long TD error"), strict=True):
            panel.set(ylabel=label)
        axes[0].legend(fontsize="small")

    return Report(rows(variants), draw, (12.0, 3.6))


def rows(variants: Mapping[str, Mapping[str, Array]]) -> list[Row]:
    """Rows for the text's statements; final values are means of the last three measurements."""
    source = "figure 6.3 and its text"
    end = {name: course["return"][-3:].mean(0) for name, course in variants.items()}
    late = {name: course["long"][-3:].mean(0) for name, course in variants.items()}
    soon = {name: learned_at(course) for name, course in variants.items()}
    default = end["default"]
    costs = {name: float(default.mean() - end[name].mean()) for name in variants}
    exploring = abs(costs["no exploration"])
    result = [
        signed("default: return in the end above −1.5", "about −1", source, default - _LEARNED, 1),
        separated(
            "return in the end: U less V",
            "U matters most",
            source,
            default,
            end["V instead of U"],
            1,
        ),
        separated(
            "long TD error in the end: V less U",
            "V converges worse",
            source,
            late["V instead of U"],
            late["default"],
            1,
        ),
        Row(
            "size of what exploration changes, over that of what U does",
            "exploration matters least, U most",
            source,
            exploring / max(abs(costs["V instead of U"]), 1e-9),
            0.0,
            1.0,
            "below 1",
            exploring < abs(costs["V instead of U"]),
        ),
    ]
    for part in ("no target network", "no λ-returns"):
        what = f"outer loops until −1.5 is passed: default less {part}"
        slower = separated(what, "the part slows learning", source, soon["default"], soon[part], 1)
        result.append(slower)
    return result


def learned_at(course: Mapping[str, Array]) -> Array:
    """The first measured loop (S,) with a return above −1.5; one after the last if none."""
    learned = course["return"] > _LEARNED
    at = np.append(course["loops"], course["loops"][-1] + EVERY)
    return at[np.where(learned.any(0), learned.argmax(0), len(course["loops"]))]
