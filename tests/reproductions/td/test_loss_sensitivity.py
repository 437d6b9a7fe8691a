"""Loss sensitivity of examples: rows for given measurements, retraining, files of digits."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from semigradient.errors import UserError
from semigradient.reproductions.td import (
    loss_sensitivity,
)

RNG = np.random.default_rng(0)


def agreeing(found):
    return [row.agrees for row in found]


def sensitivities(sign=1):
    few = np.concatenate([np.full(3, 10.0), np.full(7, 0.1)])
    alike = np.linspace(1, 1.2, 10)
    real, random = (few, alike) if sign > 0 else (alike, few)
    spread, sharp = np.full((10, 10), 0.8), np.full((10, 10), 0.2)
    np.fill_diagonal(spread, 1)
    np.fill_diagonal(sharp, 1)
    tables = (spread, sharp) if sign > 0 else (1 / sharp, 1 / spread)
    runs = {}
    for labels in loss_sensitivity.LABELS:
        for inputs, each, table in zip(
            loss_sensitivity.INPUTS,
            (real, random),
            tables if sign > 0 else tables[::-1],
            strict=True,
        ):
            noisy = [np.tile(each, (4, 1)) * (1 + 0.001 * RNG.random((4, 10))) for _ in range(3)]
            runs[labels, inputs] = [{"sensitivities": one, "table": table} for one in noisy]
    return runs


def test_published_sensitivities_agree_and_reversed_ones_do_not():
    found = loss_sensitivity.claims(sensitivities())
    assert all(agreeing(found))
    assert not any(agreeing(loss_sensitivity.claims(sensitivities(-1)))[:6])


def test_gini_coefficients_of_running_means():
    each = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4]])
    assert loss_sensitivity.running_gini(each).tolist() == pytest.approx([0.25, 0.25])
    later = np.array([[1.0, 0], [0, 1]])
    assert loss_sensitivity.running_gini(later).tolist() == pytest.approx([0.5, 0.0])


def test_sensitivity_is_what_retraining_with_another_input_changes():
    plan = loss_sensitivity.SensitivityPlan(6, 12, 1, lr=0.1)
    found = loss_sensitivity.measure(plan, "own", "real", 0)["sensitivities"][0]
    data = loss_sensitivity.dataset(plan, "own", "real", 0)
    data = {"x": data["x"].double(), "y": data["y"]}
    order = torch.randint(6, (12,), generator=torch.Generator().manual_seed(2))
    last = order[11]

    def loss_after(x):
        torch.manual_seed(0)
        network = loss_sensitivity.mlp((49, 16, 16, 6), "tanh").double()
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        for index in order[:11]:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[index]), data["y"][index]).backward()
            optimizer.step()
        # Without the direct dependence of the last loss on its own input.
        return torch.nn.functional.cross_entropy(network(data["x"][last]), data["y"][last]).item()

    example, total = int(order[3]), 0.0
    for pixel in range(49):
        ends = []
        for shift in (1e-4, -1e-4):
            x = data["x"].clone()
            x[example, pixel] += shift
            ends.append(loss_after(x))
        total += abs(ends[0] - ends[1]) / 2e-4
    assert found[example] == pytest.approx(total, rel=1e-3)


def write_mnist(folder, count, compressed):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
    labels = rng.integers(10, size=count, dtype=np.uint8)
    for name, magic, sizes, data in (
        ("train-images-idx3-ubyte", 2051, (count, 28, 28), images),
        ("train-labels-idx1-ubyte", 2049, (count,), labels),
    ):
        raw = np.array([magic, *sizes], ">i4").tobytes() + data.tobytes()
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
        else:
            (folder / name).write_bytes(raw)
    return images, labels


@pytest.mark.parametrize("compressed", [True, False])
def test_digits_are_read_from_published_files_and_averaged_down(tmp_path, compressed):
    images, labels = write_mnist(tmp_path, 5, compressed)
    found = loss_sensitivity.mnist(str(tmp_path), 5, 0)
    order = np.random.default_rng(0).choice(5, 5, replace=False)
    assert found["y"].tolist() == labels[order].tolist()
    corner = images[order[0], 2:4, 4:6].mean() / 255
    assert found["x"][0, 14 + 2].item() == pytest.approx(corner, rel=1e-5)


def test_folders_without_digits_are_errors(tmp_path):
    with pytest.raises(UserError, match="needs --folder"):
        loss_sensitivity.full_plan("")
    with pytest.raises(UserError, match="has no train-images"):
        loss_sensitivity.mnist(str(tmp_path), 5, 0)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"something else")
    with pytest.raises(UserError, match="is not a file of MNIST"):
        loss_sensitivity.mnist(str(tmp_path), 5, 0)
    write_mnist(tmp_path, 5, False)
    with pytest.raises(UserError, match="needs 6 digits"):
        loss_sensitivity.mnist(str(tmp_path), 6, 0)
