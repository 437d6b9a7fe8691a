"""Observers attached to runs: they change no bit, resume exactly, refuse early, and leave files."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semigradient import diagnostics
from semigradient.commands import train
from semigradient.diagnostics import attach, derivatives
from semigradient.diagnostics.attach import Attachment, experience_of, supported_by
from semigradient.diagnostics.fork import Fork
from semigradient.errors import UserError
from semigradient.training import checkpoint, parts
from semigradient.training.build import build
from semigradient.training.cli import parse
from semigradient.training.logging import Logger, read_metrics
from semigradient.training.replay import Replay
from semigradient.training.sinks import Sink

QUIET = ("--wandb", "disabled", "--no-tensorboard", "--no-progress", "--eval-every", "0")
WATCHED = ("--diagnose", "all", "--diagnose-every", "128", "--diagnose-samples", "4")
CARTPOLE = ("--env", "CartPole-v1", "--eval-episodes", "1", "--preset", "none", "--hidden", "8")
VALUES = "--num-envs 2 --learning-starts 64 --buffer-size 200 --batch-size 4 --train-every 4"
COPIED = f"{VALUES} --target-update-every 60"
AGENTS = {
    "dqn": f"--agent dqn {COPIED}",
    "ddqn": f"--agent ddqn {COPIED} --n-step 3 --dueling --optim momentum",
    "moving": f"--agent dqn {VALUES} --target none --loss mse --optim corrected-momentum",
    "ppo": "--agent ppo --num-envs 2 --rollout-steps 32 --batch-size 16 --epochs 2 "
    "--normalise-observations --normalise-rewards",
    "a2c": "--agent a2c --num-envs 2 --rollout-steps 16 --optim sgd",
}


def command(name: str, *flags: str) -> list[str]:
    return [*AGENTS[name].split(), *CARTPOLE, *flags]


def trained(name: str, steps: int) -> Any:
    """An agent after about so many steps."""
    agent = build(parse(command(name, "--steps", "1000")).command)
    while agent.progress.steps < steps:
        agent.iterate()
    return agent


def run(folder: Path, name: str, *flags: str) -> Path:
    arguments = command(name, "--steps", "256", "--checkpoint-every", "128", "--log-every", "64")
    assert train([*arguments, *flags, *QUIET, "--run-dir", str(folder)]) == 0
    return folder


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, nested states included."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


def untimed(path: Path) -> list[dict[str, Any]]:
    rows = read_metrics(path)
    assert rows
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


def differing(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[str]:
    """Where two logs differ; NaN equals NaN."""
    assert [list(row) for row in rows] == [list(row) for row in others]
    pairs = zip(rows, others, strict=True)
    return [key for a, b in pairs for key in a if repr(a[key]) != repr(b[key])]


@pytest.mark.parametrize("name", AGENTS)
def test_observers_change_no_bit_and_resume_exactly(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        if name != "dqn":  # pictures take most of the time
            patch.setattr("semigradient.diagnostics.plots.draw", lambda *_: [])
        watched = run(tmp_path / "watched", name, *WATCHED)
    monkeypatch.setattr("semigradient.diagnostics.plots.draw", lambda *_: [])
    alone = run(tmp_path / "alone", name)
    states = {path: checkpoint.load(path / "checkpoints", None).state for path in (watched, alone)}
    for key in ("agent", "torch_rng"):
        assert same(states[watched][key], states[alone][key])
    assert [row for row in untimed(watched / "metrics.jsonl") if "train/lr" in row] == [
        row for row in untimed(alone / "metrics.jsonl") if "train/lr" in row
    ]
    check_files(watched, name)
    pictures = {path.stem for path in (watched / "diagnostics").glob("*.png")}
    assert pictures == (set(diagnostics.names()) if name == "dqn" else set())

    # Cut off after the first checkpoint, and gone on with.
    broken = tmp_path / "broken"
    shutil.copytree(watched, broken)
    saved = sorted((broken / "checkpoints").glob("step-*"))
    assert len(saved) == 2
    shutil.rmtree(saved[1])
    assert train(["--resume", str(broken), *QUIET]) == 0
    assert same(checkpoint.load(broken / "checkpoints", None).state, states[watched])
    for file in ("metrics.jsonl", "diagnostics.jsonl"):
        assert differing(untimed(broken / file), untimed(watched / file)) == []


def check_files(folder: Path, name: str) -> None:
    """Every diagnostic wrote numbers, or a profile, and a picture."""
    rows = untimed(folder / "metrics.jsonl")
    keys = {key for row in rows for key in row if key.startswith("diagnose/")}
    profiles = untimed(folder / "diagnostics.jsonl")
    assert {key.split("/")[1] for key in keys} == set(diagnostics.names())
    assert {row["diagnostic"] for row in profiles} == {
        "stiffness", "gain", "spectrum", "sensitivity",
    }  # fmt: skip
    assert {row["step"] for row in profiles} == {row["step"] for row in rows if keys & set(row)}
    for row in profiles:
        assert all(len(curve) == len(row["x"]) for curve in row["curves"].values())
    last = next(row for row in reversed(rows) if "diagnose/interference/loss" in row)
    numbers = {key: last[key] for key in keys & set(last)}
    # Four examples may all be of one action.
    finite = {key: np.isfinite(value) for key, value in numbers.items() if "_action" not in key}
    assert [key for key, is_finite in finite.items() if not is_finite] == []
    assert -1 <= numbers["diagnose/interference/stiffness"] <= 1
    assert 0 <= numbers["diagnose/sensitivity/gini"] < 1
    assert 0 <= numbers["diagnose/sign-variance/sign_variance"] <= 0.96
    # Plain SGD has no average to carry along.
    assert ("diagnose/evolution/total_momentum" in numbers) == (name != "a2c")
    assert json.loads((folder / "summary.json").read_text())["phases"]["diagnose"] > 0


def test_measuring_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    agent = trained("ppo", 64)
    attachment = Attachment(parse(command("ppo", *WATCHED)).command.run, agent)

    def disturb(*_: object) -> Any:
        torch.rand(1), np.random.rand(), random.random()
        return experience

    experience = experience_of(agent)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    state = copy.deepcopy(parts.state(agent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attach, "experience_of", disturb)
        attachment._findings(64)
    attachment._findings(64)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert same(parts.state(agent), state)


class Gallery(Sink):
    def __init__(self) -> None:
        self.pictures: list[tuple[int, str]] = []

    def image(self, step: int, path: Path, key: str) -> None:
        assert path.read_bytes().startswith(b"\x89PNG")
        self.pictures.append((step, key))


def test_pictures_go_to_the_sinks_and_a_failing_observer_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, gallery = trained("dqn", 128), Gallery()
    flags = ("--diagnose", "spectrum,gain,drift", "--diagnose-samples", "4")
    attachment = Attachment(parse(command("dqn", *flags)).command.run, agent)

    def fail(_: object) -> Any:
        raise RuntimeError("out of memory")

    attachment.observers["gain"].measure = fail  # type: ignore[method-assign]
    with Logger(tmp_path, [gallery]) as logger:
        attachment.open(logger)
        attachment.measure(1)
        attachment.measure(2)
        attachment.draw(2, last=False)
        attachment.draw(3, last=False)  # too soon
        attachment.draw(4, last=True)
    attachment.close()
    pictures = ("diagnose/spectrum", "diagnose/drift")
    assert gallery.pictures == [(step, key) for step in (2, 4) for key in pictures]
    warned = capsys.readouterr().err.splitlines()
    assert warned == [
        "warning: diagnostic gain failed and is off from here on (RuntimeError: out of memory)"
    ]
    kept = untimed(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in kept] == [1, 2]
    assert "diagnose/drift/since_last" not in kept[0]
    assert kept[1]["diagnose/drift/since_last"] == 0  # nothing was learned in between


def test_names() -> None:
    assert diagnostics.parse("gain, drift,gain") == ["gain", "drift"]
    assert diagnostics.parse("gain,all") == diagnostics.names()
    for text, words in {"gian": "did you mean gain", "gain,,drift": "commas"}.items():
        with pytest.raises(UserError, match=words):
            diagnostics.parse(text)
    for name in diagnostics.names():
        assert callable(diagnostics.load(name))


def test_what_an_agent_cannot_support() -> None:
    short = build(parse(command("a2c", "--rollout-steps", "4")).command)
    assert set(diagnostics.names()) - set(supported_by(short)) == {"sign-variance"}
    assert supported_by(object()) == []  # type: ignore[arg-type]
    flags = "--agent dqn --env ALE/Breakout-v5 --buffer-size 100 --batch-size 4 --preset none"
    images = build(parse(flags.split()).command)
    assert set(diagnostics.names()) - set(supported_by(images)) == {"sensitivity"}


def test_images_can_be_observed(tmp_path: Path) -> None:
    """Byte images, frames kept once, and a convolutional network under vmap."""
    flags = (
        "--agent dqn --env ALE/Breakout-v5 --buffer-size 60 --batch-size 2 --preset none "
        "--hidden 8 --learning-starts 0 --device cpu --threads 1 "
        "--diagnose interference,gain,evolution --diagnose-samples 2"
    )
    run = parse(flags.split()).command
    agent: Any = build(run)
    while agent.progress.steps < 40:
        agent.iterate()
    experience = experience_of(agent)
    examples = experience.at(torch.tensor([3, 5]))
    rows = derivatives.rows(examples.prediction, examples)
    for i in range(2):
        one = examples.select(torch.tensor([i])).samples
        value = agent.network(one["obs"])[0, one["action"][0]]
        parameters = dict(agent.network.named_parameters())
        gradients = torch.autograd.grad(value, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(rows[name][i], gradient, rtol=1e-4, atol=1e-6)
    attachment = Attachment(run.run, agent)
    by_name = attachment._findings(40)
    assert list(by_name) == ["interference", "gain", "evolution"]
    for findings in by_name.values():
        assert all(torch.isfinite(value) for value in findings.scalars.values())


# --- what agents offer is what they do ----------------------------------------------------------


@pytest.mark.parametrize("name", ["dqn", "ddqn", "moving"])
def test_a_fork_updates_as_a_q_learner_does(name: str) -> None:
    agent = trained(name, 200)
    experience = experience_of(agent)
    index = experience.draw(4, torch.Generator().manual_seed(3))
    config = agent.config
    batch = agent.memory.at(index, config.gamma, config.n_step)
    examples = experience.at(index)
    loss, value, _ = agent._loss(batch)
    torch.testing.assert_close(derivatives.losses(examples).mean(), loss.detach())
    predictions = derivatives.values(examples.prediction, examples)
    torch.testing.assert_close(predictions.mean(), value)
    targets = derivatives.values(examples.target, examples)
    torch.testing.assert_close(targets, agent._td_target(batch))

    fork = Fork(experience)
    before = fork.values()
    assert same(before, {n: p.detach() for n, p in agent.network.named_parameters()})
    fork.update(examples)
    agent._learn(batch, None)
    moved = {n: p.detach() - before[n] for n, p in agent.network.named_parameters()}
    forked = {n: v - before[n] for n, v in fork.values().items()}
    assert max(float(d.abs().max()) for d in moved.values()) > 0
    for key in moved:
        torch.testing.assert_close(forked[key], moved[key], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_a_critic_is_regressed_on_the_returns_of_its_rollout(name: str) -> None:
    agent = trained(name, 64)
    experience = experience_of(agent)
    examples = experience.at(torch.arange(experience.size))
    rollout = agent.collector.rollout
    value = agent.network.value(rollout.flat("obs"))
    torch.testing.assert_close(derivatives.values(examples.prediction, examples), value.detach())
    weight = agent.config.value_coefficient
    expected = weight * (value - examples.samples["return"]).square()
    torch.testing.assert_close(derivatives.losses(examples), expected.detach())
    # The policy takes no part in the critic's update.
    fork = Fork(experience)
    before = fork.values()
    fork.update(examples)
    moved = {name for name, v in fork.values().items() if not torch.equal(v, before[name])}
    assert moved
    assert all(name.startswith("critic") for name in moved)


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_held_out_experience_is_of_other_episodes(name: str) -> None:
    agent = trained(name, 64)
    state = copy.deepcopy(parts.state(agent))
    run = parse(command(name, *WATCHED)).command.run
    attachment = Attachment(run, agent)
    held, again, other = (attachment._held_out(step) for step in (64, 64, 65))
    rows = [e.at(torch.arange(e.size)).samples["obs"] for e in (held, again, other)]
    assert len(rows[0]) == attach.HELD_OUT_ENVS * attach.HELD_OUT_STEPS
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    trained_on = experience_of(agent)
    seen = trained_on.at(torch.arange(trained_on.size)).samples["obs"]
    assert not (rows[0][:, None] == seen).all(-1).any()
    assert same(parts.state(agent), state)


@pytest.mark.parametrize("kind", ["whole", "frames"])
@pytest.mark.parametrize("added", [5, 30])
def test_a_memory_gives_transitions_in_order_of_time(kind: str, added: int) -> None:
    from gymnasium import spaces

    action = spaces.Discrete(1000)
    cpu, count, length = torch.device("cpu"), 2, 12
    if kind == "whole":
        box = spaces.Box(-1, 1000, (1,), np.float32)
        memory: Any = Replay(length * count, count, box, action, cpu)
        seen = lambda t: np.full((count, 1), t, np.float32)  # noqa: E731
    else:
        box = spaces.Box(0, 255, (2, 3, 3), np.uint8)
        memory = Replay(length * count, count, box, action, cpu, stacked=True)
        seen = lambda t: np.full((count, 2, 3, 3), t, np.uint8)  # noqa: E731
    ends = np.zeros((added, count), dtype=bool)
    ends[3::4, 0] = True
    for t in range(added):
        actions = np.array([2 * t, 2 * t + 1])
        memory.add(seen(t), actions, actions * 1.0, ends[t], ~ends[t] & False, seen(t + 1))
    kept = memory.times()
    assert kept <= min(added, length)
    every = torch.arange(kept * count)
    expected = torch.arange(2 * (added - kept), 2 * added)
    assert torch.equal(memory.at(every, 0.9).action, expected)
    assert np.array_equal(memory.ended(every.view(kept, count)), ends[added - kept :])
    draw = torch.randint(kept * count, (6,), generator=torch.Generator().manual_seed(1))
    sampled = memory.sample(6, torch.Generator().manual_seed(1), 0.9)
    assert torch.equal(sampled.reward, memory.at(draw, 0.9).reward)
    assert memory.times(3) == kept - 2
