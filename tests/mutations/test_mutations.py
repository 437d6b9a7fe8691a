"""The kept mutations still apply (fast), and the tests that they name see them (slow)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mutations import running
from mutations.lists import FOLDER, ROOT, Mutation, mutations
from mutations.running import check, copy_checkout

KEPT = mutations()


def test_there_are_many() -> None:
    assert len(KEPT) >= 80


def test_every_mutation_still_applies_and_its_tests_exist() -> None:
    for mutation in KEPT:
        changed = mutation.source(ROOT)
        compile(changed, mutation.file, "exec")
        assert mutation.tests
        assert mutation.missing_tests(ROOT) == [], mutation.name


def test_text_that_is_gone_or_ambiguous_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    for old, count in (("z", 0), ("1", 2)):
        with pytest.raises(ValueError, match=f"found {count} times in a.py"):
            Mutation("list-1", "nothing", "a.py", old, "2", ("a.py",)).source(tmp_path)
    there = Mutation("list-1", "x", "a.py", "x = 1", "x = 2", ("a.py::test_x", "b.py"))
    assert there.source(tmp_path) == "x = 2\ny = 1\n"
    assert there.missing_tests(tmp_path) == ["a.py::test_x", "b.py"]


def test_an_unknown_list_is_an_error() -> None:
    with pytest.raises(ValueError, match="no list nowhere: there are"):
        mutations(("nowhere",))


def test_only_failing_tests_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.py"
    source.write_text("x = 1\n")
    statuses = {"x = 1\n": 0, "x = 2\n": 1, "x = 3\n": 0, "x = y\n": 2}

    def pytest_(root: Path, tests: Sequence[str], seconds: int = 0) -> tuple[int, str]:
        assert (root, list(tests)) == (tmp_path, ["b.py"])
        return statuses[source.read_text()], "text"

    monkeypatch.setattr(running, "_pytest", pytest_)
    kept = [Mutation("list", "x", "a.py", "1", new, ("b.py",)) for new in "23y"]
    assert [problem for _, problem in check(tmp_path, kept)] == [
        "",
        "not seen by b.py",
        "pytest ended with status 2 instead of failing tests:\ntext",
    ]
    assert source.read_text() == "x = 1\n"
    statuses["x = 1\n"] = 1
    with pytest.raises(RuntimeError, match="fail without any mutation"):
        next(check(tmp_path, kept))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.toml")))
def test_every_mutation_is_seen(name: str, tmp_path: Path) -> None:
    verdicts = list(check(copy_checkout(tmp_path), mutations((name,))))
    assert [f"{mutation.name}: {problem}" for mutation, problem in verdicts if problem] == []
