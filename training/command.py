"""The configuration of a run: its names, the run's own options, its agent's and its optimizer's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semigradient import agents, optim
from semigradient.envs import training_only
from semigradient.envs.options import check_names
from semigradient.errors import require, unknown
from semigradient.optim import NO_OPTIMIZER
from semigradient.training.conditions import SOME, only_with, refuse_idle
from semigradient.training.config_files import load_preset, toml, value_of
from semigradient.validate import Seed, build, check_fields, shown

_NATURAL = (
    "schedule_steps",
    "threads",
    "eval_every",
    "eval_max_steps",
    "checkpoint_every",
    "checkpoint_minutes",
    "diagnose_every",
)


@dataclass(frozen=True)
class RunConfig:
    """Options of a run that are not its agent's."""

    agent: str = ""
    """Learner; `--agent NAME --help` shows its hyperparameters."""
    env: str = ""
    """Any Gymnasium id, such as CartPole-v1 or ALE/Pong-v5."""
    optim: str = ""
    """Optimizer; its options are --optim.lr and so on. Default: the preset's."""
    steps: int = 100_000
    """Environment steps, all environments together."""
    schedule_steps: int = 0
    """Steps that schedules (exploration, learning rate, clipping) span; 0: all of them."""
    seed: Seed = 0
    """Root of every generator of the run."""
    num_envs: int = 1
    """Environments stepped together."""
    env_options: tuple[str, ...] = ()
    """Options of the environment as KEY=VALUE, such as frameskip=4."""
    eval_env_options: tuple[str, ...] = ()
    """Options that differ in evaluation, such as split=test."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the networks; auto takes CUDA for images when it is there, else the CPU."""
    threads: int = 0
    """CPU threads of torch; 0: one for vector observations, all cores for images."""
    compile: bool = False
    """Compile the loss with torch.compile (first steps are slow; what is compiled is kept)."""
    eval_every: int = 10_000
    """Environment steps between evaluations; 0 evaluates only at the end."""
    eval_episodes: int = 10
    """Episodes per evaluation, on seeds of their own."""
    eval_max_steps: int = 0
    """Steps after which an evaluation cuts an episode; 0: 10,000 where the environment has no
    limit that it declares."""
    checkpoint_every: int = 10_000
    """Environment steps between checkpoints; 0: none by steps. Evaluations save before too."""
    checkpoint_minutes: float = 10.0
    """Minutes after which a checkpoint is due in any case; 0: never."""
    keep: int = 2
    """Checkpoints that are kept, the newest ones."""
    log_every: int = 1_000
    """Environment steps between lines of metrics."""
    diagnose: str = ""
    """Observers of learning, such as interference,gain,drift, or all (docs/diagnostics.md)."""
    diagnose_every: int = dataclasses.field(default=10_000, metadata=only_with(diagnose=SOME))
    """Environment steps between their measurements; 0 measures only at the end."""
    diagnose_samples: int = dataclasses.field(default=32, metadata=only_with(diagnose=SOME))
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
    """Show progress: a bar on a terminal, elsewhere an occasional line."""

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "eval_episodes", "log_every", "keep"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        for name in _NATURAL:
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: must be ≥ 0")
        check_fields(self)
        require(
            self.diagnose_samples >= 2, f"diagnose_samples={self.diagnose_samples}: must be ≥ 2"
        )
        for name in ("env_options", "eval_env_options"):
            for option in getattr(self, name):
                key, equals, _ = option.partition("=")
                is_valid = bool(equals) and key.isidentifier()
                require(is_valid, f"{name}={option!r}: must be KEY=VALUE")
            check_names(_keywords(getattr(self, name)))

    @property
    def span(self) -> int:
        """Steps that schedules span."""
        return self.schedule_steps or self.steps

    def environment(self) -> dict[str, Any]:
        """`env_options` as keyword arguments, values read as TOML where they can be."""
        return _keywords(self.env_options)

    def evaluation_environment(self) -> dict[str, Any]:
        """The same for evaluation, with `eval_env_options` on top.

        Options that are for training alone (of Atari `episodic_life`) are left out.

        Raises:
            UserError: `eval_env_options` asks for one of them.
        """
        ours, theirs = _keywords(self.env_options), _keywords(self.eval_env_options)
        for name in training_only(self.env):
            ours.pop(name, None)
            require(
                not theirs.get(name),
                f"eval_env_options={name}={shown(theirs.get(name))}: is for training, "
                "evaluation plays whole games",
            )
        return {**ours, **theirs}


@dataclass(frozen=True)
class Command:
    """The complete configuration of a run."""

    run: RunConfig
    agent: Any
    optimizer: Any

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed."""
        run = {key: getattr(self.run, key) for key in _IDENTITY}
        agent = {f"agent.{k}": v for k, v in dataclasses.asdict(self.agent).items()}
        optimizer = {f"optimizer.{k}": v for k, v in dataclasses.asdict(self.optimizer).items()}
        return _plain({**run, **agent, **optimizer})

    def absent(self) -> dict[str, Any]:
        """What fields stand for that a run does not have because it is older than they."""
        defaults = {f"agent.{k}": v for k, v in originals(type(self.agent)).items()}
        defaults |= {f"agent.{k}": v for k, v in agents.entry(self.run.agent).overrides.items()}
        defaults |= {f"optimizer.{k}": v for k, v in originals(type(self.optimizer)).items()}
        return _plain(defaults)

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


def originals(config: type, only_changed: bool = False) -> dict[str, Any]:
    """Defaults that reproduce what was before a field was there.

    A field whose default is a new behaviour says the old one: `field(default=…,
    metadata={"before": …})`.

    Args:
        config: a dataclass.
        only_changed: those alone that say so.
    """
    values = {}
    for field in dataclasses.fields(config):
        if "before" in field.metadata:
            values[field.name] = field.metadata["before"]
        elif not only_changed and field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif not only_changed and field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return values


def completed(file: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a run's `config.toml`, with the old values of fields that are newer than it."""
    agent, optimizer = str(file.get("agent", "")), str(file.get("optim", ""))
    classes = {
        "run": RunConfig,
        "agent_config": agents.config_class(agent) if agent else None,
        "optimizer": optim.config_class(optimizer) if optimizer else None,
    }
    tables = {
        table: {**originals(cls, only_changed=True), **file.get(table, {})}
        for table, cls in classes.items()
        if cls is not None
    }
    return {**file, **tables}


def make_command(
    agent: str,
    env: str,
    optim: str = "",
    *,
    optim_options: Mapping[str, Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    eval_env_options: Mapping[str, Any] | None = None,
    preset: str = "auto",
    **options: Any,
) -> Command:
    """The command that Python's keyword arguments make; the same as the flags of those names.

    Args:
        agent: a name, or "module:Class".
        env: any Gymnasium id, or "module:id".
        optim: a name, or "module:Config"; default: the preset's.
        optim_options: of the optimizer, such as {"lr": 1e-3}.
        env_options, eval_env_options: of the environment, such as {"dt": 0.1}.
        preset: auto; none for no published hyperparameters; paper for those of the agent's paper;
            small for Atari at 42×42 pixels.
        options: fields of `RunConfig` and of the agent's `Config`.

    Raises:
        UserError: an unknown name or option, or a value that is not accepted.
    """
    run_fields, agent_fields = _field_names(RunConfig), _field_names(agents.config_class(agent))
    for key in options:
        if key not in run_fields | agent_fields:
            unknown("option", key, run_fields | agent_fields, f"{agent} on {env}")
    run = {key: value for key, value in options.items() if key in run_fields}
    environments = {"env_options": env_options, "eval_env_options": eval_env_options}
    run |= {key: words_of(value) for key, value in environments.items() if value is not None}
    config = {key: value for key, value in options.items() if key in agent_fields}
    tables = {"run": run, "agent_config": config, "optimizer": dict(optim_options or {})}
    command = decide(agent, env, optim, tables, preset)
    keep_options(command, preset)
    default = decide(agent, env, optim, {}, preset)
    refuse_idle(command.agent, default.agent)
    refuse_idle(command.run, default.run)
    return command


def keep_options(command: Command, preset: str) -> None:
    """`UserError` where options of the environment took the place of those of preset small."""
    if preset == "small":
        given = {option.partition("=")[0] for option in command.run.env_options}
        needed = load_preset(command.run.agent, command.run.env, preset).get("env_options", [])
        lost = " ".join(word for word in needed if word.partition("=")[0] not in given)
        require(not lost, f"preset='small': --env-options replaces its {lost}; give these too")


def decide(
    agent: str, env: str, optim: str, file: Mapping[str, Any], preset: str = "auto"
) -> Command:
    """The command of an agent, an environment, an optimizer (default: the preset's) and tables."""
    kinds = ("auto", "none", "paper", "small")
    require(preset in kinds, f"preset={preset!r}: accepted are {', '.join(kinds)}")
    published = load_preset(agent, env, preset) if preset != "none" else {}
    usual = published.get("optim", "adam") if agents.has_optimizer(agent) else NO_OPTIMIZER
    chosen = optim or usual
    return assemble(agent, env, chosen, published, file)


def words_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of an environment as KEY=VALUE, so that `value_of` gives each value back.

    Raises:
        UserError: a value that a config file cannot hold.
    """
    words = []
    for key, value in options.items():
        is_plain_text = isinstance(value, str) and value_of(value) == value
        text = value if is_plain_text else toml(value) if _is_plain(value) else None
        require(
            text is not None,
            f"env option {key}={value!r}: accepted are numbers, text, true, false and lists",
        )
        words.append(f"{key}={text}")
    return tuple(words)


def assemble(
    agent: str, env: str, optimizer: str, preset: Mapping[str, Any], file: Mapping[str, Any]
) -> Command:
    """The command that names, a preset and a config file make; later ones win.

    Args:
        agent, env, optimizer: names.
        preset: options of all kinds by name, and `optimizers`: theirs by the optimizer's name.
        file: tables run, agent_config, optimizer; see `config_files.read_config`.

    Raises:
        UserError: an unknown option, or a value of the wrong type or out of range.
    """
    agents.check_optimizer(agent, optimizer, file.get("optimizer", {}))
    config_class, optimizer_class = agents.config_class(agent), optim.config_class(optimizer)
    run_fields, agent_fields = _field_names(RunConfig), _field_names(config_class)
    both = ", ".join(sorted(run_fields & agent_fields))
    require(not both, f"agent {agent!r}: its Config has fields of the run ({both}); rename them")
    ours = {k: v for k, v in preset.items() if k not in ("optim", "optimizers")}
    for key in ours:
        if key not in run_fields | agent_fields:
            unknown("key", key, run_fields | agent_fields, f"preset of {agent}")
    sections = (("run", RunConfig), ("agent_config", config_class), ("optimizer", optimizer_class))
    for section, cls in sections:
        for key in file.get(section, {}):
            if key not in _field_names(cls):
                unknown("key", key, _field_names(cls), f"config table [{section}]")
    run = {k: v for k, v in ours.items() if k in run_fields} | file.get("run", {})
    learner = dict(agents.entry(agent).overrides)
    learner |= {k: v for k, v in ours.items() if k in agent_fields} | file.get("agent_config", {})
    rates = dict(preset.get("optimizers", {}).get(optimizer, {}))
    if file.get("optim", optimizer) == optimizer:
        rates |= file.get("optimizer", {})
    return Command(
        build(RunConfig, {**run, "agent": agent, "env": env, "optim": optimizer}),
        build(config_class, learner),
        build(optimizer_class, rates),
    )


def _is_plain(value: Any) -> bool:
    """Whether a value can be stored in a config file."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (bool, int, float, str))


def _field_names(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


def _keywords(options: Sequence[str]) -> dict[str, Any]:
    return {key: value_of(text) for key, _, text in (option.partition("=") for option in options)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
