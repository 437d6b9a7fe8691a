"""The page of evidence: every published figure and table beside what was measured here.

    python reproduce.py record --out DIR    keep DIR/result.json as docs/evidence/NAME-SCALE.json
    python reproduce.py evidence            write docs/evidence.md

`catalogue/*.toml` lists the figures and tables of each document that report a result, with what
they claim and the reproduction that covers them; `docs/evidence/` holds the recorded results. The
page is made of the two and of nothing else. Numbers are written by the command that measured them,
never by hand.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semigradient.errors import UserError, require
from semigradient.experiments.methods_report import table_line
from semigradient.training.run import write_json

CATALOGUE = Path(__file__).parent / "catalogue"
DOCS = Path(__file__).parents[1] / "docs"
STATES = ("agrees", "disagrees", "not run", "not built")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A published figure or table that reports a result."""

    figure: str
    shows: str
    published: str
    """The published values, or what the document says of them."""
    reproduction: str = ""
    """Name of the reproduction that covers it; empty if nothing does."""
    rows: str = ""
    """Pattern that finds its rows by "source | quantity"; empty: all rows."""
    headline: str = ""
    """Pattern of the quantity that stands on the page; empty: the first required row."""
    note: str = ""
    """Cause of a disagreement, reason of a gap, and what was decided after seeing a number."""


@dataclass(frozen=True)
class Document:
    """A document, its figures with results, and those without."""

    document: str
    illustrations: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Finding:
    """What one recorded result says of a figure."""

    record: Record
    rows: tuple[Record, ...]
    headline: Record

    @property
    def agrees(self) -> bool:
        """Whether all required rows agree; without required rows, all of them."""
        return all(row["agrees"] for row in self.required or self.rows)

    @property
    def required(self) -> list[Record]:
        """The rows that --check asks for."""
        return [row for row in self.rows if row["required"]]


@functools.cache
def documents() -> tuple[Document, ...]:
    """The catalogue."""
    found = []
    for path in sorted(CATALOGUE.glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        figures = tuple(Figure(**figure) for figure in content.pop("figures"))
        found.append(Document(**content, figures=figures))
    return tuple(found)


def records(docs: Path = DOCS) -> dict[tuple[str, str], Record]:
    """The recorded results, by name and scale."""
    found = {}
    for path in sorted((docs / "evidence").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[content["name"], content["scale"]] = content
    return found


def record(out: Path, docs: Path = DOCS) -> Path:
    """Keep the result of a reproduction's folder in `docs/evidence`; its path there.

    Raises:
        UserError: there is no result in `out`, or its code was not committed.
    """
    try:
        content = json.loads((out / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"--out {str(out)!r}: has no result.json; accepted is the folder of a reproduction"
        ) from None
    commit = str(content["commit"])
    require(
        re.fullmatch(r"[0-9a-f]{7,}", commit) is not None,
        f"--out {str(out)!r}: made at commit {commit}; accepted is a result of committed code",
    )
    require((docs / "evidence").is_dir(), f"{docs / 'evidence'}: is missing; run in a checkout")
    name, scale = content["name"], content["scale"]
    hardware = content["hardware"]
    kept = {
        **{key: content[key] for key in ("name", "title", "scale", "seeds", "seconds")},
        "cpu_seconds": content["cpu_seconds"],
        "command": _command(name, scale, content["command"]),
        "commit": commit,
        "started": content["started"],
        "machine": f"{hardware['cpu']}, {hardware['gpu'] or 'no GPU'}",
        "versions": {key: content["versions"].get(key) for key in ("python", "torch", "numpy")},
        "rows": [_short(row) for row in content["rows"]],
    }
    path = docs / "evidence" / f"{name}-{scale}.json"
    write_json(path, kept)
    return path


def _command(name: str, scale: str, words: Sequence[str]) -> str:
    """The command without what belongs to one machine."""
    said = f"python reproduce.py {name} --scale {scale}"
    if "--seeds" in words:
        said += f" --seeds {words[words.index('--seeds') + 1]}"
    return f"{said} --folder DATA" if "--folder" in words else said


def _short(row: Record) -> dict[str, Any]:
    """A row with numbers of five digits."""
    return {
        key: float(f"{value:.5g}") if isinstance(value, float) else value
        for key, value in row.items()
    }


def findings(figure: Figure, found: Mapping[tuple[str, str], Record]) -> list[Finding]:
    """What is recorded of a figure, the largest scale first."""
    answers = []
    for scale in ("full", "quick"):
        content = found.get((figure.reproduction, scale))
        rows = tuple(row for row in content["rows"] if _concerns(figure, row)) if content else ()
        if content and rows:
            chosen = [row for row in rows if re.search(figure.headline, row["quantity"])]
            first = next((row for row in chosen if row["required"]), chosen[0])
            answers.append(Finding(content, rows, first))
    return answers


def _concerns(figure: Figure, row: Record) -> bool:
    return re.search(figure.rows, f"{row['source']} | {row['quantity']}") is not None


def state(figure: Figure, found: Mapping[tuple[str, str], Record]) -> str:
    """One of STATES; the largest recorded scale decides."""
    if not figure.reproduction:
        return "not built"
    answers = findings(figure, found)
    if not answers:
        return "not run"
    return "agrees" if answers[0].agrees else "disagrees"


def page(found: Mapping[tuple[str, str], Record]) -> str:
    """The text of docs/evidence.md."""
    states = Counter(state(figure, found) for part in documents() for figure in part.figures)
    agreeing, disagreeing, waiting, missing = (states[name] for name in STATES)
    counts = f"{agreeing} agree, {disagreeing} disagree, {waiting} not run, {missing} not built"
    ran = agreeing + disagreeing
    share = f"; of the {ran} that were run {agreeing / ran:.0%} agree" if ran else ""
    lines = [
        "# Evidence",
        "",
        "Every figure and table of the documents that reports a result, beside what was measured "
        "here. `python reproduce.py evidence` writes this page from the results in "
        "`docs/evidence/`, which `python reproduce.py record --out DIR` keeps, and from the "
        "catalogue in `reproductions/catalogue/`.",
        "",
        f"**{states.total()} results: {counts}{share}.**",
        "",
        "A figure agrees when all rows that `--check` requires of it agree (where none is "
        "required: when all do). Measured is one row with its 95 % interval over seeds, and how "
        "many rows agree; all rows are in the recorded result. The quick scale differs from the "
        "published one by what [reproductions.md](reproductions.md) lists.",
    ]
    for part in documents():
        lines += ["", f"## {part.document}", "", *_table(part, found)]
        lines += ["", f"Without a result: {part.illustrations}."]
    lines += ["", "## Rows that disagree", "", *_disagreeing(found)]
    lines += ["", "## Runs", "", *_runs(found)]
    return "\n".join(lines) + "\n"


def _table(part: Document, found: Mapping[tuple[str, str], Record]) -> list[str]:
    head = (
        "figure",
        "shows",
        "published",
        "measured",
        "seeds",
        "scale",
        "agreement",
        "command",
        "note",
    )
    lines = [table_line(head), table_line(["---"] * len(head))]
    for figure in part.figures:
        said = figure.figure, figure.shows, figure.published
        answers = findings(figure, found)
        for answer in answers:
            row, content = answer.headline, answer.record
            measured = f"{row['quantity']}: {interval(row)}"
            verdict = "agrees" if answer.agrees else "**disagrees**"
            scale = str(content["scale"])
            command = f"`{content['command']}`"
            cells = str(content["seeds"]), scale, f"{verdict}, {_shares(answer)}", command
            lines.append(table_line([*said, measured, *cells, figure.note]))
        if not answers:
            name = figure.reproduction
            command = f"`python reproduce.py {name}`" if name else ""
            lines.append(
                table_line([*said, "", "", "", state(figure, found), command, figure.note])
            )
    return lines


def _shares(answer: Finding) -> str:
    rows, required = answer.rows, answer.required
    share = f"{sum(row['agrees'] for row in rows)} of {len(rows)} rows"
    if len(required) == len(rows):
        return share
    return f"{sum(row['agrees'] for row in required)} of {len(required)} required, {share}"


def _disagreeing(found: Mapping[tuple[str, str], Record]) -> list[str]:
    head = "reproduction", "row", "published", "measured", "agrees if", "required"
    lines = [table_line(head), table_line(["---"] * len(head))]
    for (name, scale), content in found.items():
        lines += [
            table_line(
                [
                    f"{name}, {scale}",
                    row["quantity"],
                    f"{row['published']} ({row['source']})",
                    interval(row),
                    row["tolerance"],
                    "yes" if row["required"] else "no",
                ]
            )
            for row in content["rows"]
            if not row["agrees"]
        ]
    return lines


def _runs(found: Mapping[tuple[str, str], Record]) -> list[str]:
    head = "reproduction", "scale", "seeds", "seconds", "of processor", "commit", "day", "machine"
    lines = [table_line(head), table_line(["---"] * len(head))]
    for (name, scale), content in found.items():
        seconds = f"{content['seconds']:.0f}", f"{content['cpu_seconds']:.0f}"
        day = content["started"][:10]
        cells = [name, scale, str(content["seeds"]), *seconds, content["commit"], day]
        lines.append(table_line([*cells, content["machine"]]))
    return lines


def interval(row: Record) -> str:
    """A measured value with its interval, three digits each."""
    value, low, high = (
        f"{row[key]:.3g}" if isinstance(row[key], float) else str(row[key])
        for key in ("measured", "low", "high")
    )
    return value if low == value == high else f"{value} [{low}, {high}]"
