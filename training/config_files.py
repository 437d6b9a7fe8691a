"""Files that hold options: presets, the `config.toml` of a run, and those that `--config` names."""

from __future__ import annotations

import fnmatch
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semigradient import agents
from semigradient.errors import UserError, one_line, require, unknown

PRESETS = Path(__file__).parent.parent / "presets"
_LARGEST = 1 << 20  # bytes of a config file: /dev/zero has no end
_TABLES = {"agent", "env", "optim", "run", "agent_config", "optimizer"}


def load_preset(agent: str, env: str, kind: str = "auto") -> dict[str, Any]:
    """Published hyperparameters of `agent` for `env`: all matching tables, later ones win.

    Tables whose pattern begins with "paper: " are those of kind paper: what the agent's own paper
    has, over the agent's defaults. Those of kind small come over the usual ones. An agent of
    another package has no preset.

    Raises:
        UserError: of kind paper or small, where there are none.
    """
    path = PRESETS / f"{agents.entry(agent).preset or agent}.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    env = env.rpartition(":")[2]
    merged: dict[str, Any] = {}
    kinds = {"auto": {""}, "paper": {"paper"}, "small": {"", "small"}}[kind]
    found = set()
    for pattern, table in tables.items():
        of, _, pattern = pattern.rpartition(": ")
        if of in kinds and fnmatch.fnmatchcase(env, pattern):
            optimizers = {**merged.get("optimizers", {})}
            for name, values in table.get("optimizers", {}).items():
                optimizers[name] = {**optimizers.get(name, {}), **values}
            merged |= table
            merged["optimizers"] = optimizers
            found.add(of)
    is_found = kind in found or kind == "auto"
    require(is_found, f"preset={kind!r}: {agent} has none for {env}; accepted are auto, none")
    return merged


def read_config(path: Path) -> dict[str, Any]:
    """Read a config file: agent, env, optim and the tables run, agent_config, optimizer."""
    try:
        with open(path, "rb") as file:
            content = tomllib.loads(file.read(_LARGEST).decode())
    except FileNotFoundError:
        raise UserError(f"config {str(path)!r}: no such file") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise UserError(f"config {str(path)!r}: {one_line(problem)}") from None
    for key in content:
        if key not in _TABLES:
            unknown("key", key, _TABLES, str(path))
        kind, name = (str, "str") if key in ("agent", "env", "optim") else (dict, "table")
        require(isinstance(content[key], kind), f"{key}={content[key]!r}: must be a {name}")
    return content


def dump_toml(tables: Mapping[str, Any]) -> str:
    """TOML of plain values and one level of tables."""
    lines = [f"{key} = {toml(v)}" for key, v in tables.items() if not isinstance(v, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {toml(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """A plain value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        is_text = not any("\ud800" <= char <= "\udfff" for char in value)
        require(is_text, f"{value!r}: is not UTF-8, and cannot be written into a config file")
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "[" + ", ".join(toml(item) for item in value) + "]"


def value_of(text: str) -> Any:
    """What TOML reads in `text`; the text itself where that is nothing."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
