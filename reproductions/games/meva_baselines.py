"""Baselines M-FOS in tables 6.2 and 6.3, and M-MAML in their later version.

Both are trained as by `train.py --agent m-fos` and `--agent m-maml`, and then play naive learners,
LOLA and themselves from standard normal logits for 500 updates, as in `meva-ipd`.

None of these rows is required. The thesis re-ran the public code of M-FOS, where Chicken is
one-shot instead of iterated and LOLA is the Taylor form with both factors differentiated; here
Chicken is iterated and LOLA exact. M-MAML is in the public notebook only.

Source: T. Cooijmans, PhD thesis (2024), tables 6.2 to 6.6, and its public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from semigradient.agents.games.m_fos import MFOS
from semigradient.agents.games.m_maml import MMAML
from semigradient.domains.games import rules
from semigradient.domains.games.head_to_head import Contestant, contest, follower
from semigradient.envs.games.differentiable import Game
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.games import meva_chicken, meva_imp, meva_ipd
from semigradient.reproductions.games.meva_tables import UPDATES
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training import parts
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.command import Command
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "M-FOS and M-MAML against naive learners, LOLA and themselves: tables 6.2 and 6.3"
SEEDS = {"quick": 2, "full": 10}
ENVS = {"IPD": "IPD-v0", "matching pennies": "MatchingPennies-v0", "Chicken": "Chicken-v0"}
OPPONENTS = ("naive", "lola", "self")
_TABLES = {"IPD": meva_ipd.TABLE, "matching pennies": meva_imp.TABLE, "Chicken": meva_chicken.TABLE}
Cells = Mapping[str, tuple[float, float, float]]
"""By opponent: the learner's return, its opponent's, and the larger standard error (0: unknown)."""
M_FOS: Mapping[str, Cells] = {
    "IPD": {
        "naive": (-0.56, -2.02, 0.06),
        "lola": (-1.02, -1.02, 0.0),
        "self": (-1.01, -1.01, 0.0),
    },
    "matching pennies": {
        "naive": (0.20, -0.20, 0.0),
        "lola": (0.19, -0.19, 0.0),
        "self": (0.0, 0.0, 0.01),
    },
    "Chicken": {
        "naive": (0.97, -1.03, 0.0),
        "lola": (-1.16, 0.79, 0.12),
        "self": (-0.01, -0.01, 0.13),
    },
}
M_MAML: Mapping[str, Cells] = {
    "IPD": {
        "naive": (-1.40, -1.52, 0.0),
        "lola": (-1.29, -0.97, 0.0),
        "self": (-1.22, -1.22, 0.0),
    },
    "matching pennies": {
        "naive": (0.10, -0.10, 0.0),
        "lola": (0.05, -0.05, 0.0),
        "self": (0.0, 0.0, 0.0),
    },
    "Chicken": {
        "naive": (0.98, -0.99, 0.0),
        "lola": (0.78, -0.80, 0.0),
        "self": (-0.45, -0.45, 0.0),
    },
}
_QUICK = {
    "m-fos": ["--batch-size", "128", "--width", "64", "--minibatches", "8"],
    "m-maml": ["--batch-size", "16", "--updates", "100"],
}
_ITERATIONS = {"m-fos": {"quick": 150, "full": 1024}, "m-maml": {"quick": 60, "full": 1000}}
PAIRS = {"quick": 256, "full": 2048}


def command(job: Job, agent: str, game: str, *flags: str) -> Command:
    """The training command, as parsed by `train.py`."""
    words = ["--agent", agent, "--env", f"semigradient/{ENVS[game]}", "--models", str(job.seeds)]
    size = [] if job.full else _QUICK[agent]
    return parse([*words, "--threads", "1", *size, *flags]).command


def trained(job: Job, key: str, chosen: Command) -> tuple[Any, Array]:
    """A trained agent, and the returns (iterations, 2) of its training."""
    iterations = _ITERATIONS[chosen.run.agent][job.scale]
    agent = build(chosen)

    def work() -> dict[str, Any]:
        course = []
        for number in range(iterations):
            scalars = agent.iterate()
            course.append([float(scalars[name]) for name in ("return", "opponent_return")])
            if (number + 1) % 25 == 0:
                job.say(f"{key} {number + 1}/{iterations}: {np.mean(course[-25:], 0).round(2)}")
        learned = {f"parameter/{n}": p.numpy() for n, p in parts.learned(agent).items()}
        return {"course": np.array(course), **learned}

    arrays = job.cell(key, (chosen.identity(), iterations), work)
    for name, value in parts.learned(agent).items():
        value.copy_(torch.from_numpy(arrays[f"parameter/{name}"]))
    return agent, arrays["course"]


def meet(game: Game, pairs: int, players: list[tuple[Contestant, Contestant]]) -> Array:
    """Mean final returns (models, 2) of pairs of contestants from the same initial policies."""
    start = game.draw(pairs, torch.Generator().manual_seed(0))
    ends = [game.value(contest(game, pair, start, UPDATES)).mean(0) for pair in players]
    return torch.stack(ends).numpy()


def m_fos(job: Job, game: str, opponent: str) -> tuple[Array, Array]:
    """Returns (models, 2) of learners and opponents, and the training curve."""
    chosen = command(job, "m-fos", game, "--opponent", opponent)
    agent, course = trained(job, f"m-fos-{ENVS[game]}-{opponent}".lower(), chosen)
    assert isinstance(agent, MFOS)
    alpha = agent.config.alpha
    players = []
    for model in range(job.seeds):
        mine = agent.contestant(model)
        other = mine if opponent == "self" else follower(rules.rule(opponent, alpha), alpha)
        players.append((mine, other))
    return meet(agent.game, PAIRS[job.scale], players), course


def m_maml(job: Job, game: str, opponent: str) -> tuple[Array, Array]:
    """The same for M-MAML, which is always trained against naive learners.

    Opponents move by the tables' step sizes (25, 1 in Chicken), not by those of its training.
    """
    agent, course = trained(job, f"m-maml-{ENVS[game]}".lower(), command(job, "m-maml", game))
    assert isinstance(agent, MMAML)
    alpha, count = _TABLES[game].alpha, job.seeds
    mine = [agent.contestant(model) for model in range(count)]
    if opponent == "self":
        second = agent
        if not agent.game.symmetric:
            chosen = command(job, "m-maml", game, "--seat", "second")
            second, _ = trained(job, f"m-maml-{ENVS[game]}-second".lower(), chosen)
        # Paired with an independently trained model.
        others = [second.contestant((model + 1) % count) for model in range(count)]
    else:
        others = [follower(rules.rule(opponent, alpha), alpha)] * count
    return meet(agent.game, PAIRS[job.scale], list(zip(mine, others, strict=True))), course


def reproduce(job: Job) -> Report:
    """Train both on all three games; one row per table entry."""
    rows, courses = [], {}
    for game in ENVS:
        for opponent in OPPONENTS:
            returns, courses[game, "M-FOS", opponent] = m_fos(job, game, opponent)
            rows += lines(game, "M-FOS", opponent, M_FOS[game][opponent], returns)
        for opponent in OPPONENTS:
            returns, courses[game, "M-MAML", "naive"] = m_maml(job, game, opponent)
            rows += lines(game, "M-MAML", opponent, M_MAML[game][opponent], returns)

    def draw(figure: Figure) -> None:
        for panel, game in zip(figure.subplots(1, len(ENVS)), ENVS, strict=True):
            shown = [key for key in courses if key[0] == game]
            for key, colour in zip(shown, COLOURS, strict=False):
                label = f"{key[1]} against {key[2]}"
                panel.plot(courses[key][:, 0], color=colour, label=label)
            panel.set(title=game, xlabel="iteration", ylabel="return, training")
        panel.legend(fontsize="small")

    return Report(rows, draw, (12.0, 3.6))


def lines(
    game: str, learner: str, opponent: str, published: tuple[float, float, float], returns: Array
) -> list[Row]:
    """Rows for returns (models, 2); a single row against itself."""
    table = "6.2" if game == "IPD" else "6.3"
    source = f"table {table}" if learner == "M-FOS" else f"public code, table {table}"
    other = learner if opponent == "self" else opponent
    rows = []
    for seat, (one, two) in enumerate(((learner, other), (other, learner))):
        if opponent == "self" and seat:
            continue
        allowed = max(0.06, 3 * published[2])
        mean = float(returns[:, seat].mean())
        low, high = bootstrap_interval(np.mean, returns[:, seat], np.random.default_rng(0))
        rows.append(
            Row(
                f"{game}: {one} against {two}",
                f"{published[seat]:.2f}",
                source,
                mean,
                low,
                high,
                f"within {allowed:.2f}",
                abs(mean - published[seat]) <= allowed,
                required=False,
            )
        )
    return rows
