"""Pictures of the observers' results: numbers over the run, and profiles that change with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semigradient.training.logging import read_metrics


def draw(folder: Path, names: list[str]) -> list[Path]:
    """Draw one picture for each diagnostic with results; returns their paths.

    Reads `metrics.jsonl` and `diagnostics.jsonl` in `folder`, writes `diagnostics/NAME.png`.
    """
    scalars = read_metrics(folder / "metrics.jsonl")
    profiles = read_metrics(folder / "diagnostics.jsonl")
    paths = []
    for name in names:
        numbers = _numbers(scalars, name)
        shapes = [row for row in profiles if row["diagnostic"] == name]
        if numbers or shapes:
            path = folder / "diagnostics" / f"{name.replace(':', '-')}.png"
            path.parent.mkdir(exist_ok=True)
            _picture(name, numbers, shapes, path)
            paths.append(path)
    return paths


def _numbers(rows: list[dict[str, Any]], name: str) -> dict[str, list[tuple[int, float]]]:
    prefix = f"diagnose/{name}/"
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith(prefix):
                curves.setdefault(key.removeprefix(prefix), []).append((row["step"], value))
    return curves


def _picture(
    name: str,
    numbers: dict[str, list[tuple[int, float]]],
    profiles: list[dict[str, Any]],
    path: Path,
) -> None:
    # Without pyplot: no window, no global state, and no figure that stays open.
    from matplotlib.figure import Figure

    width = 2 if numbers and profiles else 1
    figure = Figure(figsize=(6.5 * width, 4.2), layout="constrained")
    axes = list(figure.subplots(1, width, squeeze=False)[0])
    figure.suptitle(name)
    if numbers:
        _draw_numbers(axes.pop(0), numbers)
    if profiles:
        _draw_profiles(axes.pop(0), profiles)
    temporary = path.with_name(f".tmp-{path.name}")
    figure.savefig(temporary, dpi=100, format="png")
    temporary.replace(path)


def _draw_numbers(axis: Any, numbers: dict[str, list[tuple[int, float]]]) -> None:
    for key, points in numbers.items():
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, marker=".", label=key)
    axis.set_xlabel("environment steps")
    # Linear about zero: parts of one quantity differ by orders of magnitude, and in sign.
    sizes = [abs(v) for points in numbers.values() for _, v in points if v]
    if sizes and max(sizes) > 100 * min(sizes):
        axis.set_yscale("symlog", linthresh=max(min(sizes), 1e-4 * max(sizes)))
    axis.legend(fontsize=7)


def _draw_profiles(axis: Any, profiles: list[dict[str, Any]]) -> None:
    """The first curve of each measurement, early ones pale and the last one dark."""
    from matplotlib import colormaps

    key = next(iter(profiles[-1]["curves"]))
    first, last = profiles[0]["step"], profiles[-1]["step"]
    for row in profiles:
        age = (row["step"] - first) / (last - first) if last > first else 1.0
        label = f"step {row['step']}" if row["step"] in (first, last) else None
        points = [
            (x, y) for x, y in zip(row["x"], row["curves"][key], strict=True) if y is not None
        ]
        if points:
            xs, ys = zip(*points, strict=True)
            axis.plot(xs, ys, color=colormaps["viridis_r"](0.15 + 0.85 * age), lw=1, label=label)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set_xlabel(profiles[-1]["axis"])
    axis.set_ylabel(key)
    axis.legend(fontsize=7)
