"""Hyperparameters of deep Q-learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from semigradient.agents.q_distributions import check as check_distribution
from semigradient.errors import require, unknown
from semigradient.nets import ACTIVATIONS
from semigradient.nets.bricks import TORSOS
from semigradient.training.conditions import only_with
from semigradient.training.exploration import NoiseConfig
from semigradient.training.prioritised_replay import Priorities


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the defaults are those of Mnih et al. 2015, in environment steps."""

    gamma: float = 0.99
    """Discount of one step, in [0, 1]."""
    double: bool = False
    """Let the online network choose the action that the target network values."""
    dueling: bool = False
    """Split the network into a state value and action advantages."""
    n_step: int = 1
    """Steps of reward before the bootstrap."""
    target: Literal["hard", "ema", "none"] = "hard"
    """Target network: copied periodically, averaged exponentially, or none."""
    target_update_every: int = field(default=10_000, metadata=only_with(target=("hard",)))
    """Environment steps between copies of a hard target."""
    target_rate: float = field(default=0.005, metadata=only_with(target=("ema",)))
    """Share of the online network that an averaged target takes in per gradient step."""
    distribution: Literal["none", "c51", "quantile"] = "none"
    """Learn values, or the distribution of returns on fixed atoms (c51) or by quantiles."""
    atoms: int = field(default=51, metadata=only_with(distribution=("c51", "quantile")))
    """Numbers per action of a distribution; published are 51 (c51) and 200 (quantile)."""
    v_min: float = field(default=-10.0, metadata=only_with(distribution=("c51",)))
    """c51: smallest return."""
    v_max: float = field(default=10.0, metadata=only_with(distribution=("c51",)))
    """c51: largest return."""
    loss: Literal["huber", "mse"] = "huber"
    """Huber loss with threshold 1, or half the squared error."""
    buffer_size: int = 1_000_000
    """Transitions in the replay memory."""
    replay: Literal["uniform", "prioritised"] = "uniform"
    """Draw transitions uniformly, or in proportion to their last errors."""
    priority_exponent: float = field(default=0.6, metadata=only_with(replay=("prioritised",)))
    """prioritised: power of the errors, in [0, 1]; 0 draws uniformly."""
    priority_correction: float = field(default=0.4, metadata=only_with(replay=("prioritised",)))
    """prioritised: power of the importance weights at first, in [0, 1]; it rises to 1."""
    batch_size: int = 32
    """Transitions per gradient step."""
    learning_starts: int = 50_000
    """Environment steps before learning."""
    train_every: int = 4
    """Environment steps between learning phases."""
    gradient_steps: int = 1
    """Gradient steps per learning phase."""
    epsilon_start: float = field(default=1.0, metadata=only_with(exploration=("epsilon",)))
    """Exploration at the beginning: probability of a random action."""
    epsilon_end: float = field(default=0.1, metadata=only_with(exploration=("epsilon",)))
    """Exploration at the end."""
    epsilon_fraction: float = field(default=0.02, metadata=only_with(exploration=("epsilon",)))
    """Share of all steps over which exploration falls linearly."""
    schedule: Literal["constant", "linear"] = "constant"
    """Learning rate over the run: constant, or falling linearly to 0."""
    max_grad_norm: float = 10.0
    """Largest norm of the gradient; 0: no clipping."""
    clip_rewards: bool = False
    """Learn from rewards clipped to [-1, 1] (scores stay raw)."""
    hidden: tuple[int, ...] = (512,)
    """Widths of the hidden layers (for images: behind the convolutions)."""
    activation: str = "relu"
    """Nonlinearity of the hidden layers."""
    torso: str = "auto"
    """Convolutions of images: nature, glimpse, or auto, which is glimpse below 36×36 pixels; or
    coconet, for rolls that are filled."""
    torso_width: int = 16
    """Channels of the glimpse torso's first layer (later ones have two and four times as many), or
    of Coconet's hidden layers."""
    torso_depth: int = 0
    """Extra layers of the glimpse torso, or of Coconet beyond six."""
    layer_norm: bool = False
    """Normalise the hidden layers behind the torso before every nonlinearity."""
    time: Literal["steps", "scaled", "unscaled"] = "steps"
    """Count steps; or gamma, rewards and rates per second, by dt or by reference_step."""
    reference_step: float = field(default=0.01, metadata=only_with(time=("unscaled",)))
    """Duration of a step, in seconds, that unscaled learners assume."""
    exploration: Literal["epsilon", "ou", "white"] = "epsilon"
    """Occasional uniform actions, or noise on the values: coherent (ou) or not (white)."""
    kappa: float = field(default=7.5, metadata=only_with(exploration=("ou", "white")))
    """Rate at which coherent noise returns to 0, per second."""
    sigma: float = field(default=1.5, metadata=only_with(exploration=("ou", "white")))
    """Diffusion of coherent noise, per square root of a second."""

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, f"gamma={self.gamma}: must be in [0, 1]")
        for name in ("n_step", "target_update_every", "batch_size", "train_every"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: must be ≥ 1")
        require(self.gradient_steps >= 1, f"gradient_steps={self.gradient_steps}: must be ≥ 1")
        require(self.learning_starts >= 0, f"learning_starts={self.learning_starts}: must be ≥ 0")
        require(0 < self.target_rate <= 1, f"target_rate={self.target_rate}: must be in (0, 1]")
        for name in ("epsilon_start", "epsilon_end", "epsilon_fraction"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name}={value}: must be in [0, 1]")
        require(
            self.buffer_size >= self.batch_size,
            f"buffer_size={self.buffer_size}: must be ≥ batch_size={self.batch_size}",
        )
        step = self.reference_step
        require(0 < step <= 1, f"reference_step={step}: must be in (0, 1] seconds")
        NoiseConfig(self.exploration, self.kappa, self.sigma)
        Priorities(self.priority_exponent, self.priority_correction)
        check_distribution(self)
        self._refuse_options_without_effect()
        require(self.max_grad_norm >= 0, f"max_grad_norm={self.max_grad_norm}: must be ≥ 0")
        require(len(self.hidden) >= 1, "hidden=(): needs at least one layer")
        require(min(self.hidden, default=1) >= 1, f"hidden={self.hidden}: widths must be ≥ 1")
        require(
            self.activation in ACTIVATIONS,
            f"activation={self.activation!r}: accepted are {', '.join(ACTIVATIONS)}",
        )
        if self.torso not in (*TORSOS, "coconet"):
            unknown("torso", self.torso, (*TORSOS, "coconet"))

    def _refuse_options_without_effect(self) -> None:
        kind = self.distribution
        require(not self.dueling or kind == "none", f"dueling=True: not with distribution={kind!r}")
        is_default = self.loss == "huber" or kind == "none"
        require(is_default, f"loss={self.loss!r}: distribution={kind!r} has a loss of its own")
