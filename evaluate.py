"""Evaluate and film a trained run: python evaluate.py runs/… --episodes 100 --video."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semigradient.errors import UserError, require
from semigradient.training.cli import fail
from semigradient.training.summary import summarise

if TYPE_CHECKING:
    from semigradient.training.loaded_run import LoadedRun


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        report = evaluate_run(options)
    except UserError as problem:
        fail(problem, "evaluate.py")
    print(_table(report))
    return 0


def evaluate_run(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a run folder; writes `evaluation.json`, and optionally a video, into it."""
    require(options.episodes >= 1, f"--episodes {options.episodes}: must be ≥ 1")
    require(options.seed is None or options.seed >= 0, f"--seed {options.seed}: must be ≥ 0")
    folder = Path(options.run)
    require(folder.is_dir(), f"run {str(folder)!r}: no such folder; accepted is a run folder")

    import numpy as np

    from semigradient.training.loaded_run import load_run
    from semigradient.training.run import provenance, write_json

    run = load_run(folder, options.device, options.trust)
    command, agent, loaded = run.command, run.agent, run.loaded
    for reason in loaded.skipped:
        print(f"skipped damaged policy: {reason}", file=sys.stderr)
    seed = run.evaluation_seed(options.seed)
    scores = run.evaluate(options.episodes, seed, not options.stochastic)
    summary = summarise(scores.returns, np.random.default_rng(0))
    report = {
        "agent": command.run.agent,
        "env": command.run.env,
        "optim": command.run.optim,
        "train_steps": loaded.step,
        "train_seed": command.run.seed,
        "eval_seed": seed,
        "deterministic": not options.stochastic,
        "episodes": len(scores.returns),
        **{key: summary[key] for key in ("mean", "median", "iqm", "std")},
        "mean_interval": [summary["mean_low"], summary["mean_high"]],
        "iqm_interval": [summary["iqm_low"], summary["iqm_high"]],
        "returns": scores.returns.tolist(),
        "lengths": scores.lengths.tolist(),
        "protocol": agent.setup.envs.protocol,
        "versions": provenance()["versions"],
    }
    clock = agent.setup.envs.clock
    if clock is not None:
        report["scaled_return"] = summary["mean"] * clock.return_scale
        report["train_hours"] = clock.hours(loaded.step)
    if options.pictures:
        report["pictures"] = _pictures(agent, folder)
    write_json(folder / "evaluation.json", report)
    if options.video:
        report["video"] = str(_film(run, seed, not options.stochastic, options.video))
    return report


def _pictures(agent: Any, folder: Path) -> list[str]:
    """Write pictures of what the agent has learned into the run folder."""
    import imageio.v3 as iio

    pictures: dict[str, Any] = getattr(agent, "pictures", dict)()
    spec = agent.setup.envs.spec
    where = f"{type(agent).__name__.lower()} on {spec.id if spec is not None else '?'}"
    require(bool(pictures), f"--pictures: {where} has no pictures")
    (folder / "pictures").mkdir(exist_ok=True)
    files = {name: folder / "pictures" / f"{name}.png" for name in pictures}
    for name, picture in pictures.items():
        iio.imwrite(files[name], picture)
    return [str(file) for file in files.values()]


def _film(run: LoadedRun, seed: int, deterministic: bool, kind: str) -> Path:
    import imageio.v2 as imageio

    from semigradient.training.evaluation import film

    env = run.command.run.env
    envs = run.env(1, seed, render=True)
    frames: list[Any] = list(film(run.agent.policy(deterministic), envs))
    rate = 15 if "ALE/" in env else int(envs.metadata.get("render_fps", 30))
    envs.close()
    path = run.folder / "videos" / f"{re.sub('[:/]', '-', env)}-seed{seed}.{kind}"
    path.parent.mkdir(exist_ok=True)
    if kind == "mp4":
        imageio.mimwrite(path, frames, fps=rate, codec="libx264", macro_block_size=2)
    else:
        imageio.mimwrite(path, frames[:500], duration=1000 / rate, loop=0)
    return path


def _table(report: dict[str, Any]) -> str:
    low, high = report["mean_interval"]
    iqm_low, iqm_high = report["iqm_interval"]
    card = ", ".join(f"{k}={v}" for k, v in report["protocol"].items() if k != "env")
    lines = [
        f"{report['agent']} on {report['env']} after {report['train_steps']} steps",
        f"  protocol  {card}",
        f"  episodes  {report['episodes']} (seed {report['eval_seed']})",
        f"  mean      {report['mean']:.2f}  [{low:.2f}, {high:.2f}] 95 % bootstrap",
        f"  median    {report['median']:.2f}",
        f"  IQM       {report['iqm']:.2f}  [{iqm_low:.2f}, {iqm_high:.2f}]",
    ]
    if "scaled_return" in report:
        hours = f"after {report['train_hours']:.3g} physical hours"
        lines.append(f"  scaled    {report['scaled_return']:.2f}  {hours}")
    lines += [f"  picture   {file}" for file in report.get("pictures", ())]
    if "video" in report:
        lines.append(f"  video     {report['video']}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__)
    parser.add_argument("run", help="run folder")
    parser.add_argument(
        "--episodes", type=int, default=100, help="complete episodes (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=None, help="root seed of the evaluation")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--stochastic", action="store_true", help="sample actions")
    parser.add_argument(
        "--video", nargs="?", const="mp4", choices=("mp4", "gif"), help="film one episode"
    )
    parser.add_argument(
        "--trust", action="store_true", help="allow code that its files name as module:Name"
    )
    parser.add_argument("--pictures", action="store_true", help="draw what the agent has learned")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
