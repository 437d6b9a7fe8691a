"""The learner of flow networks: what it converges to, exact resume, exploration and bad input."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from semigradient.agents.gflownet.batches import behaviour
from semigradient.agents.gflownet.gflownet import Config
from semigradient.commands import train
from semigradient.domains.flows.objectives import OBJECTIVES
from semigradient.domains.flows.sample_counts import SampleCounts, floor
from semigradient.errors import UserError
from semigradient.training.build import build
from semigradient.training.cli import parse
from support.commands import QUIET
from support.flow_agents import GRID, make
from support.states import differences

SMALL = ("--hidden", "64", "64", "--batch-size", "32", "--optim.lr", "5e-3")
TINY = ("--hidden", "16", "--batch-size", "4", "--exact-every", "5")


def trained(updates: int, *flags: object, env: tuple[str, ...] = ()) -> dict[str, float]:
    agent = make(*flags, env=env)
    for _ in range(updates):
        agent.iterate()
    return agent.evaluate()


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_every_loss_learns_the_distribution(loss: str) -> None:
    backward = "learned" if loss in ("tb", "subtb", "modified-db") else "uniform"
    rule = "exit_only" if loss in ("fm", "db", "modified-db") else "edge"
    found = trained(
        200, *SMALL, "--loss", loss, "--backward", backward, env=(f"rule={rule}", "height=7")
    )
    assert found["tv"] < 0.05
    assert found.get("log_z_error", 0.0) < 0.05
    assert found["correlation"] > 0.95


def test_an_exponent_sharpens_the_target() -> None:
    agent = make(*SMALL, "--loss", "tb", "--reward-exponent", 2)
    p = agent.visits.target
    mode = p[agent.table.modes(torch.arange(agent.table.size)) >= 0].sum()
    assert float(mode) == pytest.approx(4 * 2.6**2 / sum_of_squares(), rel=1e-9)
    for _ in range(200):
        agent.iterate()
    assert agent.evaluate()["tv"] < 0.06


def sum_of_squares() -> float:
    """Σ R² on the 8×8 grid under the edge rule, by its three kinds of cells."""
    return 4 * 2.6**2 + 11 * 0.6**2 + 48 * 0.1**2


def test_taking_the_graph_for_a_tree_learns_the_biased_law() -> None:
    agent = make(*SMALL, "--loss", "tb", "--backward", "tree")
    for _ in range(400):
        agent.iterate()
    biased = agent.table.path_biased()
    assert agent.evaluate()["tv"] > 0.5
    agent.visits.target = biased
    assert agent.evaluate()["tv"] < 0.06


def test_offline_learning_needs_objects_from_everywhere() -> None:
    flags = (*SMALL, "--exact-every", 0, "--offline-size", 500)
    spread = trained(300, *flags, "--offline", "uniform-objects")
    near = trained(300, *flags, "--offline", "random-policy")
    assert spread["tv"] < 0.05
    assert near["tv"] > 2 * spread["tv"]


REPLAYS = [
    ("--replay", "trajectories", "--replay-priority", "loss"),
    ("--replay", "terminals", "--replay-priority", "reward", "--backward", "learned"),
    ("--replay", "transitions", "--loss", "db"),
    ("--replay", "trajectories", "--replay-top", "--replay-size", "50", "--replay-share", "0.125"),
]


@pytest.mark.parametrize("replay", REPLAYS)
def test_learning_from_memory_recomputes_probabilities(replay: tuple[str, ...]) -> None:
    found = trained(200, *SMALL, "--loss", "tb", "--random-actions", 0.1, *replay)
    assert found["tv"] < 0.06


def test_a_remembered_batch_costs_what_the_present_network_says() -> None:
    agent = make(*TINY, "--loss", "tb", "--replay", "trajectories", "--replay-share", 1)
    for _ in range(3):
        agent.iterate()
    memory = agent.batches.memory
    assert len(memory) == 12
    paths, _ = memory.sample(12, torch.Generator().manual_seed(0), 0.0)
    at = agent.look(torch.arange(agent.table.size))
    now = at.log_forward(paths.state[:-1], paths.action)
    agent.iterate()
    later = agent.look(torch.arange(agent.table.size)).log_forward(paths.state[:-1], paths.action)
    assert not torch.equal(now, later)


# Exploration


def test_the_behaviour_mixes_sharpness_and_random_actions() -> None:
    agent = make(*TINY, env=("rule=exit_only", "height=7"))
    at = agent.look(torch.arange(agent.table.size))
    sums = behaviour(at, 2.0, 0.3)
    legal = at.legal.float()
    sharp = (2 * at.log_edges).softmax(1)
    expected = 0.7 * sharp + 0.3 * legal / legal.sum(1, keepdim=True)
    assert torch.allclose(sums.diff(dim=1, prepend=torch.zeros(len(sums), 1)), expected, atol=1e-6)
    assert bool((sums[:, -1] == 1).all())
    corner = agent.table.size - 1
    assert sums[corner].tolist() == [0, 0, 1]


@pytest.mark.parametrize("rule", ["edge", "exit_only"])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_what_sampling_has_computed_gives_the_same_gradients(loss: str, rule: str) -> None:
    flags = ("--loss", loss, *TINY, "--random-actions", 0.3, "--sharpness", 0.7)

    def gradients(recall: bool) -> tuple[float, list[torch.Tensor]]:
        agent = make(*flags, env=(f"rule={rule}", "dimensions=3", "height=7"))
        assert not agent._dense
        asked: list[int] = []
        agent._needed = lambda paths, f=agent._needed: (asked.append(1), f(paths))[1]
        if not recall:
            agent._recalled = lambda known: None
        value = float(agent.iterate()["loss"])
        assert len(asked) == (not recall)  # otherwise nothing would be compared
        return value, [p.grad for p in agent.network.parameters() if p.grad is not None]

    (value, ours), (expected_value, expected) = gradients(True), gradients(False)
    assert value == pytest.approx(expected_value, rel=1e-6)
    for found, grad in zip(ours, expected, strict=True):
        assert torch.allclose(found, grad, rtol=1e-5, atol=1e-6 * float(grad.abs().max()))


def test_random_actions_fall_over_the_run() -> None:
    def frequencies(step: int) -> float:
        agent = make(
            *TINY, "--random-actions", 1, "--random-schedule", "linear", "--batch-size", 2000
        )
        with torch.no_grad():
            agent.network.trunk[-1].bias[-1] = 50.0  # the policy always stops at once
        paths = agent.batches.build(agent.look, None, (step, 100)).paths
        return float((paths.length == 1).float().mean())

    assert frequencies(0) == pytest.approx(1 / 3, abs=0.05)
    assert frequencies(50) == pytest.approx(2 / 3, abs=0.05)
    assert frequencies(100) == 1


def test_targets_lag_behind() -> None:
    averaged = make(*TINY, "--target", "ema", "--target-rate", 0.1)
    frozen = make(*TINY, "--target", "frozen", "--target-period", 3)
    first = [p.clone() for p in frozen.network.parameters()]
    for index in range(3):
        before = [p.clone() for p in averaged.target.parameters()]
        averaged.iterate()
        frozen.iterate()
        rows = zip(before, averaged.target.parameters(), averaged.network.parameters(), strict=True)
        assert all(torch.allclose(now, 0.9 * old + 0.1 * new) for old, now, new in rows)
        other = frozen.network.parameters() if index == 2 else first
        same = zip(frozen.target.parameters(), other, strict=True)
        assert all(torch.equal(a, b) for a, b in same)


# Account


def test_visits_count_the_last_objects_and_all_modes() -> None:
    agent = make(*TINY, "--window", 10)
    visits = SampleCounts(agent.table, 10)
    visits.add(torch.tensor([9, 9, 0]))  # (1, 1) is a mode
    visits.add(torch.arange(8))
    assert visits.counts()[:10].tolist() == [2, 1, 1, 1, 1, 1, 1, 1, 0, 1]
    assert visits.modes_found == 1
    assert visits.metrics()["objects"] == 11
    share = visits.counts().double() / 10
    gap = (share - visits.target)[agent.table.objects].abs().mean()
    assert visits.metrics()["empirical_l1"] == pytest.approx(float(gap))
    assert floor(visits.target, agent.table, 200_000) == pytest.approx(1.8e-4, rel=0.01)


def test_scalars_say_how_far_the_distribution_is() -> None:
    agent = make(*TINY)
    scalars = dict(agent.iterate())
    assert {"loss", "tv", "l1", "kl", "jsd", "log_z_error", "modes", "objects"} <= set(scalars)
    assert scalars["tv"] > 0.3
    again = dict(agent.iterate())
    assert again["tv"] == scalars["tv"]  # measured anew at every fifth update
    assert agent.progress.pop_episodes()[0][0] in (
        pytest.approx(0.1),
        pytest.approx(0.6),
        pytest.approx(2.6),
    )


def test_counters_are_of_the_moment_and_the_end_is_measured() -> None:
    agent = make(*TINY, "--exact-every", 100, "--steps", 60)
    first, built = dict(agent.iterate()), 4
    while agent.progress.steps < 60:
        last = dict(agent.iterate())
        built += 4
        assert last["objects"] == built
        assert last["modes"] == agent.visits.modes_found
    found = {**agent.evaluate(), **agent.visits.metrics()}
    assert agent.updates < 100
    assert {name: last[name] for name in found} == found
    again = dict(agent.iterate())  # beyond the end: counted, and as if there had been none
    assert (again["objects"], again["tv"]) == (built + 4, first["tv"])


def test_a_single_trajectory_that_stops_at_once_is_learned_from() -> None:
    agent = make("--loss", "modified-db", "--hidden", 8, "--batch-size", 1)
    with torch.no_grad():
        agent.network.trunk[-1].bias[-1] = 50.0  # the policy always stops at once
    for _ in range(3):
        assert float(dict(agent.iterate())["loss"]) == 0
    assert all(bool(torch.isfinite(p).all()) for p in agent.network.parameters())


def test_grids_too_large_to_enumerate_are_learned_without_exact_figures() -> None:
    agent = make(*TINY, "--loss", "tb", env=("dimensions=9", "height=20"))
    scalars = dict(agent.iterate())
    assert agent.table is None
    assert "tv" not in scalars
    assert math.isfinite(float(scalars["loss"]))
    assert dict(make(*TINY, env=("dimensions=9", "height=20")).iterate())["loss"] > 0


# Resume


def test_a_run_writes_its_metrics_and_resumes(tmp_path: Path) -> None:
    common = (*TINY, "--loss", "subtb", "--log-every", 100, "--checkpoint-every", 300, *QUIET)

    def run(*flags: object) -> None:
        assert train([str(each) for each in flags]) == 0

    start = ("--agent", "gflownet", "--env", GRID)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(*start, *common, "--steps", 1000, "--run-dir", whole)
    run(*start, *common, "--steps", 500, "--run-dir", parts)
    run("--resume", parts, "--steps", 1000)
    from semigradient.training import checkpoint

    states = [checkpoint.load(folder / "checkpoints", None).state for folder in (whole, parts)]
    assert differences(states[0]["agent"], states[1]["agent"]) == []
    assert '"train/tv"' in (whole / "metrics.jsonl").read_text()


# Bad input


@pytest.mark.parametrize(
    ("flags", "env", "message"),
    [
        (("--loss", "fm", "--backward", "learned"), (), "backward='learned': flow matching has no"),
        (("--loss", "tb", "--replay", "transitions"), (), "replay='transitions': accepted with"),
        (("--loss", "tb", "--target", "ema"), (), "target='ema': accepted with loss fm, db, fl-db"),
        (("--random-actions", "1.5"), (), r"random_actions=1.5: must be in \[0, 1\]"),
        (("--reward-exponent", "0"), (), "reward_exponent=0.0: must be positive"),
        (("--regression", "cubic"), (), "unknown regression 'cubic'"),
        (("--batch-size", "0"), (), "batch_size=0: must be ≥ 1"),
        (
            ("--loss", "log-variance", "--batch-size", "1"),
            (),
            "batch_size=1: one trajectory has no variance",
        ),
        (("--replay", "terminals", "--offline", "random-policy"), (), "a fixed set is not mixed"),
        (
            ("--offline", "uniform-objects"),
            ("dimensions=9", "height=20"),
            "needs a construction that can be enumerated",
        ),
        (
            ("--optim", "corrected-momentum", "--optim.correction", "diagonal"),
            (),
            "learns from temporal differences",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    flags: tuple[str, ...], env: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make(*flags, env=env)


def test_other_environments_are_refused() -> None:
    words = ["--agent", "gflownet", "--env", "CartPole-v1"]
    with pytest.raises(UserError, match="--env CartPole-v1: gflownet builds objects"):
        build(parse(words).command)


def test_defaults_are_the_published_grid_settings() -> None:
    config = Config()
    assert (config.batch_size, config.hidden, config.activation) == (16, (256, 256), "leaky_relu")
    assert (config.epsilon, config.random_actions, config.replay) == (0.0, 0.0, "none")
