"""Environments, by Gymnasium id.

`make_vector` is the single entry point: it gives every agent the same kind of vector environment
(SAME_STEP autoreset, dense `final_obs`, exact `state_dict`), whatever the id refers to.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from semigradient.envs.options import check_names
from semigradient.envs.vector import ExactVector
from semigradient.errors import UserError, missing, unknown
from semigradient.registry import Entry, Registry, load
from semigradient.validate import first_line

__all__ = [
    "ExactVector",
    "check_id",
    "make_parallel",
    "make_vector",
    "options_class",
    "training_only",
]

_HERE = "semigradient.envs"
OURS: dict[str, str] = {
    "semigradient/Glimpse-v0": f"{_HERE}.images.glimpse:GlimpseOptions",
    "semigradient/HyperGrid-v0": f"{_HERE}.constructions.hypergrid:HyperGridOptions",
    "semigradient/ActiveHyperGrid-v0": f"{_HERE}.constructions.active_learning:ActiveOptions",
    "semigradient/BitSequences-v0": f"{_HERE}.constructions.bit_sequences:BitSequencesOptions",
    "semigradient/Sequences-v0": f"{_HERE}.constructions.scored_sequences:SequencesOptions",
    "semigradient/ToyMolecules-v0": f"{_HERE}.molecules.toy:ToyMoleculesOptions",
    "semigradient/ToyChorale-v0": f"{_HERE}.music.chorale_fill:ToyChoraleOptions",
    "semigradient/ChoraleFill-v0": f"{_HERE}.music.chorale_fill:FillOptions",
    "semigradient/ChoraleRewrite-v0": f"{_HERE}.music.chorale_rewrite:RewriteOptions",
    "semigradient/ChoraleChrono-v0": f"{_HERE}.music.chorale_chrono:ChronoOptions",
    "semigradient/Chorales-v0": f"{_HERE}.music.chorale_completion:CompletionOptions",
    "semigradient/Molecule-v0": f"{_HERE}.molecules.molecule:MoleculeOptions",
    "semigradient/ActiveMolecule-v0": f"{_HERE}.molecules.active_molecules:ActiveOptions",
    "semigradient/Classification-v0": f"{_HERE}.images.supervised:ClassificationOptions",
    "semigradient/Regression-v0": f"{_HERE}.images.supervised:RegressionOptions",
    "semigradient/CoinGame-v0": f"{_HERE}.games.coin_versus:CoinGameOptions",
    "semigradient/Pendulum-v0": f"{_HERE}.control.classic_control:PendulumOptions",
    "semigradient/CartPole-v0": f"{_HERE}.control.classic_control:CartPoleOptions",
    "semigradient/Pusher-v0": f"{_HERE}.control.closed_forms:PusherOptions",
    "semigradient/LQ1-v0": f"{_HERE}.control.closed_forms:LQ1Options",
    "semigradient/LQR1-v0": f"{_HERE}.control.closed_forms:LQR1Options",
    "semigradient/Hill-v0": f"{_HERE}.control.closed_forms:HillOptions",
    "semigradient/Sine-v0": f"{_HERE}.control.closed_forms:SineOptions",
    "semigradient/Copy-v0": f"{_HERE}.memory.copying:CopyOptions",
    "semigradient/VariableCopy-v0": f"{_HERE}.memory.copying:VariableCopyOptions",
    "semigradient/Queue-v0": f"{_HERE}.memory.queue:QueueOptions",
    "semigradient/AnBn-v0": f"{_HERE}.memory.text:AnBnOptions",
    "semigradient/Brackets-v0": f"{_HERE}.memory.text:BracketsOptions",
    "semigradient/Adding-v0": f"{_HERE}.memory.adding:AddingOptions",
    "semigradient/Warp-v0": f"{_HERE}.memory.warp:WarpOptions",
    "semigradient/InfluenceBalance-v0": f"{_HERE}.memory.influence_balance:InfluenceBalanceOptions",
    "semigradient/IPD-v0": f"{_HERE}.games.iterated:DilemmaOptions",
    "semigradient/MatchingPennies-v0": f"{_HERE}.games.iterated:MatchingPenniesOptions",
    "semigradient/Chicken-v0": f"{_HERE}.games.iterated:ChickenOptions",
    "semigradient/StagHunt-v0": f"{_HERE}.games.iterated:StagHuntOptions",
    "semigradient/MatrixGame-v0": f"{_HERE}.games.iterated:MatrixGameOptions",
    "semigradient/LogisticGame-v0": f"{_HERE}.games.logistic:LogisticOptions",
}
"""Ids of our own environments, and the class of their options, which makes their cores."""

_WRITTEN = "semigradient.envs.adapters:WrittenEnv"
SINGLE: dict[str, str] = {
    "semigradient/ToyChorale-v0": _WRITTEN,
    "semigradient/ChoraleFill-v0": _WRITTEN,
    "semigradient/ChoraleRewrite-v0": _WRITTEN,
    "semigradient/ChoraleChrono-v0": _WRITTEN,
    "semigradient/Molecule-v0": "semigradient.envs.molecules.molecule:MoleculeEnv",
}
"""Ids whose single environment can do more than `CoreEnv`: be rendered as text, and so on."""

ENVIRONMENTS = Registry("environment", Entry, group="semigradient.environments")
"""Ids of installed packages, and the modules that register them with Gymnasium."""

for _id, _core in OURS.items():
    gymnasium.register(
        _id,
        entry_point=SINGLE.get(_id, "semigradient.envs.adapters:CoreEnv"),
        vector_entry_point="semigradient.envs.adapters:CoreVector",
        kwargs={"core": _core},
    )


REFINED: dict[str, str] = {
    "semigradient/BipedalWalker-v0": "BipedalWalker-v3",
    "semigradient/HalfCheetah-v0": "HalfCheetah-v5",
    "semigradient/Ant-v0": "Ant-v5",
}
"""Ids of Gymnasium's environments at any time step; `semigradient/TimeStep-v0` takes others."""

_TIME_STEP = "semigradient.envs.control.time_step:make"
gymnasium.register("semigradient/TimeStep-v0", entry_point=_TIME_STEP)
for _id, _base in REFINED.items():
    gymnasium.register(_id, entry_point=_TIME_STEP, kwargs={"base": _base})

POSITION_ONLY: dict[str, str] = {
    "semigradient/PositionOnlyCartPole-v0": "CartPole-v1",
    "semigradient/PositionOnlyPendulum-v0": "Pendulum-v1",
    "semigradient/PositionOnlyAcrobot-v0": "Acrobot-v1",
    "semigradient/PositionOnlyMountainCar-v0": "MountainCar-v0",
}
"""Ids of Gymnasium's classic control without velocities, and what they are with them."""

for _id, _base in POSITION_ONLY.items():
    _class = _id.removeprefix("semigradient/").removesuffix("-v0")
    gymnasium.register(
        _id,
        entry_point=f"{_HERE}.control.position_only:{_class}",
        max_episode_steps=gymnasium.spec(_base).max_episode_steps,
        reward_threshold=gymnasium.spec(_base).reward_threshold,
    )


def check_id(env_id: str) -> EnvSpec:
    """Return the registered spec of `env_id`, or raise a `UserError` with the nearest ids.

    "module:id" imports the module first, which registers the id.
    """
    module, _, env_id = env_id.rpartition(":")
    if module:
        _import(module, env_id)
    elif env_id not in gymnasium.registry and env_id in ENVIRONMENTS:
        ENVIRONMENTS.load(env_id)
    _register(env_id)
    try:
        return gymnasium.spec(env_id)
    except gymnasium.error.Error as problem:
        if "Please install" in str(problem) or isinstance(
            problem, gymnasium.error.DependencyNotInstalled
        ):
            raise UserError(f"environment {env_id!r}: {problem}") from problem
    ids = [*gymnasium.registry, *ENVIRONMENTS.names()]
    if env_id not in ids:
        unknown("environment", env_id, ids)
    raise UserError(f"environment {env_id!r} cannot be resolved")


def options_class(spec: EnvSpec) -> type | None:
    """The dataclass of an environment's options; None where it has none."""
    core = spec.kwargs.get("core")
    if isinstance(core, str):
        from semigradient.envs.core import options_at

        return options_at(core)
    if spec.entry_point == _TIME_STEP:
        from semigradient.envs.control.time_step import TimeStepOptions

        return TimeStepOptions
    if _is_atari_game(spec):
        from semigradient.envs.atari import AtariOptions

        return AtariOptions
    return None


def training_only(env_id: str) -> tuple[str, ...]:
    """Options of an environment that have no part in evaluation."""
    return getattr(options_class(check_id(env_id)), "TRAINING_ONLY", ())


def make_vector(
    env_id: str, num_envs: int, seed: int, /, *, render: bool = False, **options: Any
) -> ExactVector:
    """Make `num_envs` copies of `env_id` in one vector environment with exact state.

    Args:
        env_id: any Gymnasium id, or "module:id" for one that a module registers; `ALE/…` games run
            in ale-py's native vector environment, `semigradient/…` on their batched cores,
            Gymnasium's classic control on one array, those of other packages as `envs.foreign`
            says.
        num_envs: batch size B.
        seed: every episode's seed is derived from it.
        render: keep RGB frames for `render()`.
        options: keyword arguments of the environment (for Atari: of the protocol).

    Raises:
        UserError: unknown id, missing extra, unsupported space or option.
    """
    spec = check_id(env_id)
    check_names(options)
    if _is_atari_game(spec):
        from semigradient.envs.atari import AtariVector

        return AtariVector(spec, num_envs, seed, render=render, **options)
    mode = "rgb_array" if render else None
    if spec.id in OURS:
        from semigradient.envs.adapters import CoreVector

        envs = CoreVector(OURS[spec.id], num_envs, seed, render_mode=mode, **options)
        envs.spec = spec
        envs.protocol = {"env": spec.id, **envs.protocol}
        return envs
    from semigradient.envs.foreign import ForeignVector, exact_form

    form = exact_form(spec)
    if form is not None:
        return _exact(form, spec, num_envs, seed, {**options, "render_mode": mode})
    if spec.entry_point is None:
        return ForeignVector(spec, num_envs, seed, render=render, **options)
    from semigradient.envs.classic import ClassicVector, classic_form

    own = None if render else classic_form(spec, options)
    if own is not None:
        return ClassicVector(own, spec, num_envs, seed)
    from semigradient.envs.sync import SyncVector

    return SyncVector(spec, num_envs, seed, render=render, **options)


def make_parallel(env_id: str, render_mode: str | None = None, **options: Any) -> Any:
    """Make one of our games as a PettingZoo `ParallelEnv`, with both seats controlled externally.

    Args:
        env_id: a game, such as semigradient/IPD-v0.
        render_mode: None or "rgb_array".
        options: keyword arguments of the game.

    Raises:
        UserError: not a game of two, pettingzoo missing, or an odd option.
    """
    from semigradient.envs.core import resolve

    env_id = check_id(env_id).id
    core = resolve(OURS[env_id], options) if env_id in OURS else None
    game: Any = getattr(core, "game", None)
    if getattr(game, "players", None) is None:
        raise UserError(f"environment {env_id!r}: is no game of two players")
    try:
        from semigradient.envs.games.parallel import Parallel
    except ModuleNotFoundError as problem:
        missing(f"environment {env_id!r}", str(problem.name), "games")
    return Parallel(game, render_mode, env_id)


def _exact(
    form: type[ExactVector], spec: EnvSpec, num_envs: int, seed: int, options: dict[str, Any]
) -> ExactVector:
    """A vector form from another package whose state can be saved."""
    make: Any = form
    try:
        envs: ExactVector = make(num_envs=num_envs, seed=seed, **{**spec.kwargs, **options})
    except UserError:
        raise
    except Exception as problem:
        raise UserError(f"environment {spec.id!r}: {first_line(problem)}") from problem
    envs.spec = spec
    envs.protocol = {"env": spec.id, **envs.protocol}
    return envs


def _import(module: str, env_id: str) -> None:
    """Import the module that registers an id."""
    try:
        load(module)
    except (ImportError, AttributeError) as problem:
        raise UserError(f"environment {f'{module}:{env_id}'!r}: {problem}") from problem


def _is_atari_game(spec: EnvSpec) -> bool:
    point = spec.entry_point
    return (
        isinstance(point, str)
        and point.startswith("ale_py")
        and spec.kwargs.get("obs_type", "rgb") != "ram"
    )


def _register(env_id: str) -> None:
    """Register ale-py's games only when one is requested: importing it takes time."""
    if env_id.startswith("ALE/") or "NoFrameskip" in env_id:
        import ale_py

        gymnasium.register_envs(ale_py)
