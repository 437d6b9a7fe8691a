"""The hyperparameters of each optimizer: frozen dataclasses that validate themselves.

torch is imported when an optimizer is built, not when its options are described.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from semigradient.errors import UserError, require, unknown
from semigradient.optim.forms import FORMS, Form, Motion, Rest

if TYPE_CHECKING:
    import torch

    Params: TypeAlias = Iterable[torch.Tensor] | Iterable[dict[str, Any]]


Correction: TypeAlias = Literal["full", "diagonal", "block", "layer", "kronecker", "low-rank"]


class OptimizerConfig(Protocol):
    """What `optim.make` needs of a configuration."""

    @property
    def lr(self) -> float:
        """Learning rate before any schedule."""

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Return the optimizer over `params`."""


def _positive(**values: float) -> None:
    for name, value in values.items():
        require(value != math.inf, f"{name}={value}: must be finite")
        require(value > 0, f"{name}={value}: must be > 0")


def _non_negative(**values: float) -> None:
    for name, value in values.items():
        require(value != math.inf, f"{name}={value}: must be finite")
        require(value >= 0, f"{name}={value}: must be >= 0")


def _fraction(**values: float) -> None:
    for name, value in values.items():
        require(0 <= value < 1, f"{name}={value}: must be in [0, 1)")


def _options(form: type[Form]) -> set[str]:
    return {field.name for field in dataclasses.fields(form)}


def _fusable(params: Params) -> tuple[list[Any], bool | None]:
    """Return `params` as a list and whether torch's fused kernel serves all of them.

    Fused beats foreach and the plain loop on CPU as well as on CUDA, for small networks
    (fewer dispatches) and large ones (one pass over memory). Elsewhere torch chooses (None).
    """
    listed: list[Any] = []
    tensors: list[torch.Tensor] = []
    for item in params:
        if isinstance(item, dict):
            # A group may hold a generator, which can be read only once.
            group = item["params"]
            group = [group] if hasattr(group, "is_floating_point") else list(group)
            listed.append({**item, "params": group})
            tensors += group
        else:
            listed.append(item)
            tensors.append(item)
    fits = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in tensors)
    return listed, True if fits else None


@dataclass(frozen=True)
class NoOptimizerConfig:
    """In the place of an optimizer, for agents that have none."""

    @property
    def lr(self) -> float:
        """Nothing is learned by gradients."""
        return 0.0

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Refuse."""
        raise UserError("--optim none: this agent needs an optimizer")


@dataclass(frozen=True)
class SGDConfig:
    """Plain stochastic gradient descent."""

    lr: float = 1e-2
    """Learning rate."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr)
        _non_negative(weight_decay=self.weight_decay)

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Return `torch.optim.SGD` without momentum."""
        import torch

        params, fused = _fusable(params)
        return torch.optim.SGD(params, lr=self.lr, weight_decay=self.weight_decay, fused=fused)


@dataclass(frozen=True)
class MomentumConfig:
    """Dampened momentum from a zero start: mu = beta mu + (1 - beta) g."""

    lr: float = 1e-2
    """Learning rate; (1 - beta) times that of `torch.optim.SGD`'s undampened momentum."""
    beta: float = 0.9
    """Share of the average of past gradients that is kept at each step."""
    weight_decay: float = 0.0
    """Weight decay, per step and unit of learning rate."""
    decoupled_weight_decay: bool = False
    """Shrink the parameters directly instead of adding the decay to the gradient."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr)
        _fraction(beta=self.beta)
        _non_negative(weight_decay=self.weight_decay)

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Return `optim.momentum.Momentum`."""
        from semigradient.optim.momentum import Momentum

        return Momentum(params, self.lr, self.beta, self.weight_decay, self.decoupled_weight_decay)


@dataclass(frozen=True)
class NesterovConfig:
    """Nesterov's accelerated gradient in PyTorch's form (undampened)."""

    lr: float = 1e-2
    """Learning rate."""
    momentum: float = 0.9
    """Share of the velocity that is kept at each step."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr)
        require(0 < self.momentum < 1, f"momentum={self.momentum}: must be in (0, 1)")
        _non_negative(weight_decay=self.weight_decay)

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Return `torch.optim.SGD` with Nesterov momentum."""
        import torch

        params, fused = _fusable(params)
        return torch.optim.SGD(
            params,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=True,
            weight_decay=self.weight_decay,
            fused=fused,
        )


@dataclass(frozen=True)
class RMSpropConfig:
    """RMSprop: the gradient over the root of its running mean square."""

    lr: float = 1e-3
    """Learning rate."""
    alpha: float = 0.99
    """Share of the running mean square that is kept at each step."""
    eps: float = 1e-8
    """Added to the denominator."""
    momentum: float = 0.0
    """Share of the velocity that is kept at each step."""
    centered: bool = False
    """Subtract the squared running mean of the gradient: divide by its standard deviation."""
    eps_inside_sqrt: bool = False
    """Divide by sqrt(v + eps), as TensorFlow and the published Atari results, not sqrt(v) + eps."""
    initial_square: float = 0.0
    """Mean square before the first step (1 in TensorFlow, which makes the first steps small)."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr, eps=self.eps)
        _fraction(alpha=self.alpha, momentum=self.momentum)
        _non_negative(initial_square=self.initial_square, weight_decay=self.weight_decay)

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Return `optim.rmsprop.RMSprop`."""
        from semigradient.optim.rmsprop import RMSprop

        return RMSprop(
            params,
            self.lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            centered=self.centered,
            eps_inside_sqrt=self.eps_inside_sqrt,
            initial_square=self.initial_square,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True)
class AdamConfig:
    """Adam (Kingma and Ba, 2015)."""

    lr: float = 1e-3
    """Learning rate."""
    beta1: float = 0.9
    """Share of the running mean of the gradient that is kept at each step."""
    beta2: float = 0.999
    """Share of the running mean of the squared gradient that is kept at each step."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr, eps=self.eps)
        _fraction(beta1=self.beta1, beta2=self.beta2)
        _non_negative(weight_decay=self.weight_decay)

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Return `torch.optim.Adam`, with less around its steps."""
        from semigradient.optim.adam import Adam

        params, fused = _fusable(params)
        betas = (self.beta1, self.beta2)
        return Adam(params, self.lr, betas, self.eps, self.weight_decay, fused=fused)


@dataclass(frozen=True)
class AdamWConfig(AdamConfig):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    weight_decay: float = 1e-2
    """Share of each parameter removed per step and unit of learning rate."""

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Return `torch.optim.AdamW`, with less around its steps."""
        from semigradient.optim.adam import AdamW

        params, fused = _fusable(params)
        betas = (self.beta1, self.beta2)
        return AdamW(params, self.lr, betas, self.eps, self.weight_decay, fused=fused)


@dataclass(frozen=True)
class CorrectedMomentumConfig:
    """Momentum whose past gradients are moved to the present parameters, to first order."""

    lr: float = 1e-2
    """Learning rate."""
    beta: float = 0.9
    """Share of the average of past gradients that is kept at each step."""
    correction: Correction = "diagonal"
    """Matrix of derivatives, over n parameters: n x n; its diagonal; its diagonal blocks; one
    matrix per layer; Kronecker factors per layer; or the rows of the last minibatches."""
    form: Motion = "displacement"
    """Direction that old gradients are moved along: the displacement of the parameters, exact for
    any update rule, or the learning rate times the corrected momentum, as printed."""
    block_size: int = 16
    """block: consecutive parameters per block."""
    layers: int = 0
    """full, layer: how many layers, counted from the input (negative: from the output; 0: all)."""
    rest: Rest = "diagonal"
    """full, layer: what the other layers get, the diagonal or plain momentum."""
    factor_size: int = 256
    """kronecker: largest block of a factor, in inputs or outputs (0: no blocks)."""
    positions: int = 64
    """kronecker: positions of an image that a convolution's factors are made from (0: all)."""
    window: int = 0
    """low-rank: minibatches that are kept (0: 2 / (1 - beta))."""
    weight_decay: float = 0.0
    """Weight decay, per step and unit of learning rate."""
    decoupled_weight_decay: bool = False
    """Shrink the parameters directly instead of adding the decay to the gradient."""
    chunk_size: int = 0
    """Samples whose derivatives are held in memory at once (0: the whole minibatch)."""
    follow_target: bool = False
    """Correct for the motion of a target network, too (twice the matrices); without, it counts as
    one that stands still."""
    guard: float = 0.0
    """Largest length of the correction over that of momentum (0: no limit)."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr)
        _fraction(beta=self.beta)
        _non_negative(weight_decay=self.weight_decay, chunk_size=self.chunk_size)
        _non_negative(guard=self.guard)
        for name, alias in (("correction", Correction), ("form", Motion)):
            if getattr(self, name) not in get_args(alias):
                unknown(name, getattr(self, name), get_args(alias))
        self._refuse_options_of_other_forms()
        self.zeta()

    def _refuse_options_of_other_forms(self) -> None:
        """Refuse an option that the chosen form would ignore."""
        own = _options(FORMS[self.correction])
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in sorted(set().union(*map(_options, FORMS.values())) - own):
            value = getattr(self, name)
            if value != defaults[name]:
                users = [form for form, kind in FORMS.items() if name in _options(kind)]
                raise UserError(
                    f"{name}={value}: correction={self.correction} has no such option, "
                    f"only correction={' or '.join(users)} has"
                )

    def zeta(self) -> Form:
        """Return the form of zeta with its options."""
        kind = FORMS[self.correction]
        return kind(**{name: getattr(self, name) for name in _options(kind)})

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Return `optim.corrected_momentum.CorrectedMomentum`."""
        from semigradient.optim.corrected_momentum import CorrectedMomentum

        options = dataclasses.asdict(self)
        for name in {"correction"}.union(*map(_options, FORMS.values())):
            del options[name]
        lr, beta = options.pop("lr"), options.pop("beta")
        options["chunk_size"] = self.chunk_size or None
        return CorrectedMomentum(params, lr, beta, self.zeta(), **options)


@dataclass(frozen=True)
class CorrectedAdamConfig(CorrectedMomentumConfig):
    """Corrected momentum over the root of Adam's second moment (thesis, sec. 4.3.2.3)."""

    lr: float = 1e-4
    """Learning rate."""
    beta2: float = 0.999
    """Share of the running mean of the squared gradient that is kept at each step."""
    eps: float = 1e-8
    """Added to the denominator."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _fraction(beta2=self.beta2)
        _positive(eps=self.eps)


@dataclass(frozen=True)
class OracleMomentumConfig:
    """Momentum of old minibatches re-evaluated at the present parameters: the reference."""

    lr: float = 1e-2
    """Learning rate."""
    beta: float = 0.9
    """Weight of a minibatch, relative to that of the next one."""
    window: int = 0
    """Old minibatches that are kept (0: 2 / (1 - beta), rounded up; -1: all)."""
    weight_decay: float = 0.0
    """Weight decay, per step and unit of learning rate."""
    decoupled_weight_decay: bool = False
    """Shrink the parameters directly instead of adding the decay to the gradient."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr)
        _fraction(beta=self.beta)
        _non_negative(weight_decay=self.weight_decay)
        require(self.window >= -1, f"window={self.window}: must be >= -1")

    def build(self, params: Params) -> torch.optim.Optimizer:
        """Return `optim.oracle_momentum.OracleMomentum`."""
        from semigradient.optim.oracle_momentum import OracleMomentum

        return OracleMomentum(
            params,
            self.lr,
            self.beta,
            window=None if self.window < 0 else self.window,
            weight_decay=self.weight_decay,
            decoupled_weight_decay=self.decoupled_weight_decay,
        )
