"""Returns, advantages and bootstrap targets as pure functions of tensors.

Segments are time-major: row `t` of a `(T, B)` tensor holds transition t of B environments,

    s_t --a_t--> reward[t], s_{t+1},    terminated[t], truncated[t] (bool),

and `next_value[t]` is V(s_{t+1}) of the *true* successor: for an episode that ended at t this is
its final observation, never the first observation of the episode after it. The two ways of
ending then differ in one place only:

- terminated: there is nothing after s_{t+1}, so its value counts as 0;
- truncated: the episode would have gone on, so `next_value[t]` stands for the rest;

and in both cases row t+1 belongs to another episode, so no trace crosses from it. The end of
the segment is treated like a truncation. Axes behind B (agents, say) pass through unchanged.

A target is a constant for the network that produced it: the segment functions detach values
and importance ratios. `gamma` and `lambda_` may be 0-dim tensors and keep their gradient, which
is what meta-gradient methods differentiate. The one-step functions leave gradients alone,
because residual-gradient methods need them.
"""

from __future__ import annotations

import torch
from torch import Tensor

Scalar = float | Tensor


def td_target(reward: Tensor, discount: Tensor, bootstrap: Tensor) -> Tensor:
    """One-step target `r + discount * bootstrap` (Sutton & Barto 2018, eq. 6.2).

    All arguments share one shape, which is the shape of the result. `discount` already is
    gamma^n (1 - terminated), so the same line serves n-step transitions from replay.
    """
    _same_shape(reward=reward, discount=discount, bootstrap=bootstrap)
    return reward + discount * bootstrap


def max_q_bootstrap(target_next_q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Largest legal action value `max_a Q'(s', a)` (Watkins 1989; Mnih et al. 2015).

    `target_next_q` is `(B, A)`, `mask` bool `(B, A)` with True where an action is legal; returns
    `(B,)`. See `double_q_bootstrap` for rows without any legal action.
    """
    return double_q_bootstrap(target_next_q, target_next_q, mask)


def double_q_bootstrap(
    online_next_q: Tensor, target_next_q: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Target value of the online greedy action (van Hasselt, Guez & Silver 2016).

        Q'(s', argmax_a Q(s', a)),    a over the legal actions

    Both value tensors are `(B, A)`, `mask` is bool `(B, A)` with True where an action is legal;
    returns `(B,)`. A row without a legal action can only be a terminal state, whose discount is
    0: it gets a finite placeholder (action 0), because 0 times -inf would poison the loss.
    """
    _same_shape(online_next_q=online_next_q, target_next_q=target_next_q)
    if online_next_q.ndim < 2:
        raise ValueError(f"action values need shape (B, A), got {tuple(online_next_q.shape)}")
    if mask is not None:
        _same_shape(online_next_q=online_next_q, mask=mask)
        _all_bool(mask=mask)
        online_next_q = online_next_q.masked_fill(~mask, -torch.inf)
    elif online_next_q is target_next_q:
        return target_next_q.amax(-1)
    greedy = online_next_q.argmax(dim=-1, keepdim=True)
    return target_next_q.gather(-1, greedy).squeeze(-1)


def discounted_return(
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: Scalar,
    last_value: Tensor | None = None,
) -> Tensor:
    """Monte Carlo return for methods without a value function (Sutton & Barto 2018, eq. 3.8).

        G_t = r_t + gamma G_{t+1},    no G_{t+1} after the end of an episode

    Segment tensors are `(T, B)`; `last_value` `(B,)` continues episodes that are still running
    after the last row (default 0). Without values a truncated episode simply ends: where V is
    known, `lambda_return(..., lambda_=1)` is the unbiased choice.
    """
    _check_segment(terminated, truncated, reward=reward)
    running = _continues(terminated, truncated, reward.dtype)
    if last_value is not None:
        if last_value.shape != reward.shape[1:]:
            raise ValueError(
                f"last_value must have the shape of one row of reward {tuple(reward.shape)}, "
                f"got {tuple(last_value.shape)}"
            )
        tail = gamma * running[-1] * last_value.detach()
        reward = torch.cat((reward[:-1], (reward[-1] + tail).unsqueeze(0)))
    return _accumulate(reward, gamma * running)


def n_step_return(
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    next_value: Tensor,
    gamma: Scalar,
    n: int,
) -> Tensor:
    """n-step return of every row (Sutton & Barto 2018, eq. 7.1).

        G_t = r_t + ... + gamma^{k-1} r_{t+k-1} + gamma^k V(s_{t+k})

    where k is n, or less when the episode or the segment ends first; V is 0 after termination.
    All tensors and the result are `(T, B)`.
    """
    _check_segment(terminated, truncated, reward=reward, next_value=next_value)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    one_step = reward + gamma * _bootstrap(next_value, terminated)
    ended = (terminated | truncated)[:-1]
    # One round turns k-step returns into (k+1)-step returns for all rows at once.
    target = one_step
    for _ in range(min(n, reward.shape[0]) - 1):
        longer = torch.where(ended, one_step[:-1], reward[:-1] + gamma * target[1:])
        target = torch.cat((longer, one_step[-1:]))
    return target


def lambda_return(
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    next_value: Tensor,
    gamma: Scalar,
    lambda_: Scalar,
) -> Tensor:
    """TD(lambda) return, the geometric mixture of n-step returns (Sutton & Barto 2018, eq. 12.2).

        G_t = r_t + gamma [(1 - lambda) V(s_{t+1}) + lambda G_{t+1}]

    with G_{t+1} replaced by V(s_{t+1}) at a truncation and at the end of the segment, and the
    bracket by 0 at a termination. All tensors and the result are `(T, B)`.
    """
    _check_segment(terminated, truncated, reward=reward, next_value=next_value)
    bootstrap = _bootstrap(next_value, terminated)
    running = _continues(terminated, truncated, reward.dtype)
    running[-1] = 0.0
    trace = gamma * lambda_ * running
    return _accumulate(reward + gamma * bootstrap - trace * bootstrap, trace)


def gae(
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    value: Tensor,
    next_value: Tensor,
    gamma: Scalar,
    lambda_: Scalar,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimate and its return (Schulman et al. 2016, eq. 16).

        delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
        A_t     = delta_t + gamma lambda A_{t+1}
        G_t     = A_t + V(s_t)

    Termination removes V(s_{t+1}) and A_{t+1}; truncation removes A_{t+1} only. All tensors are
    `(T, B)`, and so are both results `(advantage, return_)`.
    """
    _check_segment(terminated, truncated, reward=reward, value=value, next_value=next_value)
    value = value.detach()
    delta = reward + gamma * _bootstrap(next_value, terminated) - value
    trace = gamma * lambda_ * _continues(terminated, truncated, reward.dtype)
    advantage = _accumulate(delta, trace)
    return advantage, advantage + value


def vtrace(
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    value: Tensor,
    next_value: Tensor,
    log_ratio: Tensor,
    gamma: Scalar,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    lambda_: Scalar = 1.0,
) -> tuple[Tensor, Tensor]:
    """V-trace targets and policy-gradient advantages (Espeholt et al. 2018, eq. 1 and sec. 4.2).

    With w_t = exp(log_ratio[t]) = pi(a_t | s_t) / mu(a_t | s_t), rho_t = min(rho_bar, w_t) and
    c_t = lambda min(c_bar, w_t):

        delta_t   = rho_t (r_t + gamma V(s_{t+1}) - V(s_t))
        vs_t      = V(s_t) + delta_t + gamma c_t (vs_{t+1} - V(s_{t+1}))
        advantage = rho_t (r_t + gamma vs_{t+1} - V(s_t))

    Where an episode or the segment ends, vs_{t+1} is V(s_{t+1}), and 0 after termination. The
    paper takes rho_bar >= c_bar. Its advantage looks at vs_{t+1} whatever lambda is, so on-policy
    it equals `gae` for lambda = 1 only. All tensors are `(T, B)`, and so are both results
    `(vs, pg_advantage)`.
    """
    _check_segment(
        terminated,
        truncated,
        reward=reward,
        value=value,
        next_value=next_value,
        log_ratio=log_ratio,
    )
    value = value.detach()
    ratio = log_ratio.detach().exp()
    rho = ratio.clamp(max=rho_bar)
    running = gamma * _continues(terminated, truncated, reward.dtype)
    error = reward + gamma * _bootstrap(next_value, terminated) - value
    correction = _accumulate(rho * error, lambda_ * running * ratio.clamp(max=c_bar))
    next_correction = torch.cat((correction[1:], torch.zeros_like(correction[:1])))
    return value + correction, rho * (error + running * next_correction)


def _accumulate(base: Tensor, decay: Tensor) -> Tensor:
    """Solve `x_t = base_t + decay_t x_{t+1}` backwards with `x_T = 0`, for `(T, B)` tensors.

    Recursive doubling (Kogge & Stone 1973; Blelloch 1990): after each round, row t sums twice
    as many steps. About 3 log2(T) tensor operations replace T of them, and the cost of calling
    an operation, not its arithmetic, is what counts for rollouts (128 x 8: a fourth of the time
    of the plain loop on CPU; on CUDA the kernel launches shrink alike).
    """
    length, reach = base.shape[0], 1
    decay = decay[:-1]  # the last row has no successor inside the segment
    while reach < length:
        head, finished = base.split((length - reach, reach))
        base = torch.cat((torch.addcmul(head, decay, base[reach:]), finished))
        decay = decay[:-reach] * decay[reach:]
        reach *= 2
    return base


def _bootstrap(next_value: Tensor, terminated: Tensor) -> Tensor:
    """V(s_{t+1}), or 0 after termination even if the network returned inf or nan there."""
    return next_value.detach().masked_fill(terminated, 0.0)


def _continues(terminated: Tensor, truncated: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where row t+1 belongs to the same episode as row t, else 0."""
    return (~(terminated | truncated)).to(dtype)


def _check_segment(terminated: Tensor, truncated: Tensor, **floats: Tensor) -> None:
    _same_shape(**floats, terminated=terminated, truncated=truncated)
    _all_bool(terminated=terminated, truncated=truncated)
    if terminated.ndim < 2 or terminated.shape[0] == 0:
        raise ValueError(f"a segment needs shape (T, B) with T > 0, got {tuple(terminated.shape)}")


def _same_shape(**tensors: Tensor) -> None:
    # Broadcasting (T, B) against (T, 1) or (B,) would run silently and learn nonsense.
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes must be equal: {shapes}")


def _all_bool(**tensors: Tensor) -> None:
    # A float here is usually a discount (1 - terminated), that is, the opposite.
    for name, tensor in tensors.items():
        if tensor.dtype != torch.bool:
            raise ValueError(f"{name} must be bool, got {tensor.dtype}")
