"""Small runs in which every field of an agent's config makes a difference.

The first run of an agent is its smallest (`support.smallest`); for what does nothing there, another
is listed here. Unless one is given, the other value of a field is the next choice, the opposite,
one more, or half of it.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any

from semigradient.domains.flows.losses import REGRESSIONS
from semigradient.nets import ACTIVATIONS
from support.smallest import AGENT_FLAGS


@dataclass(frozen=True)
class Situation:
    """A small run, the other values of fields that matter there, and how long it takes."""

    flags: str
    others: dict[str, Any]
    iterations: int = 3


def at(flags: str, usual: str = "", iterations: int = 3, **others: Any) -> Situation:
    """A situation: fields by name that take their usual other value, and others with theirs."""
    return Situation(flags, {**dict.fromkeys(usual.split(), USUAL), **others}, iterations)


USUAL = object()
_NAMES = {
    "activation": tuple(ACTIVATIONS),
    "activation_fn": tuple(ACTIVATIONS),
    "regression": tuple(REGRESSIONS),
    "torso": ("auto", "coconet"),
}


def other_value(config: Any, name: str) -> Any:
    """A value of the field's type that is not the config's."""
    value = getattr(config, name)
    choices = _NAMES.get(name) or typing.get_args(typing.get_type_hints(type(config))[name])
    if isinstance(value, str):
        return choices[(choices.index(value) + 1) % len(choices)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    return (*value, *value[-1:])


_LEARNING = "--preset none --num-envs 2 --learning-starts 8 --train-every 2 --batch-size 8"
_VALUES = f"{_LEARNING} --buffer-size 64 --hidden 8"
_Q = f"--env CartPole-v1 {_VALUES} --steps 400"
_PUNISHED = "--env semigradient/Pendulum-v0 --env-options dt=0.05 actions=discrete"
_TIMED = f"--env semigradient/CartPole-v0 --env-options dt=0.05 {_VALUES}"
_PHYSICAL = AGENT_FLAGS["dau"][0]
_CONTINUOUS = "--env Pendulum-v1 --num-envs 2"
_ROLLOUTS = "--num-envs 2 --rollout-steps 8 --hidden 8"
_TRUNK = AGENT_FLAGS["a2c"][1]
_FILL = _TRUNK.split(" --num-envs")[0]
_GLYPHS = "--env semigradient/Glimpse-v0 --env-options dataset=small-glyphs limit=50"
_CLASSES = AGENT_FLAGS["classifier"][0]
_CELLS = "--env semigradient/HyperGrid-v0 --env-options height=7"
_GRID = f"{_CELLS} --hidden 8"
_MULTIPLE = "--env semigradient/ToyMolecules-v0 --batch-size 4 --hidden 8 --exact-every 2"
_FLOW = f"{_GRID} --batch-size 4 --exact-every 2"
_GRAPHS = AGENT_FLAGS["mars"][0].split(" --chains")[0]
_GRAPH = "--graph-width 8 --graph-steps 2 --test-objects 6"
_MARS = AGENT_FLAGS["mars"][0]
_IPD = "--env semigradient/IPD-v0"
_TOY = "--env semigradient/ToyChorale-v0"
_REWRITE = "--env semigradient/ChoraleRewrite-v0 --env-options model=toy actions=schedule"
_SB3 = "--env CartPole-v1 --preset none --num-envs 2 --steps 400 --net-arch 8"

_SB3_PUNISHED = _SB3.replace("--env CartPole-v1", _PUNISHED)
_SB3_FIELDS = "gamma net_arch activation_fn schedule normalize_obs normalize_reward"
_TRUNKS: dict[str, Any] = {"torso": "auto", "torso_width": 5, "torso_depth": 1}
_PIXELS = "--env test/Minefield-v0 --env-options images=true"  # of support.problems
_UNSCALED: dict[str, Any] = {"iterations": 8, "scale_gradient_steps": False}
_BELOW: dict[str, Any] = {"torso_width": 4, "torso_depth": 1}

SITUATIONS: dict[str, list[Situation]] = {
    "a2c": [
        at(f"{_CONTINUOUS} {_ROLLOUTS}", log_std_init=-1.0),
        at(f"{_PUNISHED} {_ROLLOUTS}", "clip_rewards"),
        at(_TRUNK, **_TRUNKS),
    ],
    "ppo": [
        at(AGENT_FLAGS["ppo"][0], clip_value=1e-3, target_kl=1e-9, rollout_steps=16, batch_size=4),
        at(f"{_CONTINUOUS} {_ROLLOUTS} --batch-size 8", log_std_init=-1.0),
        at(f"{_PUNISHED} {_ROLLOUTS} --batch-size 8", "clip_rewards"),
        at(f"{_TRUNK} --batch-size 8", **_TRUNKS),
    ],
    "dqn": [
        at(
            _Q,
            "gamma dueling loss gradient_steps schedule epsilon_fraction activation n_step "
            "distribution replay",
            20,
            target="none",
            batch_size=9,
            learning_starts=12,
            train_every=4,
            max_grad_norm=0.01,
            epsilon_start=0.5,
            buffer_size=20,
        ),
        at(f"{_Q} --epsilon-fraction 0", "epsilon_end"),
        at(f"{_Q} --target-update-every 100", iterations=16, target_update_every=4),
        at(f"{_Q} --target ema", iterations=12, target_rate=0.5),
        at(f"{_Q} --distribution c51", "atoms v_min v_max", 12),
        at(f"{_Q} --replay prioritised", "priority_exponent priority_correction", 12),
        at(f"{_Q} --optim.lr 0.3", "double", 20),
        at(f"{_PUNISHED} {_VALUES}", "clip_rewards", 12),
        at(f"{_TIMED} --time unscaled", "reference_step", 12, time="steps"),
        at(f"{_TIMED} --exploration ou", "kappa sigma", 20, exploration="white"),
        at(f"{_GLYPHS} {_VALUES}", iterations=8, **_BELOW),
        at(f"{_PIXELS} {_VALUES}", iterations=8, torso="glimpse"),
    ],
    "td3": [
        at(
            AGENT_FLAGS["td3"][0],
            "gamma target_rate gradient_steps schedule activation policy_delay exploration_noise "
            "target_noise target_noise_clip",
            16,
            buffer_size=16,
            batch_size=9,
            learning_starts=20,
            train_every=4,
        ),
        at(AGENT_FLAGS["td3"][0].replace("train-every 2", "train-every 1"), **_UNSCALED),
    ],
    "sac": [
        at(
            AGENT_FLAGS["sac"][0],
            "gamma target_rate gradient_steps scale_gradient_steps schedule activation "
            "temperature adjust_temperature entropy_per_dimension",
            16,
            buffer_size=16,
            batch_size=9,
            learning_starts=20,
            train_every=4,
        ),
    ],
    "reinforce": [
        at(f"{_GLYPHS} --num-envs 2 --hidden 8", **_BELOW),
        at(f"{_PIXELS} --hidden 8", torso="glimpse"),
        at(f"{_CONTINUOUS} --hidden 8", log_std_init=-1.0),
    ],
    "online-ac": [
        at(
            AGENT_FLAGS["online-ac"][0],
            "gamma trace_decay",
            6,
            chrono=9.0,
            max_grad_norm=0.01,
            estimator="rtrl",
        ),
        at(AGENT_FLAGS["online-ac"][2], "truncation", 6),
        at(AGENT_FLAGS["online-ac"][3], "segment_mean", 12, segment_mean=2.0),
        at(f"{_CONTINUOUS} --units 3", log_std_init=-1.0),
    ],
    "pcl": [
        at(
            f"{_TOY} --num-envs 2 --learning-starts 8 --batch-size 8 --hidden 8 --path-length 4",
            "temperature gamma unified rollout_steps gradient_steps schedule activation",
            16,
            path_length=3,
            batch_size=9,
            buffer_size=16,
            learning_starts=20,
            max_grad_norm=0.01,
        ),
        at(f"{_FILL} --num-envs 2 --learning-starts 8", **_TRUNKS),
    ],
    "soft-q": [
        at(
            f"{_GRID} {_LEARNING} --buffer-size 64",
            "gamma entropy_share target_rate train_every gradient_steps schedule activation",
            16,
            buffer_size=16,
            batch_size=9,
            learning_starts=20,
            max_grad_norm=0.01,
        )
    ],
    "dau": [
        at(_PHYSICAL, warm_up=40, buffer_size=16, iterations=12),
        at(f"{_PHYSICAL} --time unscaled", "reference_step"),
        at(f"{_PHYSICAL} --exploration epsilon", "epsilon"),
    ],
    "ddpg": [
        at(_PHYSICAL, warm_up=40, buffer_size=16, iterations=12),
        at(f"{_PHYSICAL} --exploration epsilon", "epsilon"),
    ],
    "classifier": [at(_CLASSES, "activation")],
    "composer": [
        at(f"{_TOY} --num-envs 2", kind="random-legal", iterations=1),
        at(f"{_REWRITE} --num-envs 2 --kind constant", "alpha"),
        at(f"{_REWRITE} --num-envs 2 --kind annealed", "alpha_max alpha_min eta", 8),
    ],
    "coconet": [at(AGENT_FLAGS["coconet"][0], schedule="linear", patience=9, iterations=12)],
    "cola": [at(f"{AGENT_FLAGS['cola'][0]} --num-envs 16", "alpha")],
    "meva": [
        at(
            AGENT_FLAGS["meva"][0],
            gamma=0.2,
            evaluation_updates=50,
            trajectory=6,
            stride=1,
            opponent="naive",
        ),
        at(f"{AGENT_FLAGS['meva'][0]} --opponent lola", opponent_alpha=1.0),
        at(f"{AGENT_FLAGS['meva'][0]} --td-lambda 0 --target-rate 1", "full_gradient"),
    ],
    "m-maml": [at(AGENT_FLAGS["m-maml"][0], evaluation_updates=50)],
    "m-fos": [at(AGENT_FLAGS["m-fos"][0], evaluation_updates=50, batch_size=16, opponent="self")],
    "naive": [at(f"{_IPD} --pairs 4 --rule lola", alpha=1.0, opponent="naive", rule="naive")],
    "lola-dice": [at(f"{_IPD} --env-options horizon=0 --batch-size 4", rounds=7)],
    "brs": [
        at(f"{AGENT_FLAGS['brs'][0]} --optim.lr 1", buffer_size=1),
        at(f"{AGENT_FLAGS['brs'][0]} --self-play", "lr_sharing"),
    ],
    "brs-exact": [
        at(
            AGENT_FLAGS["brs-exact"][0],
            "self_play gamma temperature final_temperature memory initial_scale hidden",
            lookahead=2,
        )
    ],
    "brs-ipd": [at(f"{_IPD} --env-options horizon=0 --trees 4 --hidden 4", "rounds")],
    "gflownet": [
        at(f"{_FLOW} --reduction balanced", "leaf_weight"),
        at(f"{_FLOW} --loss subtb", "lambda_"),
        at(f"{_FLOW} --loss tb", "log_z lr_log_z regression"),
        at(f"{_FLOW} --loss db", "backward"),
        at(f"{_FLOW} --loss db --backward learned", "separate_backward"),
        at(f"{_FLOW} --loss tb", exponent_range=(1.0, 4.0)),
        at(f"{_CELLS} second=sparse --hidden 8 --batch-size 4", "preferences"),
        at(
            f"{_FLOW} --loss tb --local-search 2",
            "local_search local_search_back local_search_filter",
            8,
        ),
        at(f"{_FLOW} --random-actions 0.9 --steps 20", "random_schedule", 8),
        at(
            f"{_FLOW} --replay trajectories --replay-size 8",
            "replay_size replay_share replay_priority replay_top",
            8,
        ),
        at(
            f"{_FLOW} --replay trajectories --replay-priority reward",
            iterations=8,
            replay_power=9.0,
        ),
        at(f"{_FLOW} --offline uniform-objects --offline-size 20", "offline_size"),
        at(f"{_FLOW} --loss db --target ema", "target_rate"),
        at(f"{_FLOW} --loss db --target frozen --target-period 9", target_period=1),
        at(f"{_FLOW} --steps 24", "schedule", activation="tanh", window=2, exact_every=1),
        at(f"{_GRAPHS} {_GRAPH}", "graph_width graph_steps graph_form bidirectional double"),
        at(f"{_GRAPHS.replace('mw_window', 'qed')} {_GRAPH} --exact-every 1", "test_objects"),
        at(_MULTIPLE, "exact_parents"),
    ],
    "mars": [
        at(
            f"{_GRID} --chains 4 --moves 5 --batch-size 8",
            "reward_exponent updates hidden activation backward",
            8,
            other_moves=1.0,
            batch_size=4,
            memory=4,
            adapt=0.0,
            window=2,
        ),
        at(_MARS, graph_width=4, graph_steps=1, iterations=8),
    ],
    "metropolis": [at(f"{_CELLS} --chains 4", window=2)],
    "genetic": [
        at(
            f"{_CELLS} --population 8 --offspring 4",
            "crossover mutation pressure",
            8,
            population=3,
            window=2,
        )
    ],
    "sb3-dqn": [
        at(
            f"{_SB3} --buffer-size 64 --learning-starts 8 --batch-size 8",
            f"{_SB3_FIELDS} exploration_fraction exploration_initial_eps gradient_steps",
            12,
            batch_size=9,
            n_steps=3,
            max_grad_norm=0.01,
            buffer_size=16,
            learning_starts=20,
            train_freq=2,
        ),
        at(f"{_SB3} --buffer-size 64 --exploration-fraction 0.001", "exploration_final_eps", 8),
        at(f"{_SB3} --buffer-size 64 --learning-starts 8 --target-update-interval 4", "tau", 12),
        at(f"{_SB3} --buffer-size 64 --learning-starts 8", iterations=12, target_update_interval=4),
        at(f"{_SB3_PUNISHED} --buffer-size 64 --learning-starts 8", "clip_rewards", 12),
    ],
    "sb3-ppo": [
        at(
            f"{_SB3} --batch-size 8 --n-steps 8 --n-epochs 2",
            f"{_SB3_FIELDS} ent_coef vf_coef n_epochs clip_range clip_schedule",
            batch_size=4,
            n_steps=4,
            max_grad_norm=0.01,
            gae_lambda=0.5,
            normalize_advantage=False,
            clip_range_vf=1e-3,
            target_kl=1e-9,
        ),
        at(f"{_SB3_PUNISHED} --batch-size 8 --n-steps 8", "clip_rewards"),
    ],
    "sb3-a2c": [
        at(
            f"{_SB3} --n-steps 8",
            f"{_SB3_FIELDS} ent_coef vf_coef normalize_advantage",
            n_steps=4,
            max_grad_norm=0.01,
            gae_lambda=0.5,
        ),
        at(f"{_SB3_PUNISHED} --n-steps 8", "clip_rewards"),
    ],
}
"""By agent; one that is not here has none beside its smallest run."""

_ZIP = {"import_zip": "a file: tests/agents/sb3/test_sb3.py"}
_WEIGHTS = {"torso_weights": "a run folder: tests/agents/music/test_coconet_agent.py"}
EXCUSED: dict[str, dict[str, str]] = {
    **dict.fromkeys(("a2c", "ppo", "pcl"), _WEIGHTS),
    **dict.fromkeys(("sb3-dqn", "sb3-ppo", "sb3-a2c"), _ZIP),
    "classifier": {
        "task": "another task is of other environments, and refused",
        "torso": "images of data sets are too small for the other, which refuses them",
    },
}
"""Fields that no small run shows, with the reason."""
