"""Passes over texts: what is read, in which order, and by which rates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semigradient.envs.memory import streams
from semigradient.reproductions.recurrent import text_runs
from semigradient.reproductions.recurrent.online import Adam, Learners, Network
from semigradient.reproductions.recurrent.text_runs import Reading, read

READING = Reading(
    "semigradient/AnBn-v0", "gru", 3, characters=24, decay=0.5, rate=0.1, every=8,
    options={"most": 2},
)  # fmt: skip


def by_hand(memory: int, seeds: int) -> np.ndarray:
    """Truncated backpropagation on the same texts, character by character."""
    batch = streams.make(READING.env_id, seeds, 0, cut=False, most=2).take(24)
    text = np.concatenate([batch.inputs[:1].argmax(-1).numpy(), batch.targets.numpy()])
    net = Network("gru", 3, 3)
    theta = net.initial(range(seeds)).astype(np.float32)
    learners, adam, lost = Learners(net, theta, [0] * seeds), Adam(theta), []
    for start in range(0, 24, memory):
        lost.append(learners.block(text[start : start + memory + 1], np.ones_like(learners.state)))
        adam.step(theta, learners.gradient, 0.1 / (1 + 0.5 * math.sqrt(start + memory)))
    return np.concatenate(lost).T.reshape(seeds, 3, 8).mean(2) / math.log(2)


@pytest.mark.parametrize("memory", [1, 2, 4])
def test_a_pass_is_that_by_hand(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_runs, "CHUNK", 12)
    found = read(READING, memory, [True, False], 2)
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found[1], by_hand(memory, 2), rtol=1e-4)
    # Both methods begin alike, and UORO's estimate is 0 in the first block.
    assert abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.slow
def test_uoro_learns_that_numbers_agree() -> None:
    """Well below the 2/7 bits of whoever knows the form alone; 1/7 is the optimum of (2, 3)."""
    reading = Reading(
        "semigradient/AnBn-v0", "gru", 16, characters=20_000, decay=0.03, rate=3e-3, every=5_000,
        options={"least": 2, "most": 3},
    )  # fmt: skip
    (uoro,) = read(reading, 1, [True], 2)
    assert (uoro[:, -1] < 0.75 * 2 / 7).all()
    assert (uoro[:, -1] > 1 / 7).all()
