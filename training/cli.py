"""The command line of `train.py`: names, presets, a config file and flags become one `Command`.

Later layers win: the agent's own defaults, the preset for the environment, the config file
(or, when resuming, the run's own), flags.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from semigradient import agents, optim, registry
from semigradient.errors import UserError, require
from semigradient.training import env_help, extension, seed_folders, trust
from semigradient.training.command import Command, RunConfig, completed, decide, keep_options
from semigradient.training.conditions import refuse_idle
from semigradient.training.config_files import read_config
from semigradient.training.run_files import require_name, require_plain
from semigradient.validate import documentation


@dataclass(frozen=True)
class Invocation:
    """A parsed command line.

    Attributes:
        command: what to do.
        resume: the run folder to continue; None: a new run.
        saved: the command as that folder has it.
        seeds: how many runs, of seeds from the command's on, learn as one; 0: one run alone.
        members: what to do with each of them, where they continue.
    """

    command: Command
    resume: Path | None = None
    saved: Command | None = None
    seeds: int = 0
    members: tuple[Invocation, ...] = ()


def parse(arguments: Sequence[str]) -> Invocation:
    """Read a command line; raises `UserError`, or `SystemExit(0)` after `--help`."""
    plain, rest = _plain_options(arguments)
    if plain.get("resume") == "auto":
        return _continue_or_start(arguments)
    seeds = _seeds(plain)
    if "optim" in plain:
        plain["optim"], options = optim.split(plain["optim"])
        rest = [*options, *rest]
    resume = Path(plain["resume"]) if "resume" in plain else None
    if resume is not None and seed_folders.seeds_of(resume):
        return _continue_together(resume, arguments)
    file: dict[str, Any] = {}
    if resume is not None:
        require("config" not in plain, "--config: a resumed run has its own config.toml")
        file = _read_run(resume)
    elif "config" in plain:
        file = read_config(Path(plain["config"]))
    if "trust" not in plain:
        names = {key: plain[key] for key in ("agent", "env", "optim") if key in plain}
        source = resume if resume is not None else Path(plain.get("config", ""))
        trust.check(file | names, source, [*arguments, plain.get("optim", "")])
    if resume is not None:
        file = completed(file)
    agent = plain.get("agent", file.get("agent", ""))
    env = plain.get("env", file.get("env", ""))
    if not agent and ("--help" in rest or "-h" in rest):
        print(general_help() + env_help.describe(env))
        raise SystemExit(0)
    require(bool(agent), f"--agent is missing: known: {', '.join(agents.names())}")
    preset = plain.get("preset", "auto") if resume is None else "none"
    default = decide(agent, env, plain.get("optim", file.get("optim", "")), file, preset)
    agents.check_optimizer(agent, default.run.optim, _optimizer_options(rest))
    with env_help.after(env):
        command = _flags(default, rest)
    keep_options(command, preset)
    refuse_idle(command.agent, default.agent)
    refuse_idle(command.run, default.run)
    require(bool(command.run.env), "--env is missing: any Gymnasium id, such as CartPole-v1")
    if resume is None:
        return Invocation(command, seeds=seeds)
    _require_same_folder(resume, default, command)
    return Invocation(extension.kept_schedule(command, default, rest), resume, default)


def _seeds(plain: Mapping[str, str]) -> int:
    """The number of --seeds; 0: not given."""
    text = plain.get("seeds", "")
    if not text:
        return 0
    is_number = text.isdecimal() and int(text) >= 2
    require(is_number, f"--seeds {text}: accepted are numbers from 2 on (one seed: --seed)")
    is_new = "resume" not in plain
    require(is_new, "--seeds: a resumed folder has its own seeds; leave it out")
    return int(text)


def _read_run(folder: Path) -> dict[str, Any]:
    """The tables of a run folder, which may be a stranger's."""
    require_name(str(folder), "--resume")
    require_plain(folder)
    return read_config(folder / "config.toml")


def _require_same_folder(folder: Path, saved: Command, command: Command) -> None:
    """A run stays where it is."""
    asked = command.run.run_dir
    require(
        asked in (saved.run.run_dir, str(folder)),
        f"--run-dir {asked}: --resume {folder} continues where it is; leave one of them out",
    )


def _continue_together(folder: Path, arguments: Sequence[str]) -> Invocation:
    """Runs that learn as one go on, all with the same options."""
    words = _without_resume(arguments)
    places = [seed_folders.place(folder, seed) for seed in seed_folders.seeds_of(folder)]
    members = tuple(parse(["--resume", str(place), *words]) for place in places)
    return Invocation(members[0].command, folder, None, len(members), members)


def _without_resume(arguments: Sequence[str]) -> list[str]:
    words = list(arguments)
    for index, word in enumerate(words):
        if word == "--resume":
            return words[:index] + words[index + 2 :]
        if word.startswith("--resume="):
            return words[:index] + words[index + 1 :]
    return words


def _continue_or_start(arguments: Sequence[str]) -> Invocation:
    """`--resume auto`: the newest run of the same command goes on, or a new one starts."""
    words = _without_resume(arguments)
    asked = parse(words)
    command, folder = asked.command, extension.newest_match(asked.command, asked.seeds)
    if folder is None:
        return asked
    if asked.seeds:
        return _continue_together(folder, ["--trust"])
    saved = parse(["--resume", str(folder), "--trust"]).command  # all of it stands in `words`
    return Invocation(extension.kept_schedule(command, saved, words), folder, saved)


def general_help() -> str:
    """The text of `--help` without an agent."""
    listed = "\n".join(f"  {name:9s} {agents.entry(name).summary}" for name in agents.names())
    docs = documentation(RunConfig)
    fields = "\n".join(
        f"  --{f.name.replace('_', '-'):17s} {docs[f.name]} (default: {f.default!r})"
        for f in dataclasses.fields(RunConfig)
    )
    return (
        "usage: train.py --agent NAME --env ID [--optim NAME] [--steps N] [--seed N] …\n\n"
        "Train one learner on one environment.\n\n"
        f"agents (--agent NAME --help shows all hyperparameters):\n{listed}\n\n"
        f"optimizers (--optim NAME, then --optim.lr and so on):\n  {', '.join(optim.names())}\n\n"
        f"{_brought()}options of the run:\n{fields}\n"
        "  --config FILE       TOML with any of the options; flags win\n"
        "  --preset auto|none|paper|small\n"
        "                      published hyperparameters for the environment (default: auto); or\n"
        "                      those of the agent's own paper, where auto has another source;\n"
        "                      or auto with Atari's pictures at 42×42 pixels\n"
        "  --seeds K           train K seeds, from --seed on, as one learner; each has a run\n"
        "                      folder of its own (docs/stacks.md)\n"
        "  --resume RUN|auto   continue the run in a folder; auto: the newest of this command in\n"
        "                      runs/, or in --run-dir; where there is none, start it\n"
        "  --trust             take code that its files name as module:Name (docs/plugins.md)"
    )


def fail(problem: UserError, prog: str) -> NoReturn:
    """Print a user error as one line and exit with code 2."""
    print(f"{prog}: error: {problem}", file=sys.stderr)
    raise SystemExit(2)


def _brought() -> str:
    """Names from installed packages, if there are any."""
    kinds = registry.brought()
    lines = [f"  {kind:14s} {', '.join(names)}\n" for kind, names in kinds.items()]
    return "".join(["from installed packages:\n", *lines, "\n"]) if lines else ""


def _optimizer_options(words: Sequence[str]) -> list[str]:
    """Names of the options of the optimizer, such as lr of --optim.lr."""
    flags = [word.partition("=")[0] for word in words]
    return [flag.removeprefix("--optim.") for flag in flags if flag.startswith("--optim.")]


@functools.cache  # tyro keeps what it has read of a class
def _schema(agent_type: type, optimizer_type: type) -> Any:
    """The command as tyro reads it, for an agent and an optimizer of these types."""
    import tyro

    fields: list[tuple[str, Any]] = [
        ("run", Annotated[RunConfig, tyro.conf.OmitArgPrefixes]),
        ("agent", Annotated[agent_type, tyro.conf.OmitArgPrefixes]),
        ("optimizer", Annotated[optimizer_type, tyro.conf.arg(name="optim")]),
    ]
    return dataclasses.make_dataclass("Command", fields, frozen=True)


def _flags(default: Command, rest: Sequence[str]) -> Command:
    import tyro

    kinds: tuple[type, type] = type(default.agent), type(default.optimizer)
    schema = _schema(*kinds)
    instance = schema(default.run, default.agent, default.optimizer)
    names = ["--agent", default.run.agent, "--optim", default.run.optim]
    if default.run.env:
        names += ["--env", default.run.env]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed: Any = tyro.cli(
                schema,
                default=instance,
                args=[*names, *rest],
                prog="train.py",
                description=agents.entry(default.run.agent).summary,
                config=(tyro.conf.HelptextFromCommentsOff,),
            )
    except SystemExit as leaving:
        if leaving.code in (0, None):
            raise
        raise UserError(_one_line(errors.getvalue())) from None
    return Command(parsed.run, parsed.agent, parsed.optimizer)


def _plain_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split off the options that determine which others exist."""
    deciding = {"agent", "env", "optim", "config", "preset", "resume", "seeds"}
    chosen: dict[str, str] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "--trust":
            chosen["trust"] = ""
            continue
        if not word.startswith("--") or name not in deciding:
            rest.append(word)
            continue
        if not equals:
            has_value = bool(queue) and not queue[0].startswith("--")
            require(has_value, f"{word}: needs a value")
            value = queue.pop(0)
        chosen[name] = value
    return chosen, rest


def _one_line(box: str) -> str:
    """The text of tyro's error box, without its frame and its pointers to the help."""
    words = []
    for line in box.splitlines()[1:]:  # the box's title repeats the text
        text = line.strip("│╭╮╰╯─|+ ").strip()
        if text.startswith(("Argument helptext", "For full helptext")):
            break
        if not text.strip("-"):  # a rule
            continue
        words.append(text)
    text = " ".join(words)
    return text.removeprefix("Error parsing run: ").removeprefix("Error parsing agent: ")
