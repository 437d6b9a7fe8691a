"""Samples of a trained model of scores, and its likelihood of Bach's pieces.

    python -m semigradient.domains.music runs/<coconet run> --render 4 --likelihood 16

Pieces go into the run folder as pictures, MIDI and sound, numbers into `music.json`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from semigradient.errors import UserError, require
from semigradient.training.cli import fail

PROG = "semigradient.domains.music"


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        report = run(_parser().parse_args(arguments))
    except UserError as problem:
        fail(problem, PROG)
    for order in ("random", "chronological"):
        if order in report.get("framewise_nll", {}):
            nll = report["framewise_nll"][order]
            print(f"{order:13s} {nll['mean']:.3f} ± {nll['sem']:.3f} nats per frame")
    for file in report.get("pieces", ()):
        print(f"piece {file}")
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Render and score by the options; writes `music.json` into the run folder."""
    for name in ("render", "likelihood", "gibbs_steps", "seed"):
        value = getattr(options, name)
        require(value >= 0, f"--{name.replace('_', '-')} {value}: must be ≥ 0")
    requested = options.render or options.likelihood
    require(bool(requested), "nothing to do: accepted are --render N, --likelihood N or both")
    folder = Path(options.run)
    require(folder.is_dir(), f"run {str(folder)!r}: no such folder; accepted is a run folder")
    from semigradient.domains.music import composing
    from semigradient.training.loaded_run import load_run
    from semigradient.training.run import write_json

    agent = load_run(folder, options.device, options.trust).agent
    composing.require_composer(agent)
    report: dict[str, Any] = {"seed": options.seed}
    if options.render:
        target = folder / "pieces"
        target.mkdir(exist_ok=True)
        count, task, seed = options.render, options.task, options.seed
        scores = composing.given(agent, task, options.score or "", count, seed, options.split)
        files = composing.render(target, agent, scores, options.gibbs_steps, seed)
        report["pieces"] = [str(file) for file in files]
    if options.likelihood:
        count = options.likelihood
        report["framewise_nll"] = composing.likelihoods(agent, count, options.seed, options.split)
    write_json(folder / "music.json", report)
    return report


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROG, description=__doc__, formatter_class=text)
    add = parser.add_argument
    add("run", help="run folder of a coconet")
    add("--render", nargs="?", const=4, default=0, type=int, metavar="N", help="write N pieces")
    add("--task", default="scratch", help="which notes are given (default: scratch)")
    add("--score", help="MIDI or MusicXML file with the given notes")
    add("--gibbs-steps", type=int, default=0, help="default: one for each note")
    add("--likelihood", nargs="?", const=8, default=0, type=int, metavar="N", help="of N pieces")
    add("--split", default="test", help="of the pieces (default: test)")
    add("--seed", type=int, default=0, help="of crops, orderings and draws (default: 0)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--trust", action="store_true", help="take code that the run's files name as module:Name")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
