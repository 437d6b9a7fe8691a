"""Environments, by Gymnasium id.

`make_vector` is the one door: it gives every agent the same kind of vector environment
(SAME_STEP autoreset, dense `final_obs`, exact `state_dict`), whatever stands behind the id.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from envs.vector import ExactVector
from errors import UserError, unknown

__all__ = ["ExactVector", "check_id", "make_parallel", "make_vector"]

OURS: dict[str, str] = {
    "afterstate/Glimpse-v0": "envs.glimpse:make",
    "afterstate/HyperGrid-v0": "envs.hypergrid:make",
    "afterstate/ActiveHyperGrid-v0": "envs.active_learning:make",
    "afterstate/ToyMolecules-v0": "envs.molecules:make_toy",
    "afterstate/ToyChorale-v0": "envs.chorale_fill:make_toy",
    "afterstate/ChoraleFill-v0": "envs.chorale_fill:make",
    "afterstate/ChoraleRewrite-v0": "envs.chorale_rewrite:make",
    "afterstate/ChoraleChrono-v0": "envs.chorale_chrono:make",
    "afterstate/Chorales-v0": "envs.chorale_completion:make",
    "afterstate/Molecule-v0": "envs.molecule:make",
    "afterstate/ActiveMolecule-v0": "envs.active_molecules:make",
    "afterstate/Classification-v0": "envs.supervised:make_classification",
    "afterstate/Regression-v0": "envs.supervised:make_regression",
    "afterstate/CoinGame-v0": "envs.coin_game:make",
    "afterstate/Pendulum-v0": "envs.classic_control:make_pendulum",
    "afterstate/CartPole-v0": "envs.classic_control:make_cart_pole",
    "afterstate/Pusher-v0": "envs.closed_forms:make_pusher",
    "afterstate/LQ1-v0": "envs.closed_forms:make_lq1",
    "afterstate/LQR1-v0": "envs.closed_forms:make_lqr1",
    "afterstate/Hill-v0": "envs.closed_forms:make_hill",
    "afterstate/Sine-v0": "envs.closed_forms:make_sine",
    "afterstate/IPD-v0": "envs.iterated:make_ipd",
    "afterstate/MatchingPennies-v0": "envs.iterated:make_matching_pennies",
    "afterstate/Chicken-v0": "envs.iterated:make_chicken",
    "afterstate/StagHunt-v0": "envs.iterated:make_stag_hunt",
    "afterstate/MatrixGame-v0": "envs.iterated:make_matrix_game",
    "afterstate/LogisticGame-v0": "envs.logistic:make",
}
"""Ids of our own environments, and what makes their cores."""

_WRITTEN = "envs.faces:WrittenEnv"
SINGLE: dict[str, str] = {
    "afterstate/ToyChorale-v0": _WRITTEN,
    "afterstate/ChoraleFill-v0": _WRITTEN,
    "afterstate/ChoraleRewrite-v0": _WRITTEN,
    "afterstate/ChoraleChrono-v0": _WRITTEN,
    "afterstate/Molecule-v0": "envs.molecule:MoleculeEnv",
}
"""Ids whose single environment can do more than `CoreEnv`: be rendered in letters, and so on."""

for _id, _core in OURS.items():
    gymnasium.register(
        _id,
        entry_point=SINGLE.get(_id, "envs.faces:CoreEnv"),
        vector_entry_point="envs.faces:CoreVector",
        kwargs={"core": _core},
    )


REFINED: dict[str, str] = {
    "afterstate/BipedalWalker-v0": "BipedalWalker-v3",
    "afterstate/HalfCheetah-v0": "HalfCheetah-v5",
    "afterstate/Ant-v0": "Ant-v5",
}
"""Ids of Gymnasium's environments at any time step; `afterstate/TimeStep-v0` takes others."""

gymnasium.register("afterstate/TimeStep-v0", entry_point="envs.time_step:make")
for _id, _base in REFINED.items():
    gymnasium.register(_id, entry_point="envs.time_step:make", kwargs={"base": _base})


def check_id(env_id: str) -> gymnasium.envs.registration.EnvSpec:
    """Return the registered spec of `env_id`, or raise a `UserError` with the nearest ids."""
    _register(env_id)
    try:
        return gymnasium.spec(env_id)
    except gymnasium.error.Error as problem:
        if "Please install" in str(problem) or isinstance(
            problem, gymnasium.error.DependencyNotInstalled
        ):
            raise UserError(f"environment {env_id!r}: {problem}") from problem
    known = list(gymnasium.registry)
    if env_id not in known:
        unknown("environment", env_id, known)
    raise UserError(f"environment {env_id!r} cannot be resolved")


def make_vector(
    env_id: str, num_envs: int, seed: int, render: bool = False, **options: Any
) -> ExactVector:
    """Make `num_envs` copies of `env_id` in one vector environment with exact state.

    Args:
        env_id: any Gymnasium id; `ALE/…` games run in ale-py's native vector environment,
            `afterstate/…` on their batched cores.
        num_envs: batch size B.
        seed: every episode's seed is derived from it.
        render: keep RGB frames for `render()`.
        options: keyword arguments of the environment (for Atari: of the protocol).

    Raises:
        UserError: unknown id, missing extra, unsupported space or option.
    """
    spec = check_id(env_id)
    if _is_atari_game(spec):
        from envs.atari import AtariVector

        return AtariVector(spec, num_envs, seed, render=render, **options)
    if env_id in OURS:
        from envs.faces import CoreVector

        mode = "rgb_array" if render else None
        envs = CoreVector(OURS[env_id], num_envs, seed, render_mode=mode, **options)
        envs.spec = spec
        envs.protocol = {"env": env_id, **envs.protocol}
        return envs
    from envs.sync import SyncVector

    return SyncVector(spec, num_envs, seed, render=render, **options)


def make_parallel(env_id: str, render_mode: str | None = None, **options: Any) -> Any:
    """Make one of our games as a PettingZoo `ParallelEnv`, both seats played from outside.

    Args:
        env_id: a game, such as afterstate/IPD-v0.
        render_mode: None or "rgb_array".
        options: keyword arguments of the game.

    Raises:
        UserError: not a game of two, pettingzoo missing, or an odd option.
    """
    from envs.faces import resolve

    check_id(env_id)
    core = resolve(OURS[env_id], options) if env_id in OURS else None
    game: Any = getattr(core, "game", None)
    if getattr(game, "players", None) is None:
        raise UserError(f"environment {env_id!r}: is no game of two players")
    try:
        from envs.parallel import Parallel
    except ModuleNotFoundError as problem:
        raise UserError(
            f"environment {env_id!r}: needs {problem.name} (pip install 'afterstate[games]')"
        ) from problem
    return Parallel(game, render_mode, env_id)


def _is_atari_game(spec: gymnasium.envs.registration.EnvSpec) -> bool:
    point = spec.entry_point
    return (
        isinstance(point, str)
        and point.startswith("ale_py")
        and spec.kwargs.get("obs_type", "rgb") != "ram"
    )


def _register(env_id: str) -> None:
    """Register ale-py's games only when one is asked for: importing it costs time."""
    if env_id.startswith("ALE/") or "NoFrameskip" in env_id:
        import ale_py

        gymnasium.register_envs(ale_py)
