"""The network, its masks, its statistics; the loss of orderless NADE on exact tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semigradient.domains.music import orderless
from semigradient.envs.music import chorale_tasks
from semigradient.errors import UserError
from semigradient.nets.coconet import Coconet, reestimate


def partial(batch: int = 3, steps: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random scores (B, 4, T) and what is known of them."""
    generator = torch.Generator().manual_seed(seed)
    pitches = torch.randint(46, (batch, 4, steps), generator=generator)
    return pitches, chorale_tasks.orderless(batch, 4, steps, generator)


def test_parameters_at_the_published_size_and_the_cheap_one() -> None:
    with torch.device("meta"):
        sizes = [Coconet(), Coconet(24, 10)]
    counts = [sum(p.numel() for p in network.parameters()) for network in sizes]
    assert counts == [9_087_752, 41_144]


@pytest.mark.parametrize("training", [False, True])
def test_an_unknown_note_changes_no_output(training: bool) -> None:
    torch.manual_seed(0)
    network = Coconet(8, 6).train(training)
    pitches, known = partial()
    other = torch.where(known, pitches, 45 - pitches)
    empty = torch.where(known, pitches, -1)
    assert torch.equal(network(pitches, known), network(other, known))
    assert torch.equal(network(pitches, known), network(empty, known))
    seen = torch.where(known, 45 - pitches, pitches)
    assert not torch.equal(network(pitches, known), network(seen, known))


def plain(network: Coconet, hidden: Tensor) -> Tensor:
    """The equations in a loop, layers counted from 1."""
    layers = len(network.convolutions)
    states = {0: hidden}
    for layer in range(1, layers + 1):
        convolution, norm = network.convolutions[layer - 1], network.norms[layer - 1]
        if layer > layers - 2:
            states[layer - 1] = F.pad(states[layer - 1], (0, 1, 0, 1))
        active = F.conv2d(
            states[layer - 1], convolution.weight, padding=1 if layer <= layers - 2 else 0
        )
        mean = active.mean((0, 2, 3), keepdim=True)
        scale = (active.var((0, 2, 3), correction=0, keepdim=True) + 1e-7).sqrt()
        affine = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
        active = (active - mean) / scale * affine[0] + affine[1]
        if layer % 2 == 1 and 3 <= layer <= layers - 1:
            below = states[layer - 2]
            active = active + below[:, :, : active.shape[2], : active.shape[3]]
        states[layer] = active.relu() if layer < layers else active
    return states[layers]


@pytest.mark.parametrize("layers", [4, 5, 6, 9])
def test_the_network_is_its_equations(layers: int, float64: None) -> None:
    network = Coconet(5, layers)
    pitches, known = partial()
    one_hot = F.one_hot(pitches, 46) * known.unsqueeze(-1)
    inputs = torch.cat((one_hot, known.unsqueeze(-1).expand_as(one_hot)), 1).double()
    torch.testing.assert_close(network(pitches, known), plain(network, inputs))


def test_initial_weights_norms_and_the_loss_of_knowing_nothing() -> None:
    torch.manual_seed(0)
    network = Coconet(32, 6)
    weight = network.convolutions[1].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.03)
    assert all(norm.eps == 1e-7 and (norm.weight == 0.1).all() for norm in network.norms)
    nn.init.zeros_(network.norms[-1].weight)
    pitches, known = partial()
    log_probs = network.conditionals(pitches, known)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 4, 6))
    loss = orderless.loss(log_probs, pitches, known)
    torch.testing.assert_close(loss, torch.full((3,), math.log(46)))
    with pytest.raises(UserError, match="layers=3: must be ≥ 4"):
        Coconet(8, 3)


def test_away_from_borders_music_moves_with_its_context() -> None:
    torch.manual_seed(0)
    network = Coconet(4, 4).eval()
    pitches, known = torch.zeros(2, 4, 20, dtype=torch.int64), torch.zeros(2, 4, 20).bool()
    pitches[0, :, 8:11], pitches[1, :, 10:13] = 20, 23  # two steps later, three semitones higher
    known[0, :, 8:11] = known[1, :, 10:13] = True
    here, there = network(pitches, known)
    torch.testing.assert_close(here[:, 5:14, 10:35], there[:, 7:16, 13:38])


def test_biases_tell_a_small_network_the_pitch() -> None:
    torch.manual_seed(0)
    plain, biased = Coconet(4, 4).eval(), Coconet(4, 4, pitch_bias=True).eval()
    biased.load_state_dict({**plain.state_dict(), "pitch_bias": torch.zeros(4, 46)})
    assert biased.pitch_bias is not None
    assert biased.pitch_bias.numel() == 184
    pitches, known = partial()
    assert torch.equal(biased(pitches, known), plain(pitches, known))
    # With nothing known the middle of the range is flat, but for the biases.
    nothing = torch.zeros_like(known)
    middle = plain(pitches, nothing)[:, :, :, 15:30]
    torch.testing.assert_close(middle, middle[..., :1].expand_as(middle))
    with torch.no_grad():
        biased.pitch_bias.copy_(torch.randn(4, 46))
    added = biased(pitches, nothing) - plain(pitches, nothing)
    torch.testing.assert_close(added, biased.pitch_bias[:, None].expand_as(added))


def test_population_statistics_are_averages_over_whole_batches() -> None:
    torch.manual_seed(0)
    network = Coconet(4, 4).train()
    batches = [partial(seed=seed) for seed in range(3)]
    seen: list[Tensor] = []
    handle = network.convolutions[0].register_forward_hook(lambda _, __, out: seen.append(out))
    reestimate(network, batches)
    handle.remove()
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in seen]).mean(0)
    var = torch.stack([batch.var((0, 2, 3)) for batch in seen]).mean(0)
    torch.testing.assert_close(network.norms[0].running_mean, mean)
    torch.testing.assert_close(network.norms[0].running_var, var)
    assert network.training
    assert network.norms[0].momentum == 0.1
    before = network.norms[0].running_mean.clone()
    network.eval()(*batches[0])
    assert torch.equal(network.norms[0].running_mean, before)


# The loss --------------------------------------------------------------------------------------


def test_only_hidden_notes_count_and_each_score_weighs_the_same() -> None:
    log_probs = torch.randn(2, 2, 3, 5, dtype=torch.float64).log_softmax(-1)
    pitches = torch.randint(5, (2, 2, 3))
    known = torch.tensor([[[1, 1, 0], [1, 1, 1]], [[0, 0, 1], [0, 1, 1]]]).bool()
    expected, everywhere = [], []
    for row in range(2):
        cells = [(i, t) for i in range(2) for t in range(3)]
        nll = {c: -log_probs[row][c][pitches[row][c]].item() for c in cells}
        hidden = [c for c in cells if not known[row][c]]
        expected.append(sum(nll[c] for c in hidden) / len(hidden))
        everywhere.append(sum(nll.values()) / len(hidden))
    np.testing.assert_allclose(orderless.loss(log_probs, pitches, known), expected)
    np.testing.assert_allclose(orderless.loss(log_probs, pitches, known, True), everywhere)
