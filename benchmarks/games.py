"""Exact values and learning rules of repeated matrix games: milliseconds for many pairs at once.

    python -m semigradient.benchmarks.games --pairs 4096 --threads 2

The baseline of the closed form is the same value by `torch.linalg.solve`. Reported is the fastest
of many repetitions, which is least affected by other processes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from semigradient.domains.games.rules import rule
from semigradient.envs.games.matrix_games import SEEN_BY_OTHER, MatrixGame
from semigradient.training import process


def solved(game: MatrixGame, x: Tensor) -> Tensor:
    """The value (…, 2) of logits (…, 2, 5) by a linear system for each pair."""
    p, q = torch.sigmoid(x).unbind(-2)
    q = q[..., list(SEEN_BY_OTHER)]
    joint = torch.stack((p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)), -1)
    system = torch.eye(4, dtype=x.dtype) - game.discount * joint[..., 1:, :]
    start = (1 - game.discount) * joint[..., 0, :]
    return torch.linalg.solve(system.mT, start) @ game.payoff.T.to(x)


def with_gradient(value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of the first player's value by both policies."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(value(x)[..., 0].sum(), x)[0]


def best(work: Callable[[], object], seconds: float) -> float:
    """Milliseconds of the fastest of many repetitions."""
    work()
    fastest, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - begin)
    return 1e3 * fastest


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="semigradient.benchmarks.games", description=__doc__)
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=2.0, help="per line")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(argv)
    process.prepare(chosen.threads)
    game = MatrixGame()
    draw = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        x = game.draw(chosen.pairs, draw).to(dtype)
        lines: dict[str, Callable[[], object]] = {
            "value": lambda x=x: game.value(x),  # type: ignore[misc]
            "value and gradient": lambda x=x: with_gradient(game.value, x),  # type: ignore[misc]
            "the same by linalg.solve": lambda x=x: with_gradient(  # type: ignore[misc]
                lambda y: solved(game, y), x
            ),
            "LOLA update of one player": lambda x=x: rule("lola", 25.0)(game, x, 0),  # type: ignore[misc]
        }
        for name, work in lines.items():
            spent = best(work, chosen.seconds)
            print(f"{str(dtype)[6:]}  {chosen.pairs} pairs  {name:26s} {spent:8.2f} ms", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
