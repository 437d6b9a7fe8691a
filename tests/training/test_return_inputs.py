"""Inputs of the return estimators: types and shapes that are kept, and those that are refused."""

from __future__ import annotations

import pytest
import torch

from semigradient.training import returns
from support.segments import GAMMA, segment


def test_results_keep_dtype_and_extra_axes_and_inputs_stay_untouched():
    s = segment(8)
    before = [x.clone() for x in s]
    wide = [x.float() if x.is_floating_point() else x for x in s]
    wide = [x.reshape(17, 3, 2) for x in wide]
    results = (
        *returns.gae(*wide[:5], GAMMA, 0.9),
        *returns.vtrace(*wide, GAMMA),
        returns.lambda_return(*wide[:3], wide[4], GAMMA, 0.9),
        returns.n_step_return(*wide[:3], wide[4], GAMMA, 3),
        returns.discounted_return(*wide[:3], GAMMA, wide[4][-1]),
    )
    narrow = returns.gae(*s[:5], GAMMA, 0.9)[0].reshape(17, 3, 2)
    torch.testing.assert_close(results[0].double(), narrow, rtol=1e-4, atol=1e-4)
    assert all(x.dtype == torch.float32 and x.shape == (17, 3, 2) for x in results)
    returns.gae(*s[:5], GAMMA, 0.9)
    returns.lambda_return(*s.flow, s.next_value, GAMMA, 0.9)
    returns.vtrace(*s, GAMMA)
    assert all(torch.equal(a, b) for a, b in zip(before, s, strict=True))


def test_wrong_shapes_are_named():
    s = segment(0, length=4, batch=3)
    narrow = s.next_value[:, :1]
    shapes = r"next_value \(4, 1\)"
    with pytest.raises(ValueError, match=shapes):
        returns.gae(*s.flow, s.value, narrow, GAMMA, 0.9)
    with pytest.raises(ValueError, match=shapes):
        returns.lambda_return(*s.flow, narrow, GAMMA, 0.9)
    with pytest.raises(ValueError, match=shapes):
        returns.n_step_return(*s.flow, narrow, GAMMA, 2)
    with pytest.raises(ValueError, match=shapes):
        returns.vtrace(*s.flow, s.value, narrow, s.log_ratio, GAMMA)
    with pytest.raises(ValueError, match=r"reward \(4, 3\).*discount \(3,\)"):
        returns.td_target(s.reward, s.reward[0], s.value)
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(1, 3\)"):
        returns.discounted_return(*s.flow, GAMMA, s.value[-1:])
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(3, 3\)"):
        returns.double_q_bootstrap(s.value, s.value[1:])
    with pytest.raises(ValueError, match=r"mask \(4, 1\)"):
        returns.max_q_bootstrap(s.value, torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(B, A\), got \(4,\)"):
        returns.max_q_bootstrap(s.value[:, 0])
    with pytest.raises(ValueError, match=r"T > 0, got \(4,\)"):
        returns.lambda_return(*(x[:, 0] for x in (*s.flow, s.next_value)), GAMMA, 0.9)
    with pytest.raises(ValueError, match=r"T > 0, got \(0, 3\)"):
        returns.lambda_return(*(x[:0] for x in (*s.flow, s.next_value)), GAMMA, 0.9)


def test_wrong_kinds_are_named():
    s = segment(0)
    with pytest.raises(ValueError, match=r"truncated must be bool, got torch\.float64"):
        returns.gae(s.reward, s.terminated, s.reward, s.value, s.next_value, GAMMA, 0.9)
    with pytest.raises(ValueError, match="mask must be bool"):
        returns.max_q_bootstrap(s.value, s.value)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        returns.n_step_return(*s.flow, s.next_value, GAMMA, 0)
