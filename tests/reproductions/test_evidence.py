"""The page of evidence: what it is made of, and that it is up to date."""

from __future__ import annotations

import json
import re

import pytest

from semigradient import reproduce, reproductions
from semigradient.reproductions import evidence
from semigradient.reproductions.evidence import Figure

FIGURES = [figure for part in evidence.documents() for figure in part.figures]
RECORDS = evidence.records()


def row(quantity, agrees=True, required=True, source="figure 1"):
    return {
        "quantity": quantity,
        "published": "1",
        "source": source,
        "measured": 1.23456789,
        "low": 1.0,
        "high": 2.0,
        "tolerance": "> 0",
        "agrees": agrees,
        "required": required,
    }


def result(rows, commit="0123456789ab", words=()):
    return {
        "name": "cosine",
        "title": "A title",
        "scale": "quick",
        "seeds": 3,
        "seconds": 1.5,
        "cpu_seconds": 1.0,
        "agrees": True,
        "rows": rows,
        "command": ["reproduce.py", "cosine", *words],
        "commit": commit,
        "started": "2026-01-02T03:04:05+0000",
        "versions": {"python": "3", "torch": "2", "numpy": "2", "other": "1"},
        "hardware": {"cpu": "A processor", "cores": 2, "gpu": None},
    }


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "docs" / "evidence").mkdir(parents=True)
    return tmp_path / "docs"


def keep(docs, tmp_path, *arguments, **options):
    (tmp_path / "result.json").write_text(json.dumps(result(*arguments, **options)))
    return json.loads(evidence.record(tmp_path, docs).read_text())


def test_the_page_is_what_the_command_writes():
    written = (evidence.DOCS / "evidence.md").read_text(encoding="utf-8")
    assert written == evidence.page(RECORDS), "run: python reproduce.py evidence"


def test_every_reproduction_has_its_entries_and_every_entry_its_reproduction():
    named = {figure.reproduction for figure in FIGURES} - {""}
    assert named == set(reproductions.names())
    assert {name for name, _ in RECORDS} <= named


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.figure)
def test_whatever_is_not_shown_has_its_cause(figure):
    answers = evidence.findings(figure, RECORDS)
    recorded = any(name == figure.reproduction for name, _ in RECORDS)
    lacks = not figure.reproduction or (recorded and not answers)
    if lacks or not all(answer.agrees for answer in answers):
        assert figure.note, f"{figure.figure}: a note must say why"


def test_every_recorded_row_belongs_to_a_figure():
    for content in RECORDS.values():
        figures = [figure for figure in FIGURES if figure.reproduction == content["name"]]
        for each in content["rows"]:
            text = f"{each['source']} | {each['quantity']}"
            assert any(re.search(figure.rows, text) for figure in figures), text


def test_recorded_commands_and_machines_name_no_place():
    for content in RECORDS.values():
        assert content["command"].startswith(f"python reproduce.py {content['name']} ")
        assert "/" not in content["command"] + content["machine"]


def test_a_result_is_kept_without_what_belongs_to_one_machine(docs, tmp_path):
    words = ["--out", "/somewhere", "--seeds", "3", "--folder", "/data"]
    kept = keep(docs, tmp_path, [row("a")], words=words)
    assert kept["command"] == "python reproduce.py cosine --scale quick --seeds 3 --folder DATA"
    assert kept["rows"][0]["measured"] == 1.2346
    assert (kept["commit"], kept["machine"]) == ("0123456789ab", "A processor, no GPU")
    assert set(evidence.records(docs)) == {("cosine", "quick")}


@pytest.mark.parametrize("commit", ["0123456789ab-dirty", None])
def test_a_result_of_uncommitted_code_is_refused(docs, tmp_path, commit, capsys):
    (tmp_path / "result.json").write_text(json.dumps(result([row("a")], commit=commit)))
    with pytest.raises(SystemExit):
        reproduce.main(["record", "--out", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"made at commit {commit}; accepted is a result of committed code" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["record"], "record needs --out"), (["record", "--out", "nowhere"], "has no result.json")],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_required_rows_decide_and_the_largest_scale_comes_first():
    quick = result([row("a", agrees=False), row("b", required=False)])
    full = {**result([row("a"), row("b", agrees=False, required=False)]), "scale": "full"}
    figure = Figure("figure 1", "a", "b", "cosine")
    assert evidence.state(figure, {("cosine", "quick"): quick}) == "disagrees"
    found = {("cosine", "quick"): quick, ("cosine", "full"): full}
    assert evidence.state(figure, found) == "agrees"
    first, second = evidence.findings(figure, found)
    assert (first.record["scale"], second.record["scale"]) == ("full", "quick")
    assert first.headline["quantity"] == "a"


def test_without_required_rows_all_rows_decide():
    rows = [row("a", required=False), row("b", agrees=False, required=False)]
    figure = Figure("figure 1", "a", "b", "cosine")
    assert evidence.state(figure, {("cosine", "quick"): result(rows)}) == "disagrees"


def test_rows_are_found_by_source_and_quantity():
    rows = [row("a"), row("b", agrees=False, source="figure 2")]
    found = {("cosine", "quick"): result(rows)}
    states = [
        evidence.state(Figure("figure", "", "", "cosine", pattern), found)
        for pattern in ("figure 1", "figure 2", r"\| b$", "figure 3")
    ]
    assert states == ["agrees", "disagrees", "disagrees", "not run"]
    assert evidence.state(Figure("figure", "", ""), found) == "not built"


def test_the_page_says_value_interval_share_and_note(docs, tmp_path, monkeypatch):
    rows = [row("first | second", agrees=False), row("b"), row("c", required=False)]
    keep(docs, tmp_path, rows)
    figure = Figure("figure 1", "a claim", "1 or more", "cosine", note="too small")
    part = evidence.Document("A thesis", "2", (figure,))
    monkeypatch.setattr(evidence, "documents", lambda: (part,))
    text = evidence.page(evidence.records(docs))
    assert "**1 results: 0 agree, 1 disagree, 0 not run, 0 not built" in text
    assert (
        "| figure 1 | a claim | 1 or more | first \\| second: 1.23 [1, 2] | 3 | quick | "
        "**disagrees**, 1 of 2 required, 2 of 3 rows | "
        "`python reproduce.py cosine --scale quick` | too small |"
    ) in text
    assert "| cosine, quick | first \\| second | 1 (figure 1) | 1.23 [1, 2] | > 0 | yes |" in text
    assert (
        "| cosine | quick | 3 | 2 | 1 | 0123456789ab | 2026-01-02 | A processor, no GPU |" in text
    )
