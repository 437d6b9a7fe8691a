"""Hyperparameters of `agents.gflownet.gflownet`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from semigradient.domains.flows.local_search import Filter
from semigradient.domains.flows.losses import REGRESSIONS
from semigradient.domains.flows.objectives import OBJECTIVES, Objective, Rules
from semigradient.errors import require, unknown
from semigradient.nets import ACTIVATIONS
from semigradient.training.conditions import SOME, only_with

Loss = Literal["fm", "db", "tb", "subtb", "fl-db", "fl-subtb", "modified-db", "log-variance"]
Backward = Literal["uniform", "learned", "tree"]
Reduction = Literal["mean_transitions", "sum_trajectory", "balanced"]
Replay = Literal["none", "trajectories", "terminals", "transitions"]
Priority = Literal["uniform", "reward", "loss"]
Offline = Literal["none", "random-policy", "uniform-objects"]
Target = Literal["none", "ema", "frozen"]
Form = Literal["published", "normalised"]
CHOICES: dict[str, Any] = {
    "loss": Loss,
    "backward": Backward,
    "reduction": Reduction,
    "replay": Replay,
    "replay_priority": Priority,
    "offline": Offline,
    "target": Target,
    "graph_form": Form,
    "local_search_filter": Filter,
}

_FIXED = ("random-policy", "uniform-objects")
_KEPT = ("trajectories", "terminals", "transitions")


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are those of the published grid experiments' code."""

    loss: Loss = "fm"
    """Condition that is learned: fm, db, tb, subtb, fl-db, fl-subtb, modified-db, log-variance."""
    backward: Backward = "uniform"
    """Backward policy; tree takes every state to have one parent, which biases (for study)."""
    batch_size: int = 16
    """Trajectories (with replay "transitions": edges times its share) per gradient step."""
    reward_exponent: float = 1.0
    """β of the distribution R^β / Z that is learned."""
    exponent_range: tuple[float, ...] = ()
    """LOW HIGH: β is drawn from this range for every gradient step, and the network sees it."""
    preferences: bool = False
    """The weight of the second of two objectives is drawn for every gradient step, and seen."""
    reduction: Reduction = "mean_transitions"
    """How fm, db, fl-db and modified-db average over edges."""
    leaf_weight: float = field(default=10.0, metadata=only_with(reduction=("balanced",)))
    """Weight of edges that end a trajectory, with reduction balanced."""
    epsilon: float = field(default=0.0, metadata=only_with(loss=("fm",)))
    """ε of flow matching, about the smallest reward that matters; 0 for none."""
    lambda_: float = field(default=0.9, metadata=only_with(loss=("subtb", "fl-subtb")))
    """λ of sub-trajectory balance."""
    regression: str = "squared"
    """Penalty of a residual: squared, half, huber or cosh."""
    lr_log_z: float = field(default=0.1, metadata=only_with(loss=("tb",)))
    """Learning rate of log Z (tb), apart from that of the network."""
    log_z: float = field(default=0.0, metadata=only_with(loss=("tb",)))
    """Initial log Z (tb)."""
    random_actions: float = 0.0
    """Probability of a random legal action instead of the policy's, in [0, 1]."""
    random_schedule: Literal["constant", "linear"] = field(
        default="constant", metadata=only_with(random_actions=SOME)
    )
    """Random actions over the run: constant, or falling linearly to 0."""
    sharpness: float = 1.0
    """κ, an inverse temperature that multiplies the behaviour's logits (below 1 explores more)."""
    replay: Replay = "none"
    """What is remembered: trajectories, their objects (rebuilt backwards), or single edges."""
    replay_size: int = field(default=20_000, metadata=only_with(replay=_KEPT))
    """How many of them."""
    replay_share: float = field(default=0.5, metadata=only_with(replay=_KEPT))
    """Share of a batch that comes from memory, in [0, 1]; the rest is new, on top of it."""
    replay_priority: Priority = field(default="uniform", metadata=only_with(replay=_KEPT))
    """Drawn uniformly, or in proportion to a power of R^β or of the loss when last new."""
    replay_power: float = field(default=1.0, metadata=only_with(replay_priority=("reward", "loss")))
    """That power."""
    replay_top: bool = field(default=False, metadata=only_with(replay=_KEPT))
    """Keep the ones of highest priority instead of the newest."""
    local_search: int = 0
    """Steps of local search around what was built: walk back, cut, build on (Kim et al. 2024)."""
    local_search_back: float = field(default=0.5, metadata=only_with(local_search=SOME))
    """Share of a construction that is cut off, in [0, 1]; 0: as many edges as chance says."""
    local_search_filter: Filter = field(default="metropolis", metadata=only_with(local_search=SOME))
    """What takes an object's place: metropolis keeps the target, deterministic takes the better."""
    offline: Offline = "none"
    """Learn from a fixed set instead: of a random policy, or walked back from random objects."""
    offline_size: int = field(default=2000, metadata=only_with(offline=_FIXED))
    """Trajectories of that set."""
    target: Target = "none"
    """Network of the flows further on (fm, db, fl-db): the same, an average, or an old copy."""
    target_rate: float = field(default=0.1, metadata=only_with(target=("ema",)))
    """Share of the network that an averaged target takes in per gradient step."""
    target_period: int = field(default=100, metadata=only_with(target=("frozen",)))
    """Gradient steps between copies."""
    max_grad_norm: float = 0.0
    """Largest norm of the gradient; 0 leaves it alone."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: str = "leaky_relu"
    """Nonlinearity of the hidden layers."""
    separate_backward: bool = field(default=False, metadata=only_with(backward=("learned",)))
    """A network of its own for the learned backward policy."""
    exact_parents: bool = True
    """Count every action that leads to a state; false counts parents once (wrong, for study)."""
    exact_every: int = 100
    """Gradient steps between exact evaluations, with one at the end of the run; 0 for none."""
    window: int = 200_000
    """Objects behind the empirical distribution."""
    graph_width: int = 256
    """Molecules: width of embeddings and layers."""
    graph_steps: int = 10
    """Molecules: convolutions over the tree of blocks."""
    graph_form: Form = "published"
    """Molecules: normalised has layer norms and messages of unit scale."""
    bidirectional: bool = False
    """Molecules: messages both ways along bonds (the published network: outwards only)."""
    double: bool = False
    """Molecules: 64-bit numbers in the network, as published."""
    test_objects: int = 64
    """Molecules: random ones on which log P and log R are correlated, every exact_every."""

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value, known = getattr(self, name), get_args(choices)
            if value not in known:
                unknown(name, value, known)
        counts = ("batch_size", "replay_size", "offline_size", "target_period", "window")
        for name in (*counts, "graph_width", "graph_steps"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        for name in ("reward_exponent", "lambda_", "lr_log_z", "sharpness"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name}={value}: must be positive and finite")
        amounts = ("leaf_weight", "epsilon", "max_grad_norm", "exact_every", "replay_power")
        for name in (*amounts, "test_objects", "local_search"):
            value = getattr(self, name)
            require(value >= 0, f"{name}={value}: must be ≥ 0")
        for name in ("random_actions", "replay_share", "local_search_back"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}={value}: must be in [0, 1]")
        require(0 < self.target_rate <= 1, f"target_rate={self.target_rate}: must be in (0, 1]")
        require(min(self.hidden, default=1) >= 1, f"hidden={self.hidden}: widths must be ≥ 1")
        for name, table in (("regression", REGRESSIONS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in table:
                unknown(name, getattr(self, name), table)
        bounds = self.exponent_range
        good = not bounds or (len(bounds) == 2 and 0 < bounds[0] < bounds[1] < math.inf)
        require(good, f"exponent_range={bounds}: must be two numbers, 0 < low < high")
        inside = not bounds or bounds[0] <= self.reward_exponent <= bounds[1]
        beta = f"reward_exponent={self.reward_exponent}"
        require(inside, f"{beta}: must be in exponent_range={bounds}; evaluation takes it")
        both = self.preferences and bool(bounds)
        require(not both, "preferences=True: one condition at a time, leave exponent_range out")
        self._require_a_match()

    @property
    def condition_range(self) -> tuple[float, float] | None:
        """What a condition is drawn from: β, or a weight in [0, 1]; None: there is none."""
        if self.preferences:
            return (0.0, 1.0)
        return (self.exponent_range[0], self.exponent_range[1]) if self.exponent_range else None

    def _require_a_match(self) -> None:
        """What cannot go together."""
        edgewise = ", ".join(name for name, made in OBJECTIVES.items() if made.on_edges)
        require(
            self.replay != "transitions" or self.objective.on_edges,
            f"replay='transitions': accepted with loss {edgewise}, not {self.loss!r}",
        )
        targets = ", ".join(name for name, made in OBJECTIVES.items() if made.has_target)
        require(
            self.target == "none" or self.objective.has_target,
            f"target={self.target!r}: accepted with loss {targets}, not {self.loss!r}",
        )
        require(
            self.objective.has_backward_policy or self.backward != "learned",
            "backward='learned': flow matching has no backward policy; accepted are uniform, tree",
        )
        require(
            self.loss != "log-variance" or self.batch_size > 1,
            "batch_size=1: one trajectory has no variance; loss='log-variance' accepts ≥ 2",
        )
        searched = f"local_search={self.local_search}"
        require(
            self.local_search == 0 or self.offline == "none",
            f"{searched}: a fixed set is not searched",
        )
        require(
            self.local_search == 0 or self.backward != "tree",
            f"{searched}: accepted with backward uniform, learned",
        )
        require(
            self.replay == "none" or self.offline == "none",
            "offline: a fixed set is not mixed with replay",
        )

    @property
    def objective(self) -> Objective:
        """What is learned, and from which condition."""
        return OBJECTIVES[self.loss]

    @property
    def asks_parents(self) -> bool:
        """Whether the objective looks at all parents of a state."""
        return not self.objective.has_backward_policy and self.backward != "tree"

    @property
    def rules(self) -> Rules:
        """The part that the objective needs."""
        log_epsilon = math.log(self.epsilon) if self.epsilon > 0 else -math.inf
        return Rules(self.lambda_, log_epsilon, self.regression, self.reduction, self.leaf_weight)
