"""Evaluate and film a trained run: python evaluate.py runs/… --episodes 100 --video."""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semigradient.errors import UserError, one_line, require
from semigradient.training.cli import fail
from semigradient.training.console import forgiving, say
from semigradient.training.run_files import write_json, write_text
from semigradient.training.summary import summarise

if TYPE_CHECKING:
    from semigradient.training.evaluation import Scores
    from semigradient.training.loaded_run import LoadedRun


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    with forgiving():
        try:
            report = evaluate_run(options)
        except UserError as problem:
            fail(problem, "evaluate.py")
        except KeyboardInterrupt:
            say("interrupted", error=True)
            return 130
        say(_table(report))
    return 0


def evaluate_run(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a run folder; writes `evaluation.json`, and optionally a video, into it.

    A folder that cannot be written costs the file, not the scores.
    """
    require(options.episodes >= 1, f"--episodes {options.episodes}: must be ≥ 1")
    require(options.max_steps >= 0, f"--max-steps {options.max_steps}: must be ≥ 0")
    folder = Path(options.run)
    require(_is_folder(folder), f"run {str(folder)!r}: no such folder; accepted is a run folder")

    import numpy as np

    from semigradient.training.evaluation import cut_note
    from semigradient.training.loaded_run import load_run
    from semigradient.training.run import provenance

    run = load_run(folder, options.device, options.trust, options.best)
    command, agent, loaded = run.command, run.agent, run.loaded
    for reason in loaded.skipped:
        say(f"skipped damaged policy: {reason}", error=True)
    seed = run.evaluation_seed(options.seed)
    scores = _scores(run, options, seed)
    if scores.cut:
        say(cut_note(scores), error=True)
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
        **scores.cut_count(),
        **{key: summary[key] for key in ("mean", "median", "iqm", "std")},
        "references": dict(scores.references),
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
    try:
        if options.pictures:
            report["pictures"] = _pictures(agent, folder)
        write_json(folder / "evaluation.json", report)
        if options.video:
            report["video"] = str(_film(run, seed, not options.stochastic, options.video))
    except OSError as problem:
        say(f"warning: {folder}: cannot be written ({one_line(problem)})", error=True)
    return report


def _is_folder(path: Path) -> bool:
    """False too where no file system can hold the name."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _scores(run: LoadedRun, options: argparse.Namespace, seed: int) -> Scores:
    """Scores of the policy; `UserError` where it or its environment fails."""
    limit = options.max_steps or None
    try:
        return run.evaluate(options.episodes, seed, not options.stochastic, limit)
    except UserError:
        raise
    except Exception as problem:
        place = _write_traceback(run.folder, problem)
        raise UserError(f"evaluation failed ({one_line(problem)[:300]}){place}") from problem


def _write_traceback(folder: Path, problem: Exception) -> str:
    """Where it lies, as the end of a sentence; empty if it cannot be written."""
    path = folder / "evaluation-traceback.txt"
    try:
        write_text(path, "".join(traceback.format_exception(problem)))
    except OSError:
        return ""
    return f"; traceback in {path}"


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
    if report["references"]:
        known = [f"{name} {value:.2f}" for name, value in report["references"].items()]
        lines.append(f"  exact     {', '.join(known)}")
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
    parser.add_argument(
        "--best", action="store_true", help="the policy of the best evaluation, not the newest"
    )
    parser.add_argument(
        "--max-steps",
        type=int,
        default=0,
        metavar="N",
        help="steps after which an episode is cut (default: as the run's --eval-max-steps)",
    )
    parser.add_argument("--pictures", action="store_true", help="draw what the agent has learned")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
