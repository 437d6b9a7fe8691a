"""Online learners with written-out derivatives beside automatic ones, and UORO's mean."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from semigradient.gradients.recurrent import make
from semigradient.nets.cells import Headed, make_cell
from semigradient.reproductions.recurrent.online import Adam, Learners, Network

KINDS = ["gru", "lstm"]
SYMBOLS, HIDDEN, COUNT = 3, 2, 4


def plain(kind: str, vector: Tensor, character: int, state: Tensor) -> Tensor:
    """One step of one network, as the cells' equations are usually written."""
    w_x, w_h, bias, _, _ = split(kind, vector)
    if kind == "gru":
        reset, keep, new = w_x[character].chunk(3)
        reset_h, keep_h, new_h = (state @ w_h + bias).chunk(3)
        r, z = torch.sigmoid(reset + reset_h), torch.sigmoid(keep + keep_h)
        return z * state + (1 - z) * torch.tanh(new + r * new_h)
    h, c = state.chunk(2)
    enter, keep, show, update = (w_x[character] + h @ w_h + bias).chunk(4)
    c = torch.sigmoid(keep) * c + torch.sigmoid(enter) * torch.tanh(update)
    return torch.cat([torch.sigmoid(show) * torch.tanh(c), c])


def split(kind: str, vector: Tensor) -> list[Tensor]:
    shapes = Network(kind, SYMBOLS, HIDDEN).shapes
    pieces = vector.split([int(np.prod(shape)) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def loss(kind: str, vector: Tensor, state: Tensor, after: int) -> Tensor:
    *_, w_out, b_out = split(kind, vector)
    return -torch.log_softmax(state[:HIDDEN] @ w_out + b_out, 0)[after]


def problem(kind: str, steps: int, seed: int = 0):
    net, rng = Network(kind, SYMBOLS, HIDDEN), np.random.default_rng(seed)
    theta = net.initial(range(COUNT)) + 0.3 * rng.normal(size=(COUNT, net.count))
    text = rng.integers(SYMBOLS, size=(steps + 1, COUNT))
    return net, theta, text, rng


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_block_has_the_gradient_and_the_estimate_of_automatic_derivatives(
    kind: str, steps: int
) -> None:
    net, theta, text, rng = problem(kind, steps)
    is_uoro = [0, 1, 1, 0]
    one = Learners(net, theta, is_uoro)
    for part in (one.state, one.tangent, one.row):
        part[:] = rng.normal(size=part.shape)
    state, tangent, row = one.state.copy(), one.tangent.copy(), one.row.copy()
    signs = rng.choice([-1.0, 1.0], size=state.shape)
    lost = one.block(text, signs)
    for k in range(COUNT):
        vector, start, moved, nu = (
            torch.from_numpy(part[k]) for part in (theta, state, tangent, signs)
        )

        def through(vector: Tensor, now: Tensor, k: int = k) -> tuple[Tensor, Tensor]:
            losses = []
            for step in range(steps):
                now = plain(kind, vector, int(text[step, k]), now)
                losses.append(loss(kind, vector, now, int(text[step + 1, k])))
            return torch.stack(losses), now

        (losses, after), pull = torch.func.vjp(through, vector, start)
        torch.testing.assert_close(torch.from_numpy(lost[:, k]), losses)
        torch.testing.assert_close(torch.from_numpy(one.state[k]), after)
        direct, by_start = pull((torch.ones_like(losses), torch.zeros_like(after)))
        into, _ = pull((torch.zeros_like(losses), nu))
        known = torch.zeros_like(direct)
        known[: net.recurrent] = torch.from_numpy(row[k])
        wanted = direct + is_uoro[k] * (by_start @ moved) * known
        torch.testing.assert_close(torch.from_numpy(one.gradient[k]), wanted)
        _, moved = torch.func.jvp(lambda now: through(vector, now)[1], (start,), (moved,))  # noqa: B023
        first = (known.norm() / (moved.norm() + 1e-7)).sqrt() + 1e-7
        second = (into.norm() / (nu.norm() + 1e-7)).sqrt() + 1e-7
        torch.testing.assert_close(torch.from_numpy(one.tangent[k]), first * moved + second * nu)
        torch.testing.assert_close(
            torch.from_numpy(one.row[k]), (known / first + into / second)[: net.recurrent]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_over_all_signs_uoro_is_the_exact_gradient(kind: str) -> None:
    """Of the last of three blocks of one and two characters, from zeros, by enumeration."""
    net, theta, text, _ = problem(kind, 4)
    width = net.cell.parts * HIDDEN
    total, count = np.zeros((COUNT, net.count)), 0
    first = list(itertools.product([-1.0, 1.0], repeat=width))
    for one, other in itertools.product(first, first):
        learners = Learners(net, theta, [1] * COUNT)
        for begin, end, signs in ((0, 1, one), (1, 3, other), (3, 4, one)):
            learners.block(text[begin : end + 1], np.tile(signs, (COUNT, 1)))
        total, count = total + learners.gradient, count + 1
    for k in range(COUNT):
        vector = torch.from_numpy(theta[k]).requires_grad_()
        now = torch.zeros(width).double()
        for step in range(4):
            now = plain(kind, vector, int(text[step, k]), now)
        loss(kind, vector, now, int(text[4, k])).backward()
        np.testing.assert_allclose(total[k] / count, vector.grad.numpy(), atol=1e-12)


def test_adam_is_torch_s() -> None:
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(2, 5))
    other = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    ours, theirs = Adam(theta, (0.5, 0.99)), torch.optim.Adam([other], betas=(0.5, 0.99))
    for step in range(5):
        gradient = rng.normal(size=theta.shape)
        ours.step(theta, gradient, 0.1 / (step + 1))
        other.grad = torch.from_numpy(gradient)
        theirs.param_groups[0]["lr"] = 0.1 / (step + 1)
        theirs.step()
    np.testing.assert_allclose(theta, other.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("memory", [1, 2])
def test_uoro_of_an_lstm_is_the_estimator_s(memory: int) -> None:
    """`gradients.recurrent` on the same cell, text and signs; its gates are i, f, u, o."""
    net, _, text, rng = problem("lstm", 3 * memory)
    theta = np.tile(net.initial([0]) + 0.3 * rng.normal(size=(1, net.count)), (COUNT, 1))
    ours = Learners(net, theta, [1] * COUNT)
    order = np.concatenate([np.arange(HIDDEN) + k * HIDDEN for k in (0, 1, 3, 2)])

    def theirs(vector: np.ndarray) -> dict[str, Tensor]:
        w_x, w_h, bias, w_out, b_out = (part[0] for part in net.views(vector[None]))
        weight = np.concatenate([w_h, w_x, bias[None]])[:, order].T
        head = np.concatenate([w_out, b_out[None]]).T
        return {"cell.weight": torch.tensor(weight), "head": torch.tensor(head)}

    module = Headed(make_cell("lstm", SYMBOLS, HIDDEN), SYMBOLS).double()
    module.load_state_dict(theirs(theta[0]))
    names = [name for name, _ in module.named_parameters()]
    estimator = make("uoro", module, COUNT, memory=memory)
    signs = iter(rng.choice([-1.0, 1.0], size=(3, COUNT, 1, 2 * HIDDEN)))
    drawn = []
    estimator.trace.draw = lambda shape: torch.from_numpy(drawn[-1])
    for start in range(0, 3 * memory, memory):
        total = torch.zeros(COUNT, net.count).double()
        for step in range(start, start + memory):
            x = torch.nn.functional.one_hot(torch.from_numpy(text[step]), SYMBOLS).double()
            error = torch.softmax(estimator.step(x), -1)
            error[range(COUNT), text[step + 1]] -= 1
            total += estimator.gradient(error)
        drawn.append(next(signs))  # of this block, whose end the next step makes
        ours.block(text[start : start + memory + 1], drawn[-1][:, 0])
        for k in range(COUNT):
            parts = theirs(ours.gradient[k])
            wanted = torch.cat([parts[name].reshape(-1) for name in names])
            torch.testing.assert_close(total[k], wanted)
