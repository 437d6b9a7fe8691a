"""Reproduce one published figure or table.

    python reproduce.py list
    python reproduce.py mountain-car-online --scale quick --out DIR [--seeds N] [--check]

Prints each published claim beside what was measured and whether they agree, and writes
`result.json` and `figure.png` to DIR. `quick` fits two cores in ten minutes, `full` is the
published scale. With --check, disagreement of a required
row is exit code 1. The same command again goes on where
it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from semigradient import reproductions
from semigradient.errors import UserError, require, unknown
from semigradient.experiments.engines import INTERRUPTED
from semigradient.training.cli import fail


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (reproduce.py --help lists the flags)")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = _Parser("reproduce.py", None, __doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("name", metavar="NAME", help="a reproduction, or 'list'")
    add("--scale", default="quick", metavar="SCALE", help="quick or full (quick)")
    add("--out", type=Path, metavar="DIR", help="where the result goes (reproduced/NAME-SCALE)")
    add("--seeds", type=int, metavar="N", help="seeds 0 to N-1 (the reproduction's own)")
    add("--folder", default="", metavar="DIR", help="published data files, where a full scale asks")
    add("--threads", type=int, default=1, metavar="N", help="threads; more seldom help (1)")
    add("--check", action="store_true", help="exit with 1 if anything disagrees")
    return parser.parse_args(argv)


def list_all() -> None:
    """Print every name with its title and seeds."""
    for name in reproductions.names():
        found = reproductions.get(name)
        seeds = ", ".join(f"{scale} {count} seeds" for scale, count in found.seeds.items())
        print(f"{name}\n    {found.title} ({seeds})")


def run(options: argparse.Namespace) -> bool:
    """Run one reproduction, write and print it; whether everything agrees."""
    found = reproductions.get(options.name)
    if options.scale not in reproductions.SCALES:
        unknown("scale", options.scale, reproductions.SCALES)
    seeds = found.seeds[options.scale] if options.seeds is None else options.seeds
    # Every claim rests on a test between two groups: one run has no spread.
    require(seeds >= 2, f"--seeds {seeds}: must be at least 2")
    require(options.threads >= 1, f"--threads {options.threads}: must be at least 1")
    out = options.out or Path("reproduced") / f"{found.name}-{options.scale}"

    from semigradient.reproductions import report as reports
    from semigradient.training import process

    # The products of small networks are over before a second thread has woken up.
    process.prepare(options.threads)
    reports.prepare(out)
    say = partial(print, flush=True)
    job = reports.Job(options.scale, seeds, out, options.folder, say)
    answer = found.reproduce(job)
    reports.write(answer, job, found.name, found.title)
    agreeing = sum(row.agrees for row in answer.rows)
    required = [row.agrees for row in answer.rows if row.required]
    print(f"\n{found.title}\n\n{reports.table(answer.rows)}\n")
    print(f"{agreeing} of {len(answer.rows)} agree; {job.seconds:.0f} s; {out / 'result.json'}")
    if len(required) < len(answer.rows):
        print(f"required: {sum(required)} of {len(required)}; the others are shown beside them")
    return all(required)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        if options.name == "list":
            list_all()
            return 0
        agrees = run(options)
    except UserError as problem:
        fail(problem, "reproduce.py")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 1 if options.check and not agrees else 0


if __name__ == "__main__":
    sys.exit(main())
