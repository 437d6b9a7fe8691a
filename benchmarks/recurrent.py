"""What a step of each recurrent gradient estimator costs, beside a forward pass, in one run.

    python -m semigradient.benchmarks.recurrent [--kind gru] [--hidden 64] [--examples 1]

Published orders for n units: backpropagation O(n²) a step and memory O(T n); real-time recurrent
learning O(n⁴) and O(n³); UORO O(n²) and O(n²); PreUORO O(n³) and O(n²). Every estimator gives the
gradient of every step's loss. `kept` counts the numbers in its state after 20 and 200 steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from semigradient.gradients.recurrent import Estimator, make
from semigradient.gradients.recurrent.unrolled import Network
from semigradient.nets.cells import CELLS, Headed, make_cell

BLOCK = 16
"""Steps that are timed together, since a step's cost depends on its place in a piece."""
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tbptt", {"length": 1}),
    ("tbptt", {"length": 16}),
    ("artbp", {"mean": 16.0}),
    ("uoro", {}),
    ("uoro", {"rank": 4}),
    ("uoro", {"memory": 16}),
    ("shaped-uoro", {}),
    ("preuoro", {}),
    ("nobacktrack", {}),
    ("rtrl", {}),
)


def numbers(stored: Any) -> int:
    """Elements of all tensors in a state."""
    if isinstance(stored, Tensor):
        return stored.numel()
    return sum(numbers(part) for part in stored.values())


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds of the fastest of `repeats` calls; other processes hardly count."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    """A line for each estimator that serves the cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="gru", choices=sorted(CELLS))
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--inputs", type=int, default=16)
    parser.add_argument("--examples", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cell = make_cell(arguments.kind, arguments.inputs, arguments.hidden)
    module = Headed(cell, arguments.inputs)
    x = torch.randn(arguments.examples, arguments.inputs)
    cotangent = torch.randn(arguments.examples, arguments.inputs)
    network = Network(module)
    rows = network.vector().expand(arguments.examples, -1)
    state = network.start(arguments.examples)

    def forward() -> None:
        with torch.no_grad():
            for _ in range(BLOCK):
                network.step(rows, x, state)

    base = seconds(forward, arguments.repeats) / BLOCK
    print(f"{arguments.kind}, {arguments.hidden} units, {network.parameters} parameters, "
          f"{arguments.examples} examples")  # fmt: skip
    print(f"{'a forward pass':<28}{1e3 * base:9.3f} ms      1.0")
    for name, options in CASES:
        label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
        try:
            estimator = make(name, module, arguments.examples, **options)
        except ValueError as problem:
            print(f"{label:<28}{problem}")
            continue
        print(f"{label:<28}{_measured(estimator, x, cotangent, base, arguments.repeats)}")


def _measured(estimator: Estimator, x: Tensor, cotangent: Tensor, base: float, repeats: int) -> str:
    kept = []
    for steps in (20, 180):
        for _ in range(steps):
            estimator.step(x)
        kept.append(numbers(estimator.state_dict()))

    def block() -> None:
        for _ in range(BLOCK):
            estimator.step(x)
            estimator.gradient(cotangent)

    spent = seconds(block, repeats) / BLOCK
    return f"{1e3 * spent:9.3f} ms {spent / base:8.1f}   kept {kept[0]} and {kept[1]}"


if __name__ == "__main__":
    main()
