"""Returns against loops written from the definitions, closed forms and a one-state process."""

from __future__ import annotations

import math

import pytest
import torch

from semigradient.training import returns
from support.segments import GAMMA, Segment, segment


def constant(length, reward=1.0, value=0.0, terminated=False, truncated=False):
    shape = (length, 2)
    full = lambda x: torch.full(shape, x, dtype=torch.float64)  # noqa: E731
    flag = lambda x: torch.full(shape, x)  # noqa: E731
    return Segment(
        full(reward), flag(terminated), flag(truncated), full(value), full(value), full(0.0)
    )


CASES = [
    *(pytest.param(segment(seed), id=f"random{seed}") for seed in range(4)),
    *(pytest.param(segment(9, n, batch=2), id=f"length{n}") for n in (1, 2, 3, 4, 5, 8, 16, 100)),
    pytest.param(segment(5, p_end=0.0), id="no-end"),
    pytest.param(segment(6, p_end=2.0), id="all-end"),
]


# --- the definitions, forwards in time, one environment and one start at a time -----------------


def naive_forward(s, t, b, steps):
    """Discounted rewards from t, and the bootstrap, over at most `steps` transitions."""
    total, weight = 0.0, 1.0
    while True:
        total += weight * float(s.reward[t, b])
        weight *= GAMMA
        steps -= 1
        if s.terminated[t, b]:
            return total
        if s.truncated[t, b] or steps == 0 or t == s.length - 1:
            return total + weight * float(s.next_value[t, b])
        t += 1


def naive_horizon(s, t, b):
    """Number of transitions from t to the end of its episode or of the segment."""
    k = 1
    while not (s.terminated[t, b] or s.truncated[t, b]) and t < s.length - 1:
        t, k = t + 1, k + 1
    return k


def naive_lambda(s, t, b, lambda_):
    """(1 - lambda) sum_n lambda^{n-1} G^n, with the remaining weight on the longest return."""
    last = naive_horizon(s, t, b)
    mixed = sum(
        (1 - lambda_) * lambda_ ** (n - 1) * naive_forward(s, t, b, n) for n in range(1, last)
    )
    return mixed + lambda_ ** (last - 1) * naive_forward(s, t, b, last)


def naive_vtrace(s, t, b, rho_bar, c_bar, lambda_):
    """The explicit sum of Espeholt et al., equation 1."""
    vs, weight = float(s.value[t, b]), 1.0
    for k in range(t, t + naive_horizon(s, t, b)):
        ratio = math.exp(float(s.log_ratio[k, b]))
        follow = 0.0 if s.terminated[k, b] else float(s.next_value[k, b])
        error = float(s.reward[k, b]) + GAMMA * follow - float(s.value[k, b])
        vs += weight * min(rho_bar, ratio) * error
        weight *= GAMMA * lambda_ * min(c_bar, ratio)
    return vs


def table(s, entry):
    rows = [[entry(t, b) for b in range(s.reward.shape[1])] for t in range(s.length)]
    return torch.tensor(rows, dtype=torch.float64)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("s", CASES)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 1000])
def test_n_step_return_is_the_definition(s, n):
    actual = returns.n_step_return(*s.flow, s.next_value, GAMMA, n)
    close(actual, table(s, lambda t, b: naive_forward(s, t, b, n)))


@pytest.mark.parametrize("s", CASES)
@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_lambda_return_and_gae_are_the_mixture_of_n_step_returns(s, lambda_):
    expected = table(s, lambda t, b: naive_lambda(s, t, b, lambda_))
    close(returns.lambda_return(*s.flow, s.next_value, GAMMA, lambda_), expected)
    advantage, return_ = returns.gae(*s.flow, s.value, s.next_value, GAMMA, lambda_)
    close(return_, expected)
    close(advantage, expected - s.value)


@pytest.mark.parametrize("s", CASES)
@pytest.mark.parametrize(("rho_bar", "c_bar", "lambda_"), [(1, 1, 1), (2, 0.5, 0.8), (1e9, 1e9, 1)])
def test_vtrace_is_the_definition(s, rho_bar, c_bar, lambda_):
    vs, advantage = returns.vtrace(
        *s.flow, s.value, s.next_value, s.log_ratio, GAMMA, rho_bar, c_bar, lambda_
    )
    expected = table(s, lambda t, b: naive_vtrace(s, t, b, rho_bar, c_bar, lambda_))
    # Unclipped products of 100 ratios reach 1e10, so the tolerance is relative.
    torch.testing.assert_close(vs, expected, rtol=1e-9, atol=1e-9)

    def naive_advantage(t, b):
        if s.terminated[t, b]:
            follow = 0.0
        elif s.truncated[t, b] or t == s.length - 1:
            follow = float(s.next_value[t, b])
        else:
            follow = float(expected[t + 1, b])
        rho = min(rho_bar, math.exp(float(s.log_ratio[t, b])))
        return rho * (float(s.reward[t, b]) + GAMMA * follow - float(s.value[t, b]))

    torch.testing.assert_close(advantage, table(s, naive_advantage), rtol=1e-9, atol=1e-9)


def test_vtrace_of_a_segment_worked_by_hand():
    column = lambda *x: torch.tensor(x, dtype=torch.float64).unsqueeze(1)  # noqa: E731
    never = torch.zeros(3, 1, dtype=torch.bool)
    vs, advantage = returns.vtrace(
        column(1.0, 0.0, 2.0),
        never,
        never,
        column(0.5, 0.2, 0.7),
        column(0.2, 0.7, 0.3),
        column(0.5, 2.0, 4.0).log(),
        GAMMA,
    )
    # Backwards: .7 + 1.57 = 2.27; .2 + .43 + .9 * 1.57 = 2.043; .5 + .5 * .68 + .45 * 1.843.
    close(vs, column(1.66935, 2.043, 2.27))
    close(advantage, column(0.5 * (1 + 0.9 * 2.043 - 0.5), 0.9 * 2.27 - 0.2, 2 + 0.27 - 0.7))


@pytest.mark.parametrize("s", CASES)
def test_vtrace_on_policy_is_the_lambda_return(s):
    on_policy = torch.zeros_like(s.reward)
    for lambda_ in (0.0, 0.6, 1.0):
        vs, advantage = returns.vtrace(
            *s.flow, s.value, s.next_value, on_policy, GAMMA, lambda_=lambda_
        )
        close(vs, returns.lambda_return(*s.flow, s.next_value, GAMMA, lambda_))
    close(vs, returns.n_step_return(*s.flow, s.next_value, GAMMA, s.length))
    close(advantage, returns.gae(*s.flow, s.value, s.next_value, GAMMA, 1.0)[0])


def test_vtrace_of_impossible_actions_keeps_the_value():
    s = segment(1)
    never = torch.full_like(s.reward, -torch.inf)
    vs, advantage = returns.vtrace(*s.flow, s.value, s.next_value, never, GAMMA)
    close(vs, s.value)
    close(advantage, torch.zeros_like(s.value))


@pytest.mark.parametrize("s", CASES)
def test_discounted_return_is_the_definition(s):
    last = s.next_value[-1]

    def entry(t, b, continuation):
        total, weight = 0.0, 1.0
        for k in range(t, t + naive_horizon(s, t, b)):
            total += weight * float(s.reward[k, b])
            weight *= GAMMA
        running = not (s.terminated[k, b] or s.truncated[k, b])
        return total + weight * float(continuation[b]) * running

    close(returns.discounted_return(*s.flow, GAMMA, last), table(s, lambda t, b: entry(t, b, last)))
    zero = torch.zeros_like(last)
    close(returns.discounted_return(*s.flow, GAMMA), table(s, lambda t, b: entry(t, b, zero)))


# --- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("truncated", [False, True])
def test_the_true_value_of_a_constant_reward_is_a_fixed_point(truncated):
    s = constant(40, value=1 / (1 - GAMMA), truncated=truncated)
    for lambda_ in (0.0, 0.5, 1.0):
        advantage, return_ = returns.gae(*s.flow, s.value, s.next_value, GAMMA, lambda_)
        close(return_, s.value)
        close(advantage, torch.zeros_like(s.value))
        close(returns.lambda_return(*s.flow, s.next_value, GAMMA, lambda_), s.value)
    close(returns.n_step_return(*s.flow, s.next_value, GAMMA, 7), s.value)
    close(returns.vtrace(*s.flow, s.value, s.next_value, s.log_ratio, GAMMA)[0], s.value)


def test_a_long_constant_reward_without_bootstrap_is_the_geometric_sum():
    s = constant(300)
    expected = torch.tensor([(1 - GAMMA ** (300 - t)) / (1 - GAMMA) for t in range(300)])
    expected = expected.to(torch.float64).unsqueeze(1).expand(300, 2)
    torch.testing.assert_close(returns.discounted_return(*s.flow, GAMMA), expected)
    torch.testing.assert_close(returns.gae(*s.flow, s.value, s.next_value, GAMMA, 1.0)[1], expected)


def test_lambda_zero_is_td_and_lambda_one_is_monte_carlo():
    s = segment(3)
    alive = (~s.terminated).to(torch.float64)
    td = returns.td_target(s.reward, GAMMA * alive, s.next_value)
    close(td, s.reward + GAMMA * alive * s.next_value)
    close(returns.lambda_return(*s.flow, s.next_value, GAMMA, 0.0), td)
    close(returns.n_step_return(*s.flow, s.next_value, GAMMA, 1), td)
    nothing = torch.zeros_like(s.next_value)
    monte_carlo = returns.discounted_return(*s.flow, GAMMA)
    close(returns.lambda_return(*s.flow, nothing, GAMMA, 1.0), monte_carlo)


@pytest.mark.parametrize("s", CASES)
def test_without_a_future_the_return_is_the_reward(s):
    close(returns.n_step_return(*s.flow, s.next_value, 0.0, 4), s.reward)
    close(returns.lambda_return(*s.flow, s.next_value, 0.0, 0.9), s.reward)
    close(returns.gae(*s.flow, s.value, s.next_value, 0.0, 0.9)[1], s.reward)
    everywhere = torch.ones_like(s.terminated)
    done = (s.reward, everywhere, s.truncated)
    close(returns.n_step_return(*done, s.next_value, GAMMA, 4), s.reward)
    close(returns.gae(*done, s.value, s.next_value, GAMMA, 0.9)[1], s.reward)
    cut = (s.reward, torch.zeros_like(s.terminated), everywhere)
    close(returns.gae(*cut, s.value, s.next_value, GAMMA, 0.9)[1], s.reward + GAMMA * s.next_value)


def iterate_one_state(terminated, estimator):
    """Fixed point of V <- return from t = 0 in a one-state process that ends every third step."""
    ends = (torch.arange(6) % 3 == 2).unsqueeze(1)
    never = torch.zeros_like(ends)
    flags = (ends, never) if terminated else (never, ends)
    reward = torch.ones(6, 1, dtype=torch.float64)
    values = torch.zeros(3, dtype=torch.float64)  # by phase, as a state may not know the time limit
    for _ in range(400):
        value = values.repeat(2).unsqueeze(1)
        # The true successor of the last step of an episode looks like phase 0 here.
        following = values.roll(-1).repeat(2).unsqueeze(1)
        values = estimator(reward, *flags, value, following)[:3, 0]
    return values


@pytest.mark.parametrize(
    "estimator",
    [
        lambda r, d, u, v, w: returns.gae(r, d, u, v, w, GAMMA, 0.8)[1],
        lambda r, d, u, v, w: returns.vtrace(r, d, u, v, w, torch.zeros_like(r), GAMMA)[0],
        lambda r, d, u, v, w: returns.n_step_return(r, d, u, w, GAMMA, 2),
        lambda r, d, u, v, w: returns.lambda_return(r, d, u, w, GAMMA, 0.8),
    ],
    ids=["gae", "vtrace", "n_step", "lambda"],
)
def test_time_limits_do_not_shorten_the_world(estimator):
    ten = torch.full((3,), 1 / (1 - GAMMA), dtype=torch.float64)
    close(iterate_one_state(terminated=False, estimator=estimator), ten, 1e-8)
    finite = torch.tensor([1 + GAMMA + GAMMA**2, 1 + GAMMA, 1.0], dtype=torch.float64)
    close(iterate_one_state(terminated=True, estimator=estimator), finite, 1e-8)


def test_a_value_after_termination_may_be_anything():
    s = segment(2)
    poisoned = s.next_value.masked_fill(s.terminated, torch.nan)
    for function in (
        lambda w: returns.gae(*s.flow, s.value, w, GAMMA, 0.9)[0],
        lambda w: returns.lambda_return(*s.flow, w, GAMMA, 0.9),
        lambda w: returns.n_step_return(*s.flow, w, GAMMA, 3),
        lambda w: returns.vtrace(*s.flow, s.value, w, s.log_ratio, GAMMA)[1],
    ):
        close(function(poisoned), function(s.next_value))


# --- one step -------------------------------------------------------------------------------------


def test_double_q_takes_the_online_choice_and_the_target_value():
    online = torch.tensor([[1.0, 3.0, 2.0], [9.0, 0.0, 1.0]])
    target = torch.tensor([[10.0, 20.0, 30.0], [-1.0, -2.0, -3.0]])
    assert returns.double_q_bootstrap(online, target).tolist() == [20.0, -1.0]
    assert returns.max_q_bootstrap(target).tolist() == [30.0, -1.0]
    mask = torch.tensor([[True, False, True], [False, True, True]])
    assert returns.double_q_bootstrap(online, target, mask).tolist() == [30.0, -3.0]
    assert returns.max_q_bootstrap(-target, mask).tolist() == [-10.0, 3.0]


def test_a_state_without_legal_actions_is_worth_nothing_after_discounting():
    q = torch.randn(2, 3)
    mask = torch.tensor([[False, False, False], [True, True, True]])
    bootstrap = returns.max_q_bootstrap(q, mask)
    target = returns.td_target(torch.ones(2), torch.tensor([0.0, GAMMA]), bootstrap)
    torch.testing.assert_close(target, torch.stack((torch.tensor(1.0), 1 + GAMMA * q[1].max())))


# --- interface ------------------------------------------------------------------------------------


def test_targets_carry_no_gradient_to_the_network_but_do_to_gamma():
    s = segment(4)
    value, next_value, log_ratio = (
        x.clone().requires_grad_() for x in (s.value, s.next_value, s.log_ratio)
    )
    for result in (
        *returns.gae(*s.flow, value, next_value, GAMMA, 0.9),
        *returns.vtrace(*s.flow, value, next_value, log_ratio, GAMMA),
        returns.lambda_return(*s.flow, next_value, GAMMA, 0.9),
        returns.n_step_return(*s.flow, next_value, GAMMA, 3),
        returns.discounted_return(*s.flow, GAMMA, next_value[-1]),
    ):
        assert not result.requires_grad
    flexible = torch.tensor([GAMMA, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: returns.gae(*s.flow, value, next_value, x[0], x[1])[1], (flexible,)
    )
