"""Best response shaping on the coin game: the league of figures 5.3, 5.4, 5.5, 5.7 and 5.8.

Claims: the best response to a BRS-SP agent is to cooperate with it, so that always-cooperate does
not regret its cooperation; BRS-SP agents cooperate with each other, and punish always-defect,
less so than BRS. BRS agents exploit always-cooperate and BRS-SP, and do not cooperate among
themselves. The agents are exact (`agents.games.exact_brs`), all returns are exact expectations per
step over 50 undiscounted steps, and the best response takes the place of the published tree search
and of the trained opponent. A third group without memories is a control: what cannot retaliate is
exploited, though it cooperates with itself.

Source: T. Cooijmans, PhD thesis 2023, sections 5.5.2, 5.C and 5.F. The text has no numbers; the
published ones are read from the heat maps of figures 5.5 and 5.8. There agents are GRUs trained for
48 hours against a learned detective; tolerances were chosen after seeing one seed of each variant.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semigradient.api import make_agent
from semigradient.domains.games.coin_values import CoinValues
from semigradient.envs.games.coin_game import CoinGame
from semigradient.envs.games.coin_players import scripted
from semigradient.experiments.curves import COLOURS
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLE = "Best response shaping retaliates on the coin game: figures 5.3, 5.4, 5.5, 5.7 and 5.8"
SEEDS = {"quick": 4, "full": 10}
HORIZON = 50
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "BRS-SP": ("brs-sp-exact", {}),
    "BRS": ("brs-exact", {}),
    "BRS-SP without memory": ("brs-sp-exact", {"memory": False}),
}
SCRIPTED = {"AC": "always-cooperate-far", "AD": "always-defect"}
RIVALS = ("best response", *SCRIPTED, "itself")


def train(agent: str, options: dict[str, Any], steps: int, seeds: int) -> dict[str, Array]:
    """Policies (seeds, S, 4)."""
    policies = []
    for seed in range(seeds):
        learner: Any = make_agent(
            agent, "semigradient/CoinGame-v0", seed=seed, threads=1, steps=steps, **options
        )
        for _ in range(steps):
            learner.iterate()
        policies.append(learner.probabilities().numpy())
    return {"policies": np.array(policies)}


def scripted_policy(values: CoinValues, name: str) -> Tensor:
    """A player of `SCRIPTED` as a policy (S, 4)."""
    return values.policy(scripted(CoinGame(), SCRIPTED[name]))


def against(values: CoinValues, policy: Tensor, rival: str) -> Tensor:
    """Returns per step (2,), the policy's first."""
    if rival == "best response":
        return values.best_response(policy, HORIZON).start / HORIZON
    other = policy if rival == "itself" else scripted_policy(values, rival)
    return values.pair(policy, other, HORIZON).start / HORIZON


def battery(policies: Array) -> Array:
    """Returns per step (seeds, rivals, 2)."""
    values = CoinValues()
    rows = [
        torch.stack([against(values, torch.from_numpy(policy), rival) for rival in RIVALS])
        for policy in policies
    ]
    return torch.stack(rows).numpy()


def league(policies: dict[str, Array]) -> tuple[list[str], Array]:
    """Names, and returns per step (players, players) of the first against the second."""
    values = CoinValues()
    players = {name: scripted_policy(values, name) for name in SCRIPTED}
    for variant, found in policies.items():
        for seed, policy in enumerate(found):
            players[f"{variant} {seed}"] = torch.from_numpy(policy)
    returns = np.zeros((len(players), len(players)))
    for i, first in enumerate(players.values()):
        for j, second in enumerate(players.values()):
            returns[i, j] = values.pair(first, second, HORIZON).start[0] / HORIZON
    return list(players), returns


def reproduce(job: Job) -> Report:
    """Train the three groups and play all pairs."""
    steps = 300 if job.full else 120
    policies = {}
    for variant, (agent, options) in VARIANTS.items():
        setting = (agent, options, steps, job.seeds)
        name = variant.lower().replace(" ", "-")
        policies[variant] = job.cell(name, setting, partial(train, *setting))["policies"]
    returns = {variant: battery(found) for variant, found in policies.items()}
    names, matrix = league({name: policies[name] for name in ("BRS-SP", "BRS")})
    rows = [*claims(returns), *cross_play(names, matrix)]

    def draw(figure: Figure) -> None:
        bars, heat = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _bars(bars, returns)
        _heat(heat, names, matrix)

    return Report(rows, draw, inches=(13.0, 5.4))


def row(
    quantity: str,
    published: str,
    figure: str,
    measured: Array,
    tolerance: str,
    low: float = -np.inf,
    high: float = np.inf,
) -> Row:
    """A row about the mean over seeds, which must lie in [low, high]."""
    mean = float(measured.mean())
    interval = bootstrap_interval(np.mean, measured, np.random.default_rng(0))
    return Row(quantity, published, figure, mean, *interval, tolerance, low <= mean <= high)


def claims(returns: dict[str, Array]) -> list[Row]:
    """Rows for returns (seeds, rivals, 2) by variant."""
    index = {rival: place for place, rival in enumerate(RIVALS)}

    def of(variant: str, rival: str, seat: int) -> Array:
        return returns[variant][:, index[rival], seat]

    shaped, plain, control = VARIANTS
    best = "best response"
    sources = "figures 5.3, 5.5"
    rows = [
        row(f"{variant}: {what}", published, sources, of(variant, rival, seat), *bounds)
        for variant, what, rival, seat, published, *bounds in _claimed(shaped, plain)
    ]
    for variant, published, bounds in (
        (shaped, "close to 0", ("≤ 0.05", -np.inf, 0.05)),
        (plain, "significant", ("≥ 0.05", 0.05)),
    ):
        regret = of(variant, best, 1) - of(variant, "AC", 1)
        rows.append(
            row(
                f"{variant}: always-cooperate's regret", published, "section 5.5.2", regret, *bounds
            )
        )
    ours = "control of ours"
    alone, robbed = of(control, "itself", 0), of(control, best, 0)
    rows.append(row(f"{control}: against itself", "cooperates", ours, alone, "≥ 0.30", 0.30))
    rows.append(
        row(f"{control}: against its best response", "exploited", ours, robbed, "≤ 0.20", -1, 0.20)
    )
    return rows


def _claimed(shaped: str, plain: str) -> list[tuple[Any, ...]]:
    """Variant, what, rival, seat, published, tolerance, and its bounds."""
    best, least = "best response", -np.inf
    return [
        (shaped, "against itself", "itself", 0, "0.33 to 0.34", "≥ 0.30", 0.30),
        (shaped, "its best response gets", best, 1, "0.34 to 0.35", "≤ 0.36", least, 0.36),
        (shaped, "against its best response", best, 0, "0.28 to 0.32", "≥ 0.27", 0.27),
        (shaped, "always-defect gets", "AD", 1, "0.28, 0.28, 0.11", "≤ 0.28", least, 0.28),
        (shaped, "against always-defect", "AD", 0, "-0.13, -0.15, -0.04", "≥ -0.15", -0.15),
        (shaped, "against always-cooperate", "AC", 0, "0.33 to 0.35", "≤ 0.38", least, 0.38),
        (plain, "against itself", "itself", 0, "0.00 to 0.01", "≤ 0.05", least, 0.05),
        (plain, "its best response gets", best, 1, "0.06", "≤ 0.20", least, 0.20),
        (plain, "against its best response", best, 0, "0.25", "≥ 0.20", 0.20),
        (plain, "against always-cooperate", "AC", 0, "0.50", "≥ 0.45", 0.45),
        (plain, "against always-defect", "AD", 0, "-0.03", "within 0.05 of 0", -0.05, 0.05),
    ]


def cross_play(names: list[str], matrix: Array) -> list[Row]:
    """BRS against BRS-SP, every pair of seeds."""
    first = [i for i, name in enumerate(names) if name.startswith("BRS ")]
    second = [i for i, name in enumerate(names) if name.startswith("BRS-SP")]
    margin = matrix[np.ix_(first, second)] - matrix[np.ix_(second, first)].T
    claim = "BRS exploits BRS-SP: its return minus the other's"
    return [row(claim, "positive", "figure 5.4, right", margin.ravel(), "> 0", 1e-9)]


def _bars(axes: Any, returns: dict[str, Array]) -> None:
    """Returns of the agents (filled) and of their opponents (outlined)."""
    width = 0.8 / len(returns)
    for place, (variant, found) in enumerate(returns.items()):
        at = np.arange(len(RIVALS)) + (place - 1) * width
        colour = COLOURS[place]
        axes.bar(at, found[:, :, 0].mean(0), 0.9 * width, color=colour, label=variant)
        axes.plot(at, found[:, :, 1].mean(0), "_", color="black", markersize=14)
    axes.plot([], [], "_", color="black", label="its opponent")
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xticks(range(len(RIVALS)), RIVALS)
    axes.set(ylabel="return per step", title="Against")
    axes.legend(fontsize="small")


def _heat(axes: Any, names: list[str], matrix: Array) -> None:
    """Returns of the rows against the columns."""
    axes.imshow(matrix, cmap="RdBu", vmin=-0.65, vmax=0.65)
    for (i, j), value in np.ndenumerate(matrix):
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize="small")
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.set_title("Return per step of the row against the column")
