"""Which fields of a config are read, by the source alone."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from functools import cache
from pathlib import Path

from support.commands import ROOT

_CONFIGS = {"config", "run", "asked", "options", "wishes", "settings"}


def unread(config: type, module: str) -> list[str]:
    """Fields of a config that nothing reachable from `module` reads, validation aside.

    A read is `config.field`, with `config` under one of its usual names, or the field's name in
    a `getattr`, outside of the methods that validate. Of a config that hands itself on as
    keywords (`asdict(self)`), it is a parameter of that name which its function reads.
    """
    paths = _reachable(module)
    read = set().union(*(_reads(path) for path in paths))
    if hasattr(config, "build") and "asdict(self)" in inspect.getsource(config.build):
        read |= set().union(*(_parameters(path) for path in paths))
    return [f.name for f in dataclasses.fields(config) if f.name not in read]


@cache
def _reads(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    nodes = _outside_validation(tree)
    own = [n for c in tree.body if _is_dataclass(c) for n in _outside_validation(c)]
    found = {n.attr for n in own if isinstance(n, ast.Attribute) and _is_config(n.value, "self")}
    found |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and _is_config(n.value)}
    asked = [n.args[1] for n in nodes if _is_getattr(n)]
    found |= {a.value for a in asked if isinstance(a, ast.Constant)}
    if any(isinstance(a, ast.Name) for a in asked):  # of names that are listed in the same file
        listed = [n.elts for n in nodes if isinstance(n, ast.Tuple)]
        found |= {e.value for elts in listed for e in elts if isinstance(e, ast.Constant)}
    return frozenset(found)


def _is_config(node: ast.AST, *more: str) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name.lstrip("_") in {*_CONFIGS, *more}


def _is_dataclass(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and "dataclass" in "".join(
        ast.unparse(each) for each in node.decorator_list
    )


def _is_getattr(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "getattr"
        and _is_config(node.args[0])
    )


@cache
def _parameters(path: Path) -> frozenset[str]:
    """Names of parameters that their own function reads."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            names = {a.arg for a in [*node.args.args, *node.args.kwonlyargs]}
            found |= names & {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return frozenset(found)


def _outside_validation(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.FunctionDef) and node.name in ("__post_init__", "validate", "_check"):
        return []
    below = [each for child in ast.iter_child_nodes(node) for each in _outside_validation(child)]
    return [node, *below]


@cache
def _reachable(module: str) -> frozenset[Path]:
    """The module's file and those of this package that it imports, however deep."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or _file(name) is None:
            continue
        seen.add(name)
        waiting += _imports(name)
    return frozenset(path for name in seen if (path := _file(name)))


def _file(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] != "semigradient":
        return None
    base = ROOT.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _imports(module: str) -> list[str]:
    path = _file(module)
    assert path is not None
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found
