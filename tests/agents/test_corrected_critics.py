"""What agents show optimizers that correct momentum is the loss that they learn from."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from semigradient.optim.batched import semi_gradient
from semigradient.optim.corrected_momentum import CorrectedMomentum
from semigradient.optim.temporal_difference import TemporalDifference, wants_temporal_difference
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.corrections import show
from support.smallest import smallest_words

PENDULUM = (
    "--env semigradient/Pendulum-v0 --env-options dt=0.05 time_limit=0.5 --num-envs 2 --warm-up 2 "
    "--buffer-size 64 --batch-size 8 --gradient-steps 2 --hidden 8"
)
CARTPOLE = "--env CartPole-v1 --preset none --hidden 8 --num-envs 2"
VALUES = "--learning-starts 16 --buffer-size 64 --batch-size 8"
CASES = {
    "ppo": f"--agent ppo {CARTPOLE} --rollout-steps 8 --batch-size 8 --max-grad-norm 0.1",
    "ppo-clip": f"--agent ppo {CARTPOLE} --rollout-steps 8 --batch-size 8 --clip-value 0.05",
    "a2c": f"--agent a2c {CARTPOLE} --value-coefficient 0.7 --max-grad-norm 0.1",
    "soft-q": f"--agent soft-q {CARTPOLE} {VALUES} --twins --actor network --max-grad-norm 0.1",
    "ddpg": f"--agent ddpg {PENDULUM} --target-rate 0.1",
    "ddpg-moving": f"--agent ddpg {PENDULUM} --target-rate 1",
    "dau": f"--agent dau {PENDULUM}",
    "dau-discrete": f"--agent dau {PENDULUM.replace('Pendulum', 'CartPole')}",
    "classifier": "",
    "regressor": "",
}


class Spy:
    """Every minibatch that was shown, with the gradients and parameters of that moment."""

    def __init__(self, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[TemporalDifference, dict[str, Any]]] = []
        observe = kind.observe

        def noted(optimizer: Any, batch: TemporalDifference) -> None:
            grads = {
                name: p.grad.clone() for name, p in batch.parameters().items() if p.grad is not None
            }
            fixed = None if batch.target is None else batch.target.clone()
            samples = {name: rows.clone() for name, rows in batch.samples.items()}
            self.seen.append((dataclasses.replace(batch, samples=samples, target=fixed), grads))
            observe(optimizer, batch)

        monkeypatch.setattr(kind, "observe", noted)


def words(case: str, folder: Path) -> list[str]:
    return CASES[case].split() or smallest_words(case, folder)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_what_is_shown_is_the_agents_own(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(CorrectedMomentum, monkeypatch)
    chosen = [*words(case, tmp_path), "--optim", "corrected-momentum", "--optim.lr", "0.1"]
    agent = build(parse(chosen).command)
    compared = []
    step = CorrectedMomentum.step

    def checked(optimizer: CorrectedMomentum, closure: Any = None) -> Any:
        for batch, grads in spy.seen:
            own = semi_gradient(batch)
            # Where other losses reach, the rest is theirs.
            names = [n for n in grads if not batch.partial or n.startswith("critic")]
            for name in names:
                torch.testing.assert_close(grads[name], own[name], rtol=2e-4, atol=1e-6)
            compared.extend(names)
        spy.seen.clear()
        return step(optimizer, closure)

    monkeypatch.setattr(CorrectedMomentum, "step", checked)
    for _ in range(12):
        agent.iterate()
    assert compared


@pytest.mark.parametrize("kind", ["ppo", "a2c", "soft-q", "ddpg", "dau", "classifier", "regressor"])
def test_oracle_momentum_trains_them_all(kind: str, tmp_path: Path) -> None:
    chosen = [*words(kind, tmp_path), "--optim", "oracle-momentum", "--optim.lr", "0.1"]
    agent = build(parse(chosen).command)
    for _ in range(10):
        scalars = agent.iterate()
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in scalars.values())


@pytest.mark.parametrize("kind", ["ppo", "a2c"])
def test_the_corrected_momentum_of_a_critic_is_the_recomputed_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly so where values are linear: below the critic's last layer all is held fixed."""
    spy = Spy(CorrectedMomentum, monkeypatch)
    flags = {
        "a2c": "--rollout-steps 4 --schedule constant",
        "ppo": "--rollout-steps 8 --batch-size 8 --epochs 2 --schedule constant",
    }[kind]
    optim = "--optim corrected-momentum --optim.correction full --optim.lr 0.5 --optim.beta 0.8"
    agent = build(parse(f"--agent {kind} {CARTPOLE} {flags} {optim}".split()).command)
    named = [(n, p) for n, p in agent.network.named_parameters() if n.startswith("critic")]
    head = {n: p for n, p in named if n.rpartition(".")[0] == named[-1][0].rpartition(".")[0]}
    for p in agent.network.parameters():
        p.requires_grad_(any(p is kept for kept in head.values()))
    while len(spy.seen) < 6:
        agent.iterate()
    state = agent.optimizer.state
    for p in head.values():
        p.data.copy_(state[p]["previous"])
    expected = {name: torch.zeros_like(p) for name, p in head.items()}
    for age, (batch, _) in enumerate(reversed(spy.seen)):
        for name, gradient in semi_gradient(batch).items():
            expected[name] += 0.2 * 0.8**age * gradient
    plain = 0.0
    for name, p in head.items():
        corrected = state[p]["mu"] - state[p]["eta"]
        torch.testing.assert_close(corrected, expected[name], rtol=1e-3, atol=1e-5)
        plain += float((state[p]["mu"] - expected[name]).norm() / expected[name].norm())
    assert plain > 0.02, "there was something to correct"


def test_several_choices_are_one_minibatch_of_their_samples() -> None:
    """MultiDiscrete: one pass gives autograd's gradient of the added losses, targets moving."""
    env = "--env semigradient/Glimpse-v0 --env-options dataset=small-glyphs limit=50"
    flags = f"--agent dqn {env} --target none --loss mse --hidden 8 --preset none {VALUES}"
    chosen = f"{flags} --optim corrected-momentum".split()
    agent = build(parse(chosen).command)
    while agent.updates < 3:
        agent.iterate()
    batch = agent.memory.sample(8, agent.sampling, agent.discount)
    loss, *_ = agent._loss(batch)
    agent.optimizer.zero_grad()
    loss.backward()
    expected = {n: p.grad.clone() for n, p in agent.network.named_parameters()}
    shown = agent.temporal_difference(agent.network, batch)
    assert shown.size == 8 * agent.head.choices > 8
    agent.optimizer.zero_grad()
    agent.optimizer.backward(shown)
    for name, p in agent.network.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6)
    other = copy.deepcopy(agent.network)
    assert agent.temporal_difference(other, batch).module is other


WARNINGS = {
    "--target hard --loss mse": ["beside a target network"],
    "--target none --loss huber": ["with the Huber loss"],
    "--target none --loss mse": [],
    "--target ema --loss mse --optim.follow-target": [],
    "--target none --loss mse --optim.follow-target": ["nothing to follow"],
}


@pytest.mark.parametrize("flags", WARNINGS)
def test_little_to_correct_is_said_once_before_training(flags: str, capsys) -> None:
    chosen = f"--agent dqn {CARTPOLE} {VALUES} {flags} --optim corrected-momentum".split()
    build(parse(chosen).command)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(WARNINGS[flags])
    for line, expected in zip(lines, WARNINGS[flags], strict=True):
        assert line.startswith("warning: CorrectedMomentum")
        assert expected in line
    if "follow" not in flags:
        build(parse([*chosen[:-1], "adam"]).command)
    assert capsys.readouterr().err == ""


def test_an_optimizer_that_only_observes_is_shown_everything() -> None:
    """`observe` is all that an optimizer of one's own needs; `pass_over` is a courtesy."""

    class Watching(torch.optim.SGD):
        seen = 0

        def observe(self, batch: TemporalDifference) -> None:
            self.seen += batch.size

    net = torch.nn.Linear(2, 1)
    optimizer = Watching(net.parameters(), 0.1)
    assert wants_temporal_difference(optimizer)
    batch = TemporalDifference(net, {"x": torch.zeros(3, 2)}, lambda c, s: c(s["x"])[0])
    show(optimizer, lambda: [batch, batch])
    show(optimizer, list)
    show(torch.optim.SGD(net.parameters(), 0.1), lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert optimizer.seen == 6
