"""Reproduce one published figure or table.

    python reproduce.py list
    python reproduce.py record --out DIR
    python reproduce.py evidence
    python reproduce.py mountain-car-online --scale quick --out DIR [--seeds N] [--check]

Prints each published claim with the measured value and whether they agree, and writes
`result.json` and `figure.png` to DIR. `quick` takes at most ten minutes on two cores, `full` is the
published scale. With --check, the exit code is 1 if a required row disagrees. Repeating the command
continues an interrupted run. `record` keeps the result in DIR in the checkout (docs/evidence) and
writes docs/evidence.md anew, as `evidence` does.
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
    add("name", metavar="NAME", help="a reproduction, 'list', 'record' or 'evidence'")
    add("--scale", default="quick", metavar="SCALE", help="quick or full (quick)")
    add("--out", type=Path, metavar="DIR", help="output folder (reproduced/NAME-SCALE)")
    add("--seeds", type=int, metavar="N", help="seeds 0 to N-1 (default: by reproduction)")
    add("--folder", default="", metavar="DIR", help="published data files, where required")
    add("--threads", type=int, default=1, metavar="N", help="torch threads; more rarely help (1)")
    add("--check", action="store_true", help="exit with 1 if a required row disagrees")
    return parser.parse_args(argv)


def list_all() -> None:
    """Print every name with its title and seeds."""
    for name in reproductions.names():
        reproduction = reproductions.get(name)
        seeds = ", ".join(f"{scale} {count} seeds" for scale, count in reproduction.seeds.items())
        print(f"{name}\n    {reproduction.title} ({seeds})")


def write_evidence(out: Path | None) -> None:
    """Record the result in `out`, if given, and write the page of evidence anew."""
    from semigradient.reproductions import evidence

    if out is not None:
        print(evidence.record(out))
    path = evidence.DOCS / "evidence.md"
    require(path.parent.is_dir(), f"{path.parent}: is missing; run in a checkout")
    path.write_text(evidence.page(evidence.records()), encoding="utf-8")
    print(path)


def run(options: argparse.Namespace) -> bool:
    """Run one reproduction, write and print its report; return whether all required rows agree."""
    reproduction = reproductions.get(options.name)
    if options.scale not in reproductions.SCALES:
        unknown("scale", options.scale, reproductions.SCALES)
    seeds = reproduction.seeds[options.scale] if options.seeds is None else options.seeds
    # Every claim is tested across seeds: one run has no spread.
    require(seeds >= 2, f"--seeds {seeds}: must be at least 2")
    is_folder = not options.folder or Path(options.folder).is_dir()
    require(
        is_folder, f"--folder {options.folder!r}: no such folder; accepted is one of data files"
    )
    require(options.threads >= 1, f"--threads {options.threads}: must be at least 1")
    out = options.out or Path("reproduced") / f"{reproduction.name}-{options.scale}"

    from semigradient.reproductions import report as reports
    from semigradient.training import process

    # Matrix products of small networks are too short for a second thread.
    process.prepare(options.threads)
    reports.prepare(out)
    say = partial(print, flush=True)
    job = reports.Job(options.scale, seeds, out, options.folder, say)
    answer = reproduction.reproduce(job)
    reports.write(answer, job, reproduction.name, reproduction.title)
    agreeing = sum(row.agrees for row in answer.rows)
    required = [row.agrees for row in answer.rows if row.required]
    print(f"\n{reproduction.title}\n\n{reports.table(answer.rows)}\n")
    print(f"{agreeing} of {len(answer.rows)} agree; {job.seconds:.0f} s; {out / 'result.json'}")
    if len(required) < len(answer.rows):
        print(f"required: {sum(required)} of {len(required)}; the others are not required")
    return all(required)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        if options.name == "list":
            list_all()
            return 0
        if options.name in ("record", "evidence"):
            given = options.out is not None
            require(given or options.name == "evidence", "record needs --out, the folder to keep")
            write_evidence(options.out if options.name == "record" else None)
            return 0
        agrees = run(options)
    except UserError as problem:
        fail(problem, "reproduce.py")
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return INTERRUPTED
    return 1 if options.check and not agrees else 0


if __name__ == "__main__":
    sys.exit(main())
