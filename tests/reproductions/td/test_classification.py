"""Figure 4.2: the published network, its training, and what is said of given losses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semigradient import reproduce
from semigradient.reproductions.td import classification

TINY = dataclasses.replace(classification.QUICK, steps=4, every=2, widths=(2,), sizes=(3,))


@pytest.mark.parametrize(("width", "count"), [(8, 10_386), (16, 40_218)])
def test_the_published_network(width, count):
    net = classification.network(width, 3, 32)
    assert sum(p.numel() for p in net.parameters()) == count
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.fixture(scope="module")
def data():
    return [classification.images("small-glyphs", split, "") for split in ("train", "test")]


def test_images_have_no_mean(data):
    for inputs, labels in data:
        assert inputs.mean((0, 2, 3)).abs().max() < 1e-5
        assert labels.unique().tolist() == list(range(10))


def test_momentum_is_the_damped_average_of_gradients_of_the_same_minibatches(data):
    found = classification.run("momentum", TINY, (2, 0.9, 0.1, 3), 7, data)
    torch.manual_seed(7)
    (inputs, labels), unseen = data
    net = classification.network(2, inputs.shape[1], 16)
    draw, mu = torch.Generator().manual_seed(1_000_010), [0.0 for _ in net.parameters()]
    for _ in range(4):
        chosen = torch.randint(len(inputs), (3,), generator=draw)
        loss = F.cross_entropy(net(inputs[chosen]), labels[chosen])
        grads = torch.autograd.grad(loss, list(net.parameters()))
        mu = [0.9 * m + 0.1 * g for m, g in zip(mu, grads, strict=True)]
        with torch.no_grad():
            for p, m in zip(net.parameters(), mu, strict=True):
                p -= 0.1 * m
    last = {"train": (inputs, labels), "test": unseen}
    for split, (x, y) in last.items():
        expected = F.cross_entropy(net(x[:512]), y[:512]).item()
        assert found[split][-1] == pytest.approx(expected, rel=1e-5)


def test_methods_see_the_same_data_and_part(data):
    losses = {
        name: classification.run(name, TINY, (2, 0.9, 0.5, 3), 0, data)["train"][-1]
        for name in classification.METHODS
    }
    assert len(set(losses.values())) == 3
    assert max(losses.values()) - min(losses.values()) < 0.1


@pytest.mark.parametrize("agrees", [True, False])
def test_claims(agrees, monkeypatch, tmp_path):
    def run(method, plan, setting, seed, data):
        rng = np.random.default_rng(seed)
        noise = 0.01 * rng.standard_normal((2, plan.steps // plan.every))
        worse = 0.2 * (method == ("oracle" if agrees else "momentum"))
        return {"train": 1 + worse + noise[0], "test": 1 + 0.2 * (not agrees) * worse + noise[1]}

    monkeypatch.setattr(classification, "run", run)
    code = reproduce.main(["classification", "--out", str(tmp_path), "--check"])
    assert code == (0 if agrees else 1)


def test_the_full_scale_needs_its_images(tmp_path, capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["classification", "--scale", "full", "--out", str(tmp_path)])
    assert "needs --folder with SVHN" in capsys.readouterr().err
