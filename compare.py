"""Compare optimizers × agents × environments × seeds, with intervals.

    python compare.py --agent ddqn --optim adam rmsprop --env ALE/Pong-v5 --seeds 5

Trains and evaluates every cell in its own run folder, then writes tables, figures and `report.md`.
Repeating the command continues an interrupted comparison. Flags after `--` go to `train.py`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from semigradient.errors import UserError, require
from semigradient.experiments import comparison as comparisons
from semigradient.experiments.comparison import DEFAULT_OPTIMIZER, Commands, Comparison
from semigradient.experiments.engines import ENGINES, INTERRUPTED, Engine, run_all

ROOT = Path(__file__).resolve().parent
COMMANDS = Commands.of(ROOT / "train.py", ROOT / "evaluate.py")
ENGINE_FIELDS = ("name", "jobs", "threads", "ray_address", "cpus_per_run", "gpus_per_run")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (compare.py --help lists the flags)")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; flags after `--` are kept for `train.py`."""
    end = argv.index("--") if "--" in argv else len(argv)
    parser = _Parser("compare.py", None, __doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--agent", nargs="+", default=[], metavar="NAME", help="agents to compare")
    text = (
        f"optimizers to compare, NAME or NAME:KEY=VALUE,…; {DEFAULT_OPTIMIZER!r} is each agent's "
        "own (default)"
    )
    add("--optim", nargs="+", default=[DEFAULT_OPTIMIZER], metavar="NAME", help=text)
    add("--env", nargs="+", default=[], metavar="ID", help="environments to train on")
    add("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N-1 (5)")
    add("--seed-list", nargs="+", type=int, metavar="SEED", help="these seeds instead")
    add("--steps", type=int, metavar="N", help="environment steps of each run (the agent's own)")
    add("--episodes", type=int, default=100, metavar="N", help="evaluation episodes per run (100)")
    add("--out", type=Path, metavar="DIR", help="output folder (comparisons/AGENTS-OPTIMS)")
    add(
        "--report-only",
        type=Path,
        metavar="DIR",
        help="rebuild the report of DIR without running anything",
    )
    add(
        "--engine",
        dest="name",
        default="local",
        choices=list(ENGINES),
        help="where runs go (local)",
    )
    add("--jobs", type=int, metavar="N", help="concurrent runs (local: cores / threads; ray: all)")
    add("--threads", type=int, default=1, metavar="N", help="threads of each run (1)")
    add("--ray-address", metavar="ADDR", help="a Ray cluster, 'auto' or HOST:PORT (a local one)")
    add("--cpus-per-run", type=float, default=1.0, metavar="X", help="Ray: CPUs per run (1)")
    add("--gpus-per-run", type=float, default=0.0, metavar="X", help="Ray: GPUs per run (0)")
    options = parser.parse_args(argv[:end])
    options.extra = list(argv[end + 1 :])
    return options


def validate(options: argparse.Namespace) -> None:
    """Raise `UserError` for any error that is detectable before a run starts."""
    require(bool(options.agent and options.env), "name at least one --agent and one --env")
    for flag in ("seeds", "episodes", "steps"):
        value = getattr(options, flag)
        require(value is None or value >= 1, f"--{flag} {value}: must be at least 1")
    for seed in options.seed_list or ():
        require(seed >= 0, f"--seed-list {seed}: must be at least 0")
    comparisons.check_flags(options.extra)
    comparisons.check_names(options.agent, options.optim, options.env)


def run(options: argparse.Namespace, command: str, commands: Commands) -> Comparison:
    """Run the cells that are not done."""
    validate(options)
    engine = Engine(**{field: getattr(options, field) for field in ENGINE_FIELDS})
    seeds = options.seed_list or range(options.seeds)
    cells = comparisons.grid(options.agent, options.optim, options.env, seeds)
    steps = [] if options.steps is None else ["--steps", str(options.steps)]
    name = "-".join(dict.fromkeys([*options.agent, *options.optim])).replace(":", "-")
    out = (options.out or Path("comparisons") / name).resolve()
    flags = [*steps, *options.extra]
    comparison = comparisons.prepare(out, cells, flags, options.episodes, command)
    comparison.save()
    # torch reads its number of threads from the flag, other libraries from the environment.
    train = (*commands.train, "--threads", str(options.threads))
    commands = Commands(train, commands.evaluate)
    runs = {run.cell.name: run for run in comparison.runs() if run.cell in cells and not run.done}
    print(f"{out}: {len(cells)} runs, {len(cells) - len(runs)} done already", flush=True)
    jobs = [run.job(commands) for run in runs.values()]
    for count, result in enumerate(run_all(jobs, engine), 1):
        words = comparisons.outcome(comparison, runs[result.name]).message or result.message
        end = f"failed: {words}" if result.returncode else "done"
        print(f"[{count}/{len(jobs)}] {result.name} {end} ({result.seconds:.0f} s)", flush=True)
    return comparison


def report(comparison: Comparison) -> int:
    """Write the report; 1 if it lists runs that are not done."""
    from semigradient.experiments.comparison_report import write_report

    failed = sum(outcome.status != "done" for outcome in write_report(comparison))
    print(f"{comparison.out / 'report.md'}: {failed} runs are not done")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None, commands: Commands = COMMANDS) -> int:
    """Run the command line; the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        options = parse(argv)
        if options.report_only is not None:
            return report(comparisons.load(options.report_only.resolve()))
        return report(run(options, shlex.join(["python", "compare.py", *argv]), commands))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
