"""Time per training iteration of `gflownet` and of torchgfn, and the total variation of both.

    python -m semigradient.benchmarks.gflownet_speed --peer VENV/bin/python --loss tb fm

The peer runs in a separate Python (`pip install torchgfn "numpy<2"`). Both learners exist for the
entire measurement and alternate every few iterations, on the same grid (exit_only, the peer's
rule), with the same network, batch, optimizer and threads. An iteration samples a batch on-policy
and takes a gradient step. Reported are wall-clock time and processor time, which is less sensitive
to other load on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.api import make_agent
from semigradient.benchmarks.peer_process import PeerProcess
from semigradient.errors import UserError
from semigradient.training import process
from semigradient.training.cli import fail


class Ours:
    """Our learner; the exact evaluation is not timed."""

    def __init__(self, loss: str, dimensions: int, chosen: argparse.Namespace) -> None:
        agent = make_agent(
            "gflownet",
            "semigradient/HyperGrid-v0",
            optim_options={"lr": 1e-3},
            env_options={
                "dimensions": dimensions,
                "height": chosen.height,
                "rule": "exit_only",
            },
            loss=loss,
            batch_size=chosen.batch,
            exact_every=0,
            threads=chosen.threads,
            seed=chosen.seed,
        )
        assert isinstance(agent, GFlowNet)
        self.agent = agent

    def run(self, iterations: int) -> list[float]:
        """Seconds of wall clock and of processor time."""
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(iterations):
            self.agent.iterate()
        return [time.perf_counter() - wall, time.process_time() - processor]

    def total_variation(self) -> float:
        """Exact total variation."""
        return self.agent.evaluate()["tv"]


class Theirs(PeerProcess):
    """The peer's process."""

    def __init__(self, loss: str, dimensions: int, chosen: argparse.Namespace) -> None:
        numbers = (dimensions, chosen.height, chosen.batch, chosen.seed, chosen.threads)
        super().__init__("--peer", chosen.peer, "torchgfn_peer.py", loss, *numbers)

    def run(self, iterations: int) -> list[float]:
        """Seconds of wall clock and of processor time, by the peer's own clock."""
        return list(self.ask(str(iterations)))

    def total_variation(self) -> float:
        """Exact total variation."""
        return float(self.ask("tv"))


def compare(loss: str, dimensions: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Run both in turns for all trajectories; milliseconds per iteration, and total variation."""
    learners: dict[str, Any] = {"ours": Ours(loss, dimensions, chosen)}
    if chosen.peer:
        learners["torchgfn"] = Theirs(loss, dimensions, chosen)
    times: dict[str, list[list[float]]] = {name: [] for name in learners}
    updates = chosen.trajectories // chosen.batch
    for turn in range(max(2, updates // chosen.turn)):
        for name, learner in learners.items():
            spent = learner.run(chosen.turn)
            if turn > 0:  # the first turn is a warm-up
                times[name].append([1000 * seconds / chosen.turn for seconds in spent])
    row: dict[str, Any] = {"loss": loss, "dimensions": dimensions, "height": chosen.height}
    row |= {"batch": chosen.batch, "threads": chosen.threads, "updates": updates}
    for name, learner in learners.items():
        wall, processor = zip(*times[name], strict=True)
        row[name] = {
            "wall_ms": statistics.median(wall),
            "cpu_ms": statistics.median(processor),
            "tv": learner.total_variation(),
        }
        if isinstance(learner, Theirs):
            learner.close()
    return row


def report(row: dict[str, Any]) -> str:
    """The row as text."""
    lines = [f"{row['loss']} {row['dimensions']}-D H={row['height']}, batch {row['batch']}"]
    for name in ("ours", "torchgfn"):
        if name in row:
            it = row[name]
            lines.append(
                f"  {name:9s} {it['wall_ms']:8.2f} ms wall {it['cpu_ms']:8.2f} ms processor per "
                f"iteration; exact TV {it['tv']:.4f} after {row['updates']} updates"
            )
    if "torchgfn" in row:
        ratios = [row["torchgfn"][key] / row["ours"][key] for key in ("wall_ms", "cpu_ms")]
        lines.append(f"  ratio     {ratios[0]:8.2f}    wall {ratios[1]:8.2f}    processor")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    chosen = _parser().parse_args(argv)
    process.prepare(chosen.threads)
    rows = []
    try:
        for dimensions in chosen.dimensions:
            for loss in chosen.loss:
                rows.append(compare(loss, dimensions, chosen))
                print(report(rows[-1]), flush=True)
    except UserError as problem:
        fail(problem, "semigradient.benchmarks.gflownet_speed")
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="semigradient.benchmarks.gflownet_speed", description=__doc__
    )
    parser.add_argument("--peer", default="", help="a Python with torchgfn; default: ours alone")
    parser.add_argument("--loss", nargs="+", default=["tb", "fm"], choices=("tb", "fm"))
    parser.add_argument("--dimensions", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--height", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--trajectories", type=int, default=32_000)
    parser.add_argument("--turn", type=int, default=5, help="iterations per turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="JSON file for the rows")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
