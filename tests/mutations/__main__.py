"""`python -m tests.mutations [LIST …]`: break the code in every kept way and watch the tests."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .lists import mutations
from .running import check, copy_checkout


def main(names: list[str]) -> int:
    """Check the mutations of the named lists, or of all; 1 where one is not seen."""
    chosen = mutations(tuple(names))
    unseen = 0
    with tempfile.TemporaryDirectory() as folder:
        for mutation, problem in check(copy_checkout(Path(folder)), chosen):
            unseen += bool(problem)
            print(f"{'ALIVE' if problem else 'seen '} {mutation.name}: {mutation.breaks}")
            if problem:
                print(problem)
            sys.stdout.flush()
    print(f"{len(chosen) - unseen} of {len(chosen)} mutations are seen")
    return int(unseen > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
