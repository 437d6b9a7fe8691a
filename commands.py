"""The console script: semigradient train|evaluate|compare|reproduce, equivalent to the scripts.

`semigradient sample` is `python -m semigradient.domains.flows`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from semigradient.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from semigradient.training.loop import Loop, Outcome

COMMANDS = ("train", "evaluate", "compare", "reproduce")
MODULES = {"sample": "semigradient.domains.flows.__main__"}
"""Commands that are no script of their own."""
_USAGE = f"usage: semigradient {'|'.join([*COMMANDS, *MODULES])} …  (each has its own --help)"


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first word names; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if words else 2
    name, *rest = words
    if name not in (*COMMANDS, *MODULES):
        try:
            unknown("command", name, [*COMMANDS, *MODULES])
        except UserError as problem:
            print(f"semigradient: error: {problem}", file=sys.stderr)
        return 2
    if name == "train":
        return train(rest)
    code: int = import_module(MODULES.get(name, f"semigradient.{name}")).main(rest)
    return code


def train(arguments: Sequence[str]) -> int:
    """Run the command line of `train.py`; returns the exit code."""
    from semigradient.training.console import forgiving

    with forgiving():
        return _train(arguments)


def _train(arguments: Sequence[str]) -> int:
    from semigradient.training.cli import fail, parse
    from semigradient.training.console import say

    try:
        invocation = parse(arguments)
        from semigradient.api import execute, execute_seeds

        if invocation.seeds:
            return _conclude(execute_seeds(invocation))
        outcome, loop = execute(invocation)
    except UserError as problem:
        fail(problem, "train.py")
    except KeyboardInterrupt:  # before training, or after it
        say("interrupted: nothing was trained", error=True)
        return 130
    return _report(outcome, loop)


def _conclude(ended: Sequence[tuple[Outcome, Loop]]) -> int:
    """Say how runs that learned as one ended; the first exit code that is not 0."""
    from semigradient.training.console import say

    codes = []
    for outcome, loop in ended:
        say(f"seed {loop.command.run.seed}:")
        codes.append(_report(outcome, loop))
    means = [loop.evaluation["mean"] for _, loop in ended if loop.evaluation]
    if means:
        mean = sum(means) / len(means)
        say(
            f"{len(means)} seeds: mean return {mean:.1f}, from {min(means):.1f} to {max(means):.1f}"
        )
    return next((code for code in codes if code), 0)


def _report(outcome: Outcome, loop: Loop) -> int:
    """Say how a run ended; its exit code."""
    from semigradient.training.console import say

    say(f"{outcome.status}: {outcome.message}", error=outcome.exit_code != 0)
    if loop.evaluation:
        mean, episodes = loop.evaluation["mean"], loop.evaluation["episodes"]
        known = "".join(f", {name} {value:.2f}" for name, value in loop.references.items())
        over = f"over {episodes:.0f} episodes{known}"
        say(f"evaluation: mean return {mean:.1f} {over}; run: {loop.folder}")
    if loop.further_scores:
        scores = [f"{name} {value:.2f}" for name, value in loop.further_scores.items()]
        say(f"matches, mean final returns: {', '.join(scores).replace('_', ' ')}")
    return outcome.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
