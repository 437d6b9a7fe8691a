"""The command line of `train.py`: names, presets, a config file and flags become one `Command`.

Later layers win: the agent's own defaults, the preset for the environment, the config file
(or, when resuming, the run's own), flags.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fnmatch
import io
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from semigradient import agents, optim
from semigradient.errors import UserError, require

PRESETS = Path(__file__).parent.parent / "presets"


@dataclass(frozen=True)
class RunConfig:
    """What belongs to a run and not to its agent."""

    agent: str = ""
    """Learner; `--agent NAME --help` shows its hyperparameters."""
    env: str = ""
    """Any Gymnasium id, such as CartPole-v1 or ALE/Pong-v5."""
    optim: str = ""
    """Optimizer; its options are --optim.lr and so on. Default: the preset's."""
    steps: int = 100_000
    """Environment steps, all environments together."""
    seed: int = 0
    """Root of every generator of the run."""
    num_envs: int = 1
    """Environments stepped together."""
    env_options: tuple[str, ...] = ()
    """Options of the environment as KEY=VALUE, such as frameskip=4."""
    eval_env_options: tuple[str, ...] = ()
    """Options that differ in evaluation, such as split=test."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks live; auto takes CUDA for images when it is there, else the CPU."""
    threads: int = 0
    """CPU threads of torch; 0: one for vector observations, all cores for images."""
    compile: bool = False
    """Compile the loss with torch.compile (first steps are slow)."""
    eval_every: int = 10_000
    """Environment steps between evaluations; 0 evaluates only at the end."""
    eval_episodes: int = 10
    """Episodes per evaluation, on seeds of their own."""
    checkpoint_every: int = 10_000
    """Environment steps between checkpoints; 0 saves only at the end."""
    log_every: int = 1_000
    """Environment steps between lines of metrics."""
    diagnose: str = ""
    """Observers of learning, such as interference,gain,drift, or all (docs/diagnostics.md)."""
    diagnose_every: int = 10_000
    """Environment steps between their measurements; 0 measures only at the end."""
    diagnose_samples: int = 32
    """Examples that they measure on."""
    run_dir: str = ""
    """Run folder; default: a new one under runs/."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases; auto is online when a key is configured, else offline."""
    wandb_project: str = "semigradient"
    """Project of Weights & Biases."""
    tensorboard: bool = True
    """Write TensorBoard events into the run folder."""
    progress: bool = True
    """Show progress: a bar on a terminal, now and then a line elsewhere."""

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "eval_episodes", "log_every"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        for name in ("seed", "threads", "eval_every", "checkpoint_every", "diagnose_every"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: must be ≥ 0")
        require(
            self.diagnose_samples >= 2, f"diagnose_samples={self.diagnose_samples}: must be ≥ 2"
        )
        for name in ("env_options", "eval_env_options"):
            for option in getattr(self, name):
                require("=" in option, f"{name}={option!r}: must be KEY=VALUE")

    def environment(self) -> dict[str, Any]:
        """`env_options` as keyword arguments, values read as TOML where they can be."""
        return _keywords(self.env_options)

    def evaluation_environment(self) -> dict[str, Any]:
        """The same for evaluation, where those of `eval_env_options` come on top."""
        return _keywords((*self.env_options, *self.eval_env_options))


@dataclass(frozen=True)
class Command:
    """Everything that decides a run."""

    run: RunConfig
    agent: Any
    optimizer: Any

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed."""
        run = {key: getattr(self.run, key) for key in _IDENTITY}
        agent = {f"agent.{k}": v for k, v in dataclasses.asdict(self.agent).items()}
        optimizer = {f"optimizer.{k}": v for k, v in dataclasses.asdict(self.optimizer).items()}
        return _plain({**run, **agent, **optimizer})

    def tables(self) -> dict[str, Any]:
        """The nested form that `config.toml` holds."""
        run = dataclasses.asdict(self.run)
        names = {key: run.pop(key) for key in ("agent", "env", "optim")}
        tables = {
            "run": run,
            "agent_config": dataclasses.asdict(self.agent),
            "optimizer": dataclasses.asdict(self.optimizer),
        }
        return _plain({**names, **tables})


_IDENTITY = ("agent", "env", "optim", "seed", "num_envs", "env_options")
_TABLES = {"agent", "env", "optim", "run", "agent_config", "optimizer"}


@dataclass(frozen=True)
class Invocation:
    """A parsed command line: the command, and the run folder to resume, if any."""

    command: Command
    resume: Path | None


def parse(arguments: Sequence[str]) -> Invocation:
    """Read a command line; raises `UserError`, or `SystemExit(0)` after `--help`."""
    plain, rest = _plain_options(arguments)
    resume = Path(plain["resume"]) if "resume" in plain else None
    file: dict[str, Any] = {}
    if resume is not None:
        require("config" not in plain, "--config: a resumed run has its own config.toml")
        file = read_config(resume / "config.toml")
    elif "config" in plain:
        file = read_config(Path(plain["config"]))
    agent = plain.get("agent", file.get("agent", ""))
    env = plain.get("env", file.get("env", ""))
    if not agent and ("--help" in rest or "-h" in rest):
        print(general_help())
        raise SystemExit(0)
    require(bool(agent), f"--agent is missing: known: {', '.join(agents.names())}")
    agents.entry(agent)
    wanted = plain.get("preset", "auto")
    require(wanted in ("auto", "none"), f"preset={wanted!r}: accepted are auto, none")
    preset = {} if resume or wanted == "none" else load_preset(agent, env)
    chosen = plain.get("optim", file.get("optim", preset.get("optim", "adam")))
    default = _defaults(agent, env, chosen, preset, file)
    command = _flags(default, rest)
    require(bool(command.run.env), "--env is missing: any Gymnasium id, such as CartPole-v1")
    return Invocation(command, resume)


def general_help() -> str:
    """What `--help` says before an agent is chosen."""
    listed = "\n".join(f"  {name:9s} {agents.AGENTS[name].summary}" for name in agents.names())
    fields = "\n".join(
        f"  --{f.name.replace('_', '-'):17s} {doc} (default: {f.default!r})"
        for f, doc in zip(dataclasses.fields(RunConfig), _docs(RunConfig), strict=True)
    )
    return (
        "usage: train.py --agent NAME --env ID [--optim NAME] [--steps N] [--seed N] …\n\n"
        "Train one learner on one environment.\n\n"
        f"agents (--agent NAME --help shows all hyperparameters):\n{listed}\n\n"
        f"optimizers (--optim NAME, then --optim.lr and so on):\n  {', '.join(optim.names())}\n\n"
        f"options of the run:\n{fields}\n"
        "  --config FILE       TOML with any of the options; flags win\n"
        "  --preset auto|none  published hyperparameters for the environment (default: auto)\n"
        "  --resume RUN        go on with a run folder"
    )


def load_preset(agent: str, env: str) -> dict[str, Any]:
    """Published hyperparameters of `agent` for `env`: all matching tables, later ones win."""
    path = PRESETS / f"{agents.entry(agent).preset or agent}.toml"
    if not path.exists():
        return {}
    merged: dict[str, Any] = {}
    for pattern, table in tomllib.loads(path.read_text()).items():
        if fnmatch.fnmatchcase(env, pattern):
            optimizers = {**merged.get("optimizers", {})}
            for name, values in table.get("optimizers", {}).items():
                optimizers[name] = {**optimizers.get(name, {}), **values}
            merged |= table
            merged["optimizers"] = optimizers
    return merged


def read_config(path: Path) -> dict[str, Any]:
    """Read a config file: agent, env, optim and the tables run, agent_config, optimizer."""
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"config {str(path)!r}: no such file") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UserError(f"config {str(path)!r}: {problem}") from None
    for key in content:
        if key not in _TABLES:
            _unknown_key(key, _TABLES, str(path))
        kind, name = (str, "str") if key in ("agent", "env", "optim") else (dict, "table")
        require(isinstance(content[key], kind), f"{key}={content[key]!r}: must be a {name}")
    return content


def dump_toml(tables: Mapping[str, Any]) -> str:
    """TOML of plain values and one level of tables."""
    lines = [f"{key} = {_toml(v)}" for key, v in tables.items() if not isinstance(v, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def fail(problem: UserError, prog: str) -> NoReturn:
    """Print the one line a mistake deserves and exit with code 2."""
    print(f"{prog}: error: {problem}", file=sys.stderr)
    raise SystemExit(2)


def _defaults(
    agent: str, env: str, chosen: str, preset: dict[str, Any], file: dict[str, Any]
) -> Command:
    config_class, optimizer_class = agents.config_class(agent), optim.config_class(chosen)
    run_fields, agent_fields = _field_names(RunConfig), _field_names(config_class)
    ours = {k: v for k, v in preset.items() if k not in ("optim", "optimizers")}
    for key in ours:
        if key not in run_fields | agent_fields:
            _unknown_key(key, run_fields | agent_fields, f"preset of {agent}")
    sections = (("run", RunConfig), ("agent_config", config_class), ("optimizer", optimizer_class))
    for section, cls in sections:
        for key in file.get(section, {}):
            if key not in _field_names(cls):
                _unknown_key(key, _field_names(cls), f"config table [{section}]")
    run = {k: v for k, v in ours.items() if k in run_fields} | file.get("run", {})
    learner = dict(agents.entry(agent).overrides)
    learner |= {k: v for k, v in ours.items() if k in agent_fields} | file.get("agent_config", {})
    optimizer = dict(preset.get("optimizers", {}).get(chosen, {}))
    if file.get("optim", chosen) == chosen:
        optimizer |= file.get("optimizer", {})
    return Command(
        _build(RunConfig, {**run, "agent": agent, "env": env, "optim": chosen}),
        _build(config_class, learner),
        _build(optimizer_class, optimizer),
    )


def _flags(default: Command, rest: Sequence[str]) -> Command:
    import tyro

    agent_type = type(default.agent)
    fields = [
        ("run", Annotated[RunConfig, tyro.conf.OmitArgPrefixes], default.run),
        ("agent", Annotated[agent_type, tyro.conf.OmitArgPrefixes], default.agent),
        ("optimizer", Annotated[type(default.optimizer), tyro.conf.arg(name="optim")], None),
    ]
    schema = dataclasses.make_dataclass(
        "Command", [(name, kind) for name, kind, _ in fields], frozen=True
    )
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
            )
    except SystemExit as leaving:
        if leaving.code in (0, None):
            raise
        raise UserError(_one_line(errors.getvalue())) from None
    return Command(parsed.run, parsed.agent, parsed.optimizer)


def _plain_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split off the options that decide what the others are."""
    known = {"agent", "env", "optim", "config", "preset", "resume"}
    found: dict[str, str] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in known:
            rest.append(word)
            continue
        if not equals:
            given = bool(queue) and not queue[0].startswith("--")
            require(given, f"{word}: needs a value")
            value = queue.pop(0)
        found[name] = value
    return found, rest


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    """Make a config, with lists from TOML as tuples and every type checked."""
    import typing

    hints = typing.get_type_hints(cls)
    ready: dict[str, Any] = {}
    for key, value in values.items():
        hint = hints[key]
        origin = typing.get_origin(hint)
        if origin is tuple and isinstance(value, list):
            value = tuple(value)
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        accepted = {int: int, float: float, str: str, bool: bool}.get(hint)
        if accepted is not None and type(value) is not accepted:
            raise UserError(f"{key}={value!r}: must be of type {accepted.__name__}")
        if origin is Literal and value not in typing.get_args(hint):
            choices = ", ".join(map(str, typing.get_args(hint)))
            raise UserError(f"{key}={value!r}: accepted are {choices}")
        if origin is tuple and not isinstance(value, tuple):
            raise UserError(f"{key}={value!r}: must be a list")
        if origin is tuple:
            item = typing.get_args(hint)[0]
            good = all(type(each) is item for each in value)
            require(good, f"{key}={list(value)!r}: must be a list of {item.__name__}")
        ready[key] = value
    return cls(**ready)


def _one_line(box: str) -> str:
    """The text of tyro's error box, without its frame and its pointers to the help."""
    words = []
    for line in box.splitlines()[1:]:  # the box's title repeats what the text says
        text = line.strip("│╭╮╰╯─|+ ").strip()
        if text.startswith(("Argument helptext", "For full helptext")):
            break
        if not text.strip("-"):  # a rule
            continue
        words.append(text)
    text = " ".join(words)
    return text.removeprefix("Error parsing run: ").removeprefix("Error parsing agent: ")


def _unknown_key(key: str, known: set[str], where: str) -> NoReturn:
    near = difflib.get_close_matches(key, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"unknown key {key!r} in {where}: {hint}known: {', '.join(sorted(known))}")


def _field_names(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


def _keywords(options: Sequence[str]) -> dict[str, Any]:
    return {key: _value(text) for key, _, text in (option.partition("=") for option in options)}


def _docs(cls: type) -> list[str]:
    """The line of documentation under each field."""
    import inspect

    source = [line.strip() for line in inspect.getsource(cls).splitlines()]
    return [
        source[index + 1].strip('"')
        for index, line in enumerate(source[:-1])
        if source[index + 1].startswith('"""') and ": " in line and "class" not in line
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        import json

        return json.dumps(value, ensure_ascii=False)
    return "[" + ", ".join(_toml(item) for item in value) + "]"


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
