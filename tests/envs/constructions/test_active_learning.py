"""Active learning in rounds: what a round pays, its bounds, and the Gaussian process behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semigradient import envs
from semigradient.domains.molecules.gaussian_process import GaussianProcess
from semigradient.envs.constructions.active_learning import ActiveLearning, ActiveOptions
from semigradient.errors import UserError

ID = "semigradient/ActiveHyperGrid-v0"


def test_a_round_pays_the_rise_of_the_best() -> None:
    core = ActiveOptions(dimensions=2, initial=5, queries=3, top_k=2, rounds=2).make()
    state = core.reset(1, torch.Generator().manual_seed(0))
    assert int(state.known.sum()) == 5
    order = core.values.argsort(descending=True)
    new = [int(each) for each in order if not state.known[0, each]][:3]
    before = core.values[state.known[0]].topk(2).values.mean()
    step = core.step(state, torch.tensor([new]))
    after = core.values[step.state.known[0]].topk(2).values.mean()
    assert float(step.reward) == pytest.approx(float(after - before))
    assert float(step.reward) > 0
    again = core.step(step.state, torch.tensor([new]))
    assert float(again.reward) == 0
    assert bool(again.terminated)
    assert not bool(step.terminated)


def test_returns_are_bounded_as_derived() -> None:
    core = ActiveOptions().make()
    assert len(core.objects) == 3773
    everything = torch.ones((1, 3773), dtype=torch.bool)
    assert float(core.top(everything)) == pytest.approx(2.6)
    assert int(core.modes_known(everything)) == 16
    # Four modes and six ring cells: 1.40, so that all rounds together can pay 1.20.
    four = torch.zeros_like(everything)
    modes, ring = core.modes >= 0, (core.values > 0.5) & (core.modes < 0)
    four[0, modes.nonzero()[:4, 0]] = True
    four[0, ring.nonzero()[:6, 0]] = True
    assert float(core.top(four)) == pytest.approx(1.4)
    assert int(core.modes_known(four)) == 4
    # A random first set holds 16 · 512 / 3773 = 2.17 modes on average.
    first = core.reset(400, torch.Generator().manual_seed(0))
    assert float(core.modes_known(first.known).float().mean()) == pytest.approx(2.17, abs=0.15)


def test_the_faces_keep_their_contracts() -> None:
    small = {"dimensions": 2, "initial": 12, "queries": 2}
    vector = envs.make_vector(ID, 3, 0, **small)
    obs, infos = vector.reset()
    assert obs.shape == (3, 63)
    assert ((obs > 0).sum(1) == 12).all()
    assert infos["modes"].shape == (3,)
    _, reward, *_ = vector.step(np.array([[0, 1], [5, 5], [60, 61]]))
    assert (reward >= 0).all()
    core = ActiveOptions(dimensions=2, initial=12).make()
    assert len(core.render(core.reset(2))) == 2


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"initial=4: must be in \[10, 63\]"):
        ActiveOptions(dimensions=2, initial=4).make()
    with pytest.raises(UserError, match="queries=0: must be"):
        ActiveOptions(queries=0).make()
    assert isinstance(ActiveOptions().make(), ActiveLearning)


def test_the_gaussian_process_is_the_textbook_one() -> None:
    pytest.importorskip("sklearn", reason="the extra 'data' is not installed")
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (40, 2)), rng.normal(size=40)
    process = GaussianProcess().fit(x, y)
    at = rng.uniform(-1, 1, (15, 2))
    mean, std = process.predict(at)
    kernel = process._kernel
    scale, length = kernel.k1.k1.constant_value, kernel.k1.k2.length_scale
    noise = kernel.k2.noise_level

    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return scale * np.exp(-np.linalg.norm(a[:, None] - b[None], axis=2) / length)

    standard = (y - y.mean()) / y.std()
    solved = np.linalg.inv(k(x, x) + noise * np.eye(40))
    want = k(at, x) @ solved @ standard * y.std() + y.mean()
    variance = scale - np.einsum("ij,jk,ik->i", k(at, x), solved, k(at, x))
    assert mean == pytest.approx(want, abs=1e-6)
    assert std == pytest.approx(np.sqrt(np.clip(variance, 0, None)) * y.std(), abs=1e-5)


def test_what_was_adapted_stays_when_asked() -> None:
    pytest.importorskip("sklearn", reason="the extra 'data' is not installed")
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (30, 2)), rng.normal(size=30)
    process = GaussianProcess().fit(x, y, adapt=False)  # the first time there is nothing to keep
    theta = process._kernel.theta.copy()
    process.fit(x[:20], y[:20], adapt=False)
    assert np.array_equal(process._kernel.theta, theta)
    process.fit(x[:20] * 3, y[:20] ** 3, adapt=True)
    assert not np.array_equal(process._kernel.theta, theta)


def test_queries_are_new_and_follow_the_law() -> None:
    from semigradient.agents.gflownet.walkers import random_law
    from semigradient.reproductions.gflownet.hypergrid_active import (
        campaign,
        first_set,
        last_met,
        queries,
    )

    core = campaign(3)
    state = first_set(core, 0)
    known = state.known[0]
    assert int(core.modes_known(state.known)) == 4
    assert int(known.sum()) == 512
    chosen = torch.stack([queries(None, core, known, seed) for seed in range(100)])
    assert not known[chosen].any()
    assert all(len(row.unique()) == 16 for row in chosen)
    # The first of each draw follows the law of chance among what is unknown.
    law = random_law(core.rules)[core.objects].masked_fill(known, 0)
    near = law > law.median() * 20
    share = float((near[chosen[:, 0]]).float().mean())
    assert share == pytest.approx(float(law[near].sum() / law.sum()), abs=0.12)
    met = core.objects[torch.tensor([3, 5, 5, 9])]
    blank = torch.zeros_like(known)
    assert last_met(met, core, blank)[:3].tolist() == [9, 5, 3]
    assert len(last_met(met, core, blank).unique()) == 16


def test_distances_are_means_over_pairs() -> None:
    from semigradient.reproductions.gflownet.hypergrid_active import mean_distance

    corners = np.array(
        [[a, b, c, d] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1) for d in (-1, 1)]
    )
    # The modes of the 4-D grid with H = 8 are at 5/7 of the corners.
    assert mean_distance(corners * 5 / 7) == pytest.approx(2.039, abs=1e-3)
    assert mean_distance(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2)


@pytest.mark.parametrize(
    "method",
    [
        "metropolis",
        "random",
        "exact",
        pytest.param("gflownet", marks=pytest.mark.slow),
        pytest.param("ppo", marks=pytest.mark.slow),
    ],
)
def test_a_campaign_runs(method: str) -> None:
    pytest.importorskip("sklearn", reason="the extra 'data' is not installed")
    from semigradient.reproductions.gflownet.hypergrid_active import learn

    found = learn(method, 0, 1, 400)
    assert found["modes"][0] == 4
    assert found["top"][1] >= found["top"][0]
