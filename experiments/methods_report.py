"""What a comparison's report says of its methods: how settings were chosen, and every value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from semigradient.experiments.comparison import Comparison, RunOutcome, write_csv
from semigradient.experiments.settings import read_grid
from semigradient.experiments.tuning import Choice, Trial

TUNING_COLUMNS = ("agent", "optim", "env", "seed", "status", "mean", "chosen", "run")


def write_tuning(comparison: Comparison) -> None:
    """`tuning.csv`: one row for each run on a tuning seed; nothing without a grid."""
    path = comparison.out / "tuning.csv"
    path.unlink(missing_ok=True)
    rows = []
    for choice in comparison.choices().values():
        for trial in choice.trials:
            for run in trial.runs:
                cell = run.cell
                row = {"agent": cell.agent, "optim": cell.optim, "env": cell.env, "seed": cell.seed}
                row |= {"status": "diverged" if run.diverged else run.standing()[0]}
                row |= {"mean": run.evaluation.get("mean"), "chosen": cell.optim == choice.setting}
                rows.append(row | {"run": str(run.folder.relative_to(comparison.out))})
    if rows:
        write_csv(path, TUNING_COLUMNS, rows)


def tuning_line(comparison: Comparison) -> list[str]:
    """How many settings each method was tried at, and on which seeds; empty without a grid."""
    if not comparison.choices():
        return []
    tried = {
        comparison.method(cell): len(read_grid(cell.optim).settings) for cell in comparison.cells
    }
    words = ", ".join(f"{method}: {count}" for method, count in tried.items())
    equal = "" if len(set(tried.values())) == 1 else " Methods with more settings had more chances."
    return [
        f"Settings tried: {words}.{equal} They were chosen on the training seeds "
        f"{_listed(comparison.tune_seeds)} ([tuning.csv](tuning.csv)); all scores are of other "
        f"seeds: {_listed({cell.seed: None for cell in comparison.cells})}."
    ]


def tuning_section(comparison: Comparison) -> str:
    """Every setting of every grid with its scores, and which one was chosen."""
    choices = list(comparison.choices().values())
    if not choices:
        return ""
    header = ["agent", "environment", "setting", "mean return", "of each tuning seed", ""]
    rows = [row for choice in choices for row in _trial_rows(choice)]
    warnings = [
        f"- {choice.agent} with {choice.optim} on {choice.env}: {sentence}."
        for choice in choices
        for sentence in choice.edges
    ]
    how = (
        "The setting with the best mean return over the tuning seeds is the method's, for each "
        "environment by itself; of equals the first; one that diverged on a seed comes last."
    )
    edges = ["At the edge of a grid:\n\n" + "\n".join(warnings)] if warnings else []
    return "\n\n".join(["## Choice of settings", how, table(header, rows), *edges])


def _trial_rows(choice: Choice) -> list[list[str]]:
    return [
        [
            choice.agent,
            choice.env,
            trial.setting,
            number(trial.score) if trial.scores and not trial.diverged else "–",
            _scores(trial),
            "**chosen**" if trial.setting == choice.setting else "",
        ]
        for trial in choice.trials
    ]


def _scores(trial: Trial) -> str:
    words = []
    for run in trial.runs:
        score = number(float(run.evaluation["mean"])) if run.done else run.standing()[0]
        words.append("diverged" if run.diverged else score)
    return ", ".join(words)


def hyperparameter_section(comparison: Comparison, done: Sequence[RunOutcome]) -> str:
    """All options of every method as they were resolved: the optimizers', then the agents'."""
    configs = {one.cell.name: comparison.run(one.cell).config() for one in done}
    if not any(configs.values()):
        return ""
    parts = [_optimizer_table(comparison, done, configs)]
    for agent in dict.fromkeys(one.cell.agent for one in done):
        mine = [one for one in done if one.cell.agent == agent]
        parts.append(_agent_table(agent, comparison.envs(), mine, configs))
    intro = "Resolved values, defaults and presets included, from each run's `config.toml`."
    return "\n\n".join(["## Hyperparameters", intro, *filter(None, parts)])


def _optimizer_table(
    comparison: Comparison, done: Sequence[RunOutcome], configs: dict[str, dict[str, Any]]
) -> str:
    rows = []
    for method in comparison.methods():
        for env in comparison.envs():
            mine = [one for one in done if one.method == method and one.cell.env == env]
            texts = dict.fromkeys(_optimizer(configs[one.cell.name]) for one in mine)
            if mine:
                rows.append([method, env, " / ".join(texts)])
    return table(["method", "environment", "optimizer"], rows)


def _optimizer(config: dict[str, Any]) -> str:
    options = ", ".join(f"{k}={_value(v)}" for k, v in config.get("optimizer", {}).items())
    return f"{config.get('optim', '–')}: {options}" if options else str(config.get("optim", "–"))


def _agent_table(
    agent: str, envs: Sequence[str], done: Sequence[RunOutcome], configs: dict[str, dict[str, Any]]
) -> str:
    """Options of an agent by environment; several values in one place: its methods differ."""
    fields: dict[str, dict[str, dict[str, None]]] = {}
    for one in done:
        config = configs[one.cell.name]
        options = dict(config.get("agent_config", {}))
        options |= {
            key: config["run"][key] for key in ("steps", "num_envs") if key in config["run"]
        }
        for key, value in options.items():
            fields.setdefault(key, {}).setdefault(one.cell.env, {})[_value(value)] = None
    here = [env for env in envs if any(env in values for values in fields.values())]
    rows = [
        [key, *(" / ".join(values.get(env, {"–": None})) for env in here)]
        for key, values in fields.items()
    ]
    return table([agent, *here], rows) if here else ""


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _listed(seeds: Any) -> str:
    """Seeds in words; consecutive ones as a range."""
    known = sorted(seeds)
    if len(known) > 2 and known == list(range(known[0], known[-1] + 1)):
        return f"{known[0]} to {known[-1]}"
    return ", ".join(map(str, known))


def number(value: float) -> str:
    """A number for a table."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with right-aligned numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(map(table_line, lines))


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    clean = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(clean)} |"
