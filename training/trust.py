"""Code that files name: which is loaded, and which is refused.

A run folder or a config file is data. The names in it are looked up in our registries and those of
installed packages. A name that is itself a location of code ("module:attribute", "module:Env-v0")
would import, and so execute, arbitrary code: it is taken from the command line, or from Python, and
from a file only if the user says that the file is trusted, or names it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from semigradient.errors import UserError
from semigradient.training.config_files import value_of

_SERVERS = ("ray_address",)  # options that name machines whose answers are executed


def check(tables: Mapping[str, Any], path: Path, words: Iterable[str]) -> None:
    """Refuse a config file's tables that name code which no word of the command line names.

    Raises:
        UserError: names the code, and how to allow it.
    """
    named = typed(words)
    refused = [text for text, code in named_code(tables).items() if code not in named]
    if refused:
        raise UserError(
            f"{str(path)!r} asks for code of its own ({', '.join(refused)}): --trust allows it "
            "(trust=True in Python), and so does naming it on the command line too"
        )


def named_code(tables: Mapping[str, Any]) -> dict[str, str]:
    """What in a config file is the name of code: how it is written there, and the name alone."""
    names: dict[str, str] = {}
    for key in ("agent", "env", "optim"):
        name = str(tables.get(key, ""))
        is_ours = key == "env" and name.startswith("semigradient:") and name.count(":") == 1
        if ":" in name and not is_ours:
            names[f"{key}={name}"] = name
    run = tables.get("run", {})
    for name in str(run.get("diagnose", "")).split(","):
        if ":" in name:
            names[f"diagnose={name.strip()}"] = name.strip()
    for option in _texts([run.get("env_options"), run.get("eval_env_options")]):
        key, _, text = option.partition("=")
        names |= _of_option(key, value_of(text))
    for table in (tables.get("agent_config", {}), tables.get("optimizer", {})):
        for key, value in table.items():
            names |= _of_option(key, value)
    return names


def typed(words: Iterable[str]) -> set[str]:
    """All that words of a command line name: themselves, what follows a "=", parts of lists."""
    names: set[str] = set()
    for word in words:
        while word:
            names |= {word, *(part.strip() for part in word.split(","))}
            word = word.partition("=")[2]
    return names


def _of_option(key: str, value: Any) -> dict[str, str]:
    """The names of code in an option's value."""
    server = key.strip() in _SERVERS
    return {f"{key}={text}": text for text in _texts(value) if text and (server or _is_code(text))}


def _texts(value: Any) -> Iterator[str]:
    """All strings in a value of TOML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _is_code(text: str) -> bool:
    """Whether a text is "module:…" of a module that could be imported; nothing is imported here."""
    module, colon, _ = text.partition(":")
    top = module.partition(".")[0]
    if not colon or not top:
        return False
    try:
        return find_spec(top) is not None
    except (ImportError, ValueError):  # a module that is there without saying from where
        return True
