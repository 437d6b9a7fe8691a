"""Compare optimizers × agents × environments × seeds, with intervals.

    python compare.py --agent ddqn --optim adam:lr=1e-4,3e-4,1e-3 rmsprop --env ALE/Pong-v5

Trains and evaluates every cell in its own run folder, then writes tables, figures and `report.md`.
Of an optimizer with several values, the best setting is chosen on tuning seeds of its own.
Repeating the command continues an interrupted comparison. Flags after `--` go to `train.py`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from semigradient.errors import UserError, require
from semigradient.experiments import comparison as comparisons
from semigradient.experiments import tuning
from semigradient.experiments.cells import Cell, Commands, Run
from semigradient.experiments.comparison import Comparison
from semigradient.experiments.engines import ENGINES, INTERRUPTED, Engine, Result, run_all
from semigradient.experiments.seed_batches import SeedBatch, can_learn_as_one, grouped
from semigradient.experiments.settings import DEFAULT_OPTIMIZER, read_grid

ROOT = Path(__file__).resolve().parent
COMMANDS = Commands.of(ROOT / "train.py", ROOT / "evaluate.py", ours=True)
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
        "own (default)\nNAME:KEY=VALUE,VALUE,… tries all values and compares the best"
    )
    add("--optim", nargs="+", default=[DEFAULT_OPTIMIZER], metavar="NAME", help=text)
    add("--env", nargs="+", default=[], metavar="ID", help="environments to train on")
    add("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N-1 (5)")
    add("--seed-list", nargs="+", type=int, metavar="SEED", help="these seeds instead")
    tune = f"seeds that settings are chosen on, from {tuning.FIRST_SEED} ({tuning.DEFAULT_SEEDS})"
    add("--tune-seeds", type=int, metavar="N", help=tune)
    add("--steps", type=int, metavar="N", help="environment steps of each run (the agent's own)")
    add("--episodes", type=int, default=100, metavar="N", help="evaluation episodes per run (100)")
    add("--out", type=Path, metavar="DIR", help="output folder (comparisons/AGENTS-OPTIMS)")
    text = "a process for each seed, also where seeds could learn as one (docs/stacks.md)"
    add("--separate", action="store_true", help=text)
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
    for flag in ("seeds", "tune_seeds", "episodes", "steps"):
        value = getattr(options, flag)
        is_valid = value is None or value >= 1
        require(is_valid, f"--{flag.replace('_', '-')} {value}: must be at least 1")
    require(
        options.seeds <= comparisons.MOST_RUNS,
        f"--seeds {options.seeds}: must be at most {comparisons.MOST_RUNS}",
    )
    comparisons.check_flags(options.extra)
    comparisons.check_names(options.agent, options.optim, options.env)
    require(
        options.tune_seeds is None or _is_swept(options),
        f"--tune-seeds {options.tune_seeds}: no --optim has several values",
    )
    comparisons.check_seeds(options.seed_list or (), _tune_seeds(options))


def _tune_seeds(options: argparse.Namespace) -> range:
    """The seeds to choose settings on; none without a grid."""
    count = options.tune_seeds or tuning.DEFAULT_SEEDS
    return tuning.seeds(count if _is_swept(options) else 0)


def _is_swept(options: argparse.Namespace) -> bool:
    """Whether an optimizer has several values of an option."""
    return any(read_grid(text).swept for text in options.optim)


def run(options: argparse.Namespace, command: str, commands: Commands) -> Comparison:
    """Run the cells that are not done, those that settings are chosen by first."""
    validate(options)
    engine = Engine(**{field: getattr(options, field) for field in ENGINE_FIELDS})
    seeds = options.seed_list or range(options.seeds)
    cells = comparisons.grid(options.agent, options.optim, options.env, seeds)
    steps = [] if options.steps is None else ["--steps", str(options.steps)]
    name = "-".join(dict.fromkeys([*options.agent, *options.optim]))
    name = "".join("-" if character in ":/," else character for character in name)[:200]
    out = folder("--out", options.out or Path("comparisons") / name)
    flags = [*steps, *options.extra]
    tune_seeds = _tune_seeds(options)
    comparison = comparisons.prepare(out, cells, flags, options.episodes, command, tune_seeds)
    # torch reads its number of threads from the flag, other libraries from the environment.
    train = (*commands.train, "--threads", str(options.threads))
    work = _Work(comparison, engine, replace(commands, train=train), cells, not options.separate)
    if commands.ours and work.ended < work.total:
        check_cells(comparison, cells)
    comparison.save()
    work.do()
    return comparison


def folder(flag: str, path: Path) -> Path:
    """The absolute path of a folder that may not be there yet.

    Raises:
        UserError: something else is there, or no folder can have such a name.
    """
    try:
        whole = path.resolve()
        is_valid = whole.is_dir() or not whole.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{flag} {str(path)[:80]!r}: {error}") from error
    require(is_valid, f"{flag} {str(path)!r}: is a file; accepted is a folder")
    return whole


class _Work:
    """The runs of some cells of a comparison, in the order in which they can be known."""

    def __init__(
        self,
        comparison: Comparison,
        engine: Engine,
        commands: Commands,
        cells: Sequence[Cell],
        together: bool,
    ) -> None:
        self.comparison, self.engine, self.commands = comparison, engine, commands
        self.cells, self.together = cells, together
        trials = [run for choice in comparison.choices(cells).values() for run in choice.runs]
        self.tuning = {run.cell.name: run for run in trials}
        self.total = len(self.tuning) + len(cells)
        self.ended = sum(run.done for run in [*self.tuning.values(), *self._scored().values()])

    def do(self) -> None:
        """Run them all; those for tuning first, side by side with what needs no tuning."""
        print(f"{self.comparison.out}: {self.total} runs, {self.ended} done already", flush=True)
        tuned = {run.cell.name for run in self._chosen()}
        plain = {name: run for name, run in self._scored().items() if name not in tuned}
        self._run({**self.tuning, **plain})
        for choice in self.comparison.choices(self.cells).values():
            print("\n".join(choice.lines()), flush=True)
        self._run({name: run for name, run in self._scored().items() if name not in plain})

    def _scored(self) -> dict[str, Run]:
        """The runs to be scored, as far as their settings are chosen, each once."""
        runs = (run for _, run in self.comparison.scored(self.cells) if run is not None)
        return {run.cell.name: run for run in runs}

    def _chosen(self) -> list[Run]:
        """Those whose settings were chosen from a grid."""
        pairs = self.comparison.scored(self.cells)
        return [run for cell, run in pairs if run is not None and run.cell != cell]

    def _run(self, runs: dict[str, Run]) -> None:
        waiting = [run for run in runs.values() if not run.done]
        left: list[Run] = []
        for members, result in self._results(self._units(waiting)):
            # Where one seed fails, the others are trained, but their batch ends there.
            is_over = len(members) > 1 and not result.again
            unscored = [run for run in members if is_over and run.finished and not run.done]
            left += unscored
            self.ended += (len(members) - len(unscored)) * (not result.again)
            self._say(members, result)
        for members, result in self._results(left):
            self.ended += not result.again
            self._say(members, result)

    def _results(
        self, units: Sequence[Run | SeedBatch]
    ) -> Iterator[tuple[tuple[Run, ...], Result]]:
        """The runs of each unit, with how its job ended."""
        by_name = {unit.name: unit for unit in units}
        for result in run_all([unit.job(self.commands) for unit in units], self.engine):
            unit = by_name[result.name]
            yield unit.runs if isinstance(unit, SeedBatch) else (unit,), result

    def _say(self, members: Sequence[Run], result: Result) -> None:
        reasons = [run.standing()[1] for run in members if not run.finished or len(members) == 1]
        words = next(filter(None, reasons), result.message)
        end = f"failed: {words}" if result.returncode else "done"
        more = "; runs once more" if result.again else ""
        place = f"[{self.ended}/{self.total}] {result.name}"
        print(f"{place} {end}{more} ({result.seconds:.0f} s)", flush=True)

    def _units(self, runs: Sequence[Run]) -> Sequence[Run | SeedBatch]:
        """What one job trains: a run, or the seeds of a setting as one."""
        if not (self.commands.ours and self.together):
            return runs
        flags = self.comparison.flags
        known: dict[str, bool] = {}

        def accepts(cell: Cell) -> bool:
            if cell.base not in known:
                known[cell.base] = can_learn_as_one(cell, flags)
            return known[cell.base]

        at_a_time = self.engine.local_slots if self.engine.name == "local" else 1
        return grouped(runs, accepts, at_a_time)


def check_cells(comparison: Comparison, cells: Sequence[Cell]) -> None:
    """Build every agent with every setting in every environment once, as its runs will.

    Raises:
        UserError: the first that cannot be built, in one line.
    """
    settings = [cell for cell in _settings(cells) if not comparison.run(cell).done]
    if not settings:
        return
    from semigradient.diagnostics.attach import Attachment
    from semigradient.training import cli
    from semigradient.training.build import build

    for cell in settings:
        what = f"{cell.agent} with {cell.optim} on {cell.env}"
        try:
            command = cli.parse([*cell.flags, *comparison.flags]).command
            local = replace(command, run=replace(command.run, device="cpu"))
            agent = build(local, learning=False)
            if command.run.diagnose:
                Attachment(local.run, agent)
            agent.setup.envs.close()
        except Exception as error:
            lines = str(error).splitlines() or [""]
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            raise UserError(f"{what}: {kind}{lines[0]}") from error
        except SystemExit:
            raise UserError(f"{what}: the flags after -- ask for help, not for a run") from None


def _settings(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each agent, setting and environment."""
    first = cells[0].seed
    return [
        replace(cell, optim=setting)
        for cell in cells
        if cell.seed == first
        for setting in read_grid(cell.optim).settings
    ]


def report(comparison: Comparison) -> int:
    """Write the report; 1 if it lists runs that are not done."""
    from semigradient.experiments.comparison_report import write_report

    failed = sum(outcome.status != "done" for outcome in write_report(comparison))
    failed += sum(len(choice.missing) for choice in comparison.choices().values())
    print(f"{comparison.out / 'report.md'}: {failed} runs are not done")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None, commands: Commands = COMMANDS) -> int:
    """Run the command line; the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        options = parse(argv)
        if options.report_only is not None:
            return report(comparisons.load(folder("--report-only", options.report_only)))
        return report(run(options, shlex.join(["python", "compare.py", *argv]), commands))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
