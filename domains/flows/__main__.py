"""Objects drawn from a trained flow network, as a table, and how good the sampler is.

    python -m semigradient.domains.flows runs/<gflownet run> --samples 1000

The table, samples.csv in the run folder unless --out names another file, has the columns object
(SMILES for molecules), score, log_reward (log R^β) and log_prob (log P_F of the object).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from semigradient.errors import UserError, require
from semigradient.training.cli import fail

if TYPE_CHECKING:
    from semigradient.domains.flows.samples import Samples

PROG = "semigradient.domains.flows"


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        samples, path = run(options)
    except UserError as problem:
        fail(problem, PROG)
    print("\n".join([*lines(samples), f"objects                 {path}"]))
    return 0


def run(options: argparse.Namespace) -> tuple[Samples, Path]:
    """Draw by the options and write the table."""
    for name in ("samples", "seed", "paths"):
        value, least = getattr(options, name), int(name == "samples")
        require(value >= least, f"--{name} {value}: must be ≥ {least}")
    folder = Path(options.run)
    require(folder.is_dir(), f"run {str(folder)!r}: no such folder; accepted is a run folder")
    path = Path(options.out) if options.out else folder / "samples.csv"
    where = path.parent
    require(where.is_dir(), f"--out {str(path)!r}: there is no folder {str(where)!r}")
    require(not path.is_dir(), f"--out {str(path)!r}: is a folder")
    from semigradient.training.loaded_run import load_run

    loaded = load_run(folder, options.device, options.trust)
    samples: Samples = loaded.sample(
        options.samples, options.seed, options.paths, options.condition
    )
    samples.write(path)
    return samples, path


def lines(samples: Samples) -> list[str]:
    """What is printed about samples: exact figures, and estimates that are named as such."""
    how = "exact" if samples.enumerated else "estimated from the samples"
    prob = "exact" if samples.exact else "importance estimates from backward constructions"
    notes = {
        "distinct": f"of {len(samples.objects)}",
        "top_10": "mean score of the 10 best distinct objects",
        "top_100": "mean score of the 100 best distinct objects",
        "diversity": "mean distance within the 100 best distinct objects",
        "log_z_network": "what the network says",
        "elbo": f"{how}; at most log Z",
        "log_z": how,
        "eubo": f"{how}; at least log Z" if samples.enumerated else how,
        "tv": "exact total variation from R^β / Z",
    }
    found = [
        f"{name:<16}{value:>12.6g}  {notes.get(name, '')}".rstrip()
        for name, value in samples.figures.items()
    ]
    return [*found, f"log P of objects        {prob}"]


def _parser() -> argparse.ArgumentParser:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROG, description=__doc__, formatter_class=text)
    add = parser.add_argument
    add("run", help="run folder of a gflownet")
    add("--samples", type=int, default=1000, metavar="N", help="objects (default: 1000)")
    add("--out", help="file of the table (default: samples.csv in the run folder)")
    add("--seed", type=int, default=0, help="of the draws (default: 0)")
    add(
        "--paths",
        type=int,
        default=0,
        metavar="K",
        help="estimate log P from K backward constructions of each object (default: exact where "
        "feasible, else 32)",
    )
    add("--condition", type=float, help="β, or a weight, where a range of it was learned")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--trust", action="store_true", help="take code that the run's files name as module:Name")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
