"""Harmonising a soprano by rules: PPO initialised with a trained Coconet, against its sampler.

A policy with Coconet's convolutions is initialised as its ancestral sampler and then trained on the
rules of harmony alone. It must outperform the sampler, which must outperform random notes.

The rules are all that PPO sees, and the sampler never sees them. So beside PPO stands the best by
the rules of several harmonies by the sampler, and the model's likelihood of both: a policy that
games the rules writes what the model, trained on Bach, finds as unlikely as random notes.

The decision process is this project's; the model is T. Cooijmans, PhD thesis, chapter 3.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from semigradient.domains.music.trained_coconet import conditionals
from semigradient.envs import make_vector
from semigradient.envs.adapters import CoreVector
from semigradient.envs.music.chorale_filling import framewise_log_likelihood
from semigradient.envs.music.chorale_setting import LOW, Setting
from semigradient.reproductions.music.chorale_models import coconet_run
from semigradient.reproductions.report import Array, Job, Report, Row
from semigradient.reproductions.rows import separated
from semigradient.training.agent import Policy
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.command import RunConfig
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Harmonising by the rules: PPO from a trained Coconet on, and the samplers it leaves behind"
SEEDS = {"quick": 2, "full": 5}

ENV = "semigradient/ChoraleFill-v0"
OPTIONS = ("grid=4", "frames=8", "task=harmonize", "reward=rules")
PPO = (
    *("--torso", "coconet", "--num-envs", "32", "--rollout-steps", "24", "--batch-size", "192"),
    *("--epochs", "2", "--gamma", "1", "--gae-lambda", "0.9", "--optim.lr", "5e-4"),
    *("--schedule", "linear", "--max-grad-norm", "0.5", "--normalise-rewards"),
)
_STEPS = {"quick": 18_432, "full": 491_520}
_POINTS = 10
_EPISODES = 128
_SHOWN = 3
_DRAWS = 8


def reproduce(job: Job) -> Report:
    """Train, and evaluate all policies on the same excerpts of the test split."""
    folder = coconet_run(job)
    steps = _STEPS[job.scale]
    curves = [
        job.cell(f"ppo-{seed}", (PPO, OPTIONS, steps, folder), partial(learn, folder, steps, seed))
        for seed in range(job.seeds)
    ]
    others = {
        kind: job.cell(kind, (OPTIONS, folder), partial(reference, folder, kind))
        for kind in ("random-legal", "ancestral")
    }
    bach = job.cell("bach", OPTIONS, real)["returns"]
    best = job.cell("best", (OPTIONS, folder, _DRAWS), partial(best_of, folder, _DRAWS))
    rolls = {"PPO": [curve["rolls"] for curve in curves], "best": [best["rolls"]]}
    rolls["random"] = [others["random-legal"]["rolls"]]
    likely = {name: likelihoods(folder, np.concatenate(part)) for name, part in rolls.items()}

    def draw(figure: Figure) -> None:
        parts: Any = figure.subfigures(2, 1, height_ratios=(1.3, 1))
        above, below = parts
        axes = above.subplots()
        for curve in curves:
            label = "PPO" if curve is curves[0] else None
            axes.plot(curve["steps"], curve["mean"], color="C0", label=label)
        for place, (name, measured) in enumerate(others.items(), 1):
            axes.axhline(measured["returns"].mean(), color=f"C{place}", label=name)
        axes.axhline(bach.mean(), color="grey", label="Bach")
        axes.set(xlabel="notes written in training", ylabel="return by the rules, split test")
        axes.legend()
        shown = below.subplots(1, _SHOWN, squeeze=False)[0]
        for axis, picture in zip(shown, curves[0]["pictures"].astype(np.uint8), strict=True):
            axis.imshow(picture, aspect="auto")
            axis.set_axis_off()

    rows = _rows(curves, others, bach) + hacking_rows(curves, best["returns"], likely)
    return Report(rows, draw, (8.0, 7.0))


def _rows(curves: list[dict[str, Array]], others: dict[str, Any], bach: Array) -> list[Row]:
    learned = np.concatenate([curve["returns"] for curve in curves])
    begun = np.concatenate([curve["mean"][:1] for curve in curves])
    sampled, plain = others["ancestral"]["returns"], others["random-legal"]["returns"]
    source = "expected of a policy gradient"
    rows = [
        separated("PPO - ancestral sampler", "above 0", source, learned, sampled, 1),
        separated("ancestral sampler - random notes", "above 0", source, sampled, plain, 1),
    ]
    share = (learned.mean() - sampled.mean()) / (sampled.mean() - plain.mean())
    for name, values in (("PPO", learned), ("ancestral sampler", sampled), ("random", plain),
                         ("Bach", bach), ("PPO before learning", begun)):  # fmt: skip
        low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
        mean = float(values.mean())
        rows.append(Row(f"{name}: mean return", "-", "shown", mean, low, high, "-", True, False))
    claim = "gain of PPO over the sampler, by that of the sampler over random notes"
    rows.append(Row(claim, "-", "shown", share, share, share, "-", True, False))
    return rows


def hacking_rows(
    curves: list[dict[str, Array]], best: Array, likely: dict[str, Array]
) -> list[Row]:
    """Rows that fail where PPO games the rules.

    Args:
        curves: of PPO.
        best: returns of the best of `_DRAWS` harmonies by the sampler (episodes,).
        likely: the model's log-likelihoods per frame of harmonies by PPO, best and random.
    """
    learned = np.concatenate([curve["returns"] for curve in curves])
    what, source = f"best of {_DRAWS} harmonies by the sampler", "a check of reward hacking"
    first = separated(f"PPO - {what}, by the rules", "above 0", source, learned, best, 1)
    means = {name: float(values.mean()) for name, values in likely.items()}
    share = (means["PPO"] - means["random"]) / (means["best"] - means["random"])
    second = Row(
        f"model's likelihood of PPO's harmonies, from random ({means['random']:.2f} nats per "
        f"frame) at 0 to the {what} ({means['best']:.2f}) at 1",
        "near 1 without reward hacking",
        source,
        share,
        share,
        share,
        "at least 0.5",
        share >= 0.5,
        required=False,
    )
    return [replace(first, required=False), second]


def learn(folder: str, steps: int, seed: int) -> dict[str, Array]:
    """Train PPO; mean returns during training, final returns and pictures."""
    words = ["--agent", "ppo", "--env", ENV, "--seed", str(seed), "--steps", str(steps)]
    words += ["--threads", "1", "--torso-weights", folder, *PPO, "--env-options", *OPTIONS]
    agent: Any = build(parse(words).command)
    points: dict[str, list[float]] = {"steps": [], "mean": []}
    for point in range(_POINTS + 1):
        while agent.progress.steps < steps * point / _POINTS:
            agent.iterate()
        points["steps"].append(float(agent.progress.steps))
        points["mean"].append(float(returns(agent.policy(False), 32).mean()))
    pictures, last = _pictures(agent.policy(False)), played(agent.policy(False), _EPISODES)
    curve = {name: np.array(values) for name, values in points.items()}
    return {**curve, **last, "pictures": pictures}


def reference(folder: str, kind: str) -> dict[str, Array]:
    """Returns of a fixed policy."""
    words = ["--agent", "composer", "--kind", kind, "--env", ENV, "--num-envs", "32"]
    words += ["--env-options", *OPTIONS, f"model={folder}"]
    agent: Any = build(parse(words).command)
    return played(agent.policy(False), _EPISODES)


def best_of(folder: str, draws: int) -> dict[str, Array]:
    """Of each excerpt, the best by the rules of `draws` harmonies by the ancestral sampler."""
    words = ["--agent", "composer", "--kind", "ancestral", "--env", ENV, "--num-envs", "32"]
    words += ["--env-options", *OPTIONS, f"model={folder}"]
    agent: Any = build(parse(words).command)
    policy = agent.policy(False)
    found = [played(policy, _EPISODES) for _ in range(draws)]
    returns = np.stack([each["returns"] for each in found])
    rolls, row = np.stack([each["rolls"] for each in found]), np.arange(returns.shape[1])
    return {"returns": returns.max(0), "rolls": rolls[returns.argmax(0), row]}


def likelihoods(folder: str, rolls: Array) -> Array:
    """The model's log-likelihoods in nats per frame (n,) of rolls (n, 4, T) of MIDI pitches."""
    pitches = torch.from_numpy(rolls.astype(np.int64)) - LOW
    random = torch.Generator().manual_seed(0)
    model = conditionals(folder)
    return framewise_log_likelihood(model, pitches, random, shared=True).numpy()


def real() -> dict[str, Array]:
    """Returns of Bach's own notes on the same excerpts."""
    envs = _excerpts()
    setting: Setting = envs.core.setting  # type: ignore[attr-defined]
    gains = []
    for _ in range(_EPISODES // envs.num_envs):
        roll = setting.corpus.draw(envs.num_envs, envs.generator)
        rules = setting.need_rules("real")
        given = roll.clone()
        given[:, 1:] = -1
        gain = rules.potential(rules.count(roll)) - rules.potential(rules.count(given))
        gains.append(gain.numpy())
    return {"returns": np.concatenate(gains)}


def returns(policy: Policy, episodes: int) -> Array:
    """Returns (episodes,) on fixed excerpts of the test split."""
    return played(policy, episodes)["returns"]


def played(policy: Policy, episodes: int) -> dict[str, Array]:
    """Returns (episodes,) and `rolls` (episodes, 4, T) on fixed excerpts of the test split."""
    envs, totals, rolls = _excerpts(), [], []
    for _ in range(max(1, episodes // envs.num_envs)):
        obs, infos = envs.reset()
        total, over = np.zeros(envs.num_envs), False
        while not over:
            obs, reward, terminated, truncated, infos = envs.step(policy(obs, infos["action_mask"]))
            total += reward
            over = bool((terminated | truncated).all())
        totals.append(total)
        rolls.append(infos["final_info"]["pianoroll"].astype(float))
    return {"returns": np.concatenate(totals), "rolls": np.concatenate(rolls)}


def _pictures(policy: Policy) -> Array:
    """Pictures of the first harmonised excerpts, (3, 4P, 8T, 3)."""
    envs = _excerpts()
    obs, infos = envs.reset()
    while int(envs.state.missing[0]) > 1:
        obs, _, _, _, infos = envs.step(policy(obs, infos["action_mask"]))
    action = torch.from_numpy(policy(obs, infos["action_mask"]))
    last = envs.core.step(envs.state, action, envs.generator)
    return np.stack(envs.core.render(last.state)[:_SHOWN]).astype(float)


def _excerpts() -> CoreVector:
    options = RunConfig(env_options=(*OPTIONS, "split=test")).environment()
    envs = make_vector(ENV, 32, 1, **options)
    assert isinstance(envs, CoreVector)
    return envs
