"""Objects drawn from a trained flow network: probabilities, bounds and the command."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import semigradient
from semigradient import commands
from semigradient.domains.flows import __main__ as command
from semigradient.domains.flows.bounds import exact_bounds, sampled_bounds
from semigradient.domains.flows.estimates import policy_table
from semigradient.domains.flows.samples import draw
from semigradient.envs.constructions.construction import Table
from semigradient.errors import UserError
from support.commands import QUIET
from support.flow_agents import GRID, make

SMALL = ("--hidden", "16", "--batch-size", "8", "--exact-every", "0")
TINY = ("height=7", "r0=0.3", "reward=uniform", "rule=exit_only")


def trajectories(table: Table, limit: int = 100_000) -> list[list[tuple[int, int, int]]]:
    """Every construction of a small table, as edges (state, action, child)."""
    found, open_ = [], [[(table.root, [])]]
    for states in open_:
        for state, edges in states:
            legal = table.legal(torch.tensor([state]))[0].nonzero()[:, 0].tolist()
            further = []
            for action in legal:
                child = int(table.child(torch.tensor([state]), torch.tensor([action])))
                path = [*edges, (state, action, child)]
                stops = action == table.actions - 1
                if stops or bool(table.finished(torch.tensor([child]))):
                    found.append(path)
                else:
                    further.append((child, path))
            if further:
                open_.append(further)
        assert len(found) < limit
    return found


@pytest.mark.parametrize("loss", ["tb", "fm"])
@pytest.mark.parametrize("rule", ["edge", "exit_only"])
def test_exact_bounds_are_those_of_all_trajectories(loss: str, rule: str) -> None:
    backward = "learned" if loss == "tb" else "uniform"
    env = ("height=3", "reward=uniform", f"rule={rule}")
    agent = make(*SMALL, "--loss", loss, "--backward", backward, "--reward-exponent", 2, env=env)
    table = agent.table
    assert table is not None
    with torch.no_grad():
        for parameter in agent.network.parameters():
            parameter.mul_(3)
    at = agent.look(torch.arange(table.size))
    forwards, backwards, ends = [], [], []
    for path in trajectories(table):
        s, a, c = (torch.tensor(each) for each in zip(*path, strict=True))
        forwards.append(float(at.log_forward(s, a).sum()))
        backwards.append(float(at.log_backward(s, a, c).sum()))
        ends.append(int(c[-1]))
    log_f, log_b = torch.tensor(forwards).double(), torch.tensor(backwards).double()
    reward = 2 * table.log_reward(torch.tensor(ends))
    log_w = reward + log_b - log_f
    p = (reward + log_b).softmax(0)
    assert float(log_f.exp().sum()) == pytest.approx(1, abs=1e-5)
    found = exact_bounds(table, agent.look, policy_table(table, agent.network), 2.0)
    assert found.elbo == pytest.approx(float((log_f.exp() * log_w).sum()), abs=1e-4)
    assert found.eubo == pytest.approx(float((p * log_w).sum()), abs=1e-4)
    assert found.log_z == pytest.approx(table.log_partition(2.0), abs=1e-10)
    assert found.elbo < found.log_z - 0.01 < found.log_z + 0.01 < found.eubo


def test_bounds_meet_at_an_exact_sampler() -> None:
    log_weights = torch.full((50,), 1.5, dtype=torch.float64)
    assert sampled_bounds(log_weights) == pytest.approx((1.5, 1.5, 1.5))
    log_weights = torch.tensor([0.0, math.log(3)], dtype=torch.float64)
    assert sampled_bounds(log_weights) == pytest.approx(
        (math.log(3) / 2, math.log(2), 0.75 * math.log(3))
    )


def test_samples_of_a_grid_have_exact_figures() -> None:
    agent = make(*SMALL, env=("height=7",))
    table = agent.table
    assert table is not None
    found = draw(agent, 4000, seed=3)
    assert found.exact
    assert found.enumerated
    law = table.reach(policy_table(table, agent.network))[1]
    assert torch.allclose(found.log_prob.exp(), law[found.states], atol=1e-12)
    share = torch.bincount(found.states, minlength=table.size) / 4000
    assert bool(((share - law).abs() <= 4.5 * (law * (1 - law) / 4000).sqrt() + 1e-9).all())
    assert found.figures["tv"] == pytest.approx(agent.evaluate()["tv"])
    assert found.figures["log_z"] == pytest.approx(table.log_partition())
    assert found.figures["log_z_network"] == pytest.approx(float(agent.log_z_estimate()))
    assert torch.equal(found.log_reward, table.log_reward(found.states))
    assert torch.allclose(found.score, found.log_reward.exp())
    x, y = map(int, found.objects[0].split())
    assert x + 7 * y == found.states[0]
    best = found.score[_firsts(found.objects)].sort(descending=True).values
    assert found.figures["top_10"] == pytest.approx(float(best[:10].mean()))
    assert found.figures["distinct"] == len(set(found.objects)) == len(best)
    modes = table.modes(found.states)
    assert found.figures["modes"] == len(set(modes[modes >= 0].tolist()))


def _firsts(names: list[str]) -> Tensor:
    return torch.tensor([names.index(name) for name in dict.fromkeys(names)])


def test_diversity_is_the_mean_distance_of_the_best() -> None:
    agent = make(*SMALL, env=("height=7", "dimensions=1", "reward=uniform"))
    found = draw(agent, 300)
    cells = sorted({int(name) for name in found.objects})
    gaps = [abs(a - b) / 3 for a, b in itertools.combinations(cells, 2)]
    assert found.figures["diversity"] == pytest.approx(sum(gaps) / len(gaps))


def test_importance_estimates_approach_the_exact_probabilities() -> None:
    agent = make(*SMALL, "--loss", "tb", "--backward", "learned", env=("height=7", "dimensions=3"))
    exact, few = draw(agent, 60, seed=1), draw(agent, 60, seed=1, paths=400)
    assert not few.exact
    assert exact.objects == few.objects
    assert float((exact.log_prob - few.log_prob).abs().max()) < 0.5
    assert float((exact.log_prob - few.log_prob).abs().mean()) < 0.05


def test_where_nothing_can_be_enumerated_figures_are_estimates() -> None:
    agent = make(*SMALL, "--loss", "log-variance", env=("dimensions=9", "height=20"))
    found = draw(agent, 50, paths=0)
    assert not found.exact
    assert not found.enumerated
    assert {"elbo", "log_z", "eubo"} <= found.figures.keys()
    assert "log_z_network" not in found.figures  # this loss learns none
    assert "tv" not in found.figures
    assert found.figures["elbo"] <= found.figures["log_z"] <= found.figures["eubo"]


def test_estimated_bounds_are_near_the_exact_ones() -> None:
    agent = make(*SMALL, "--loss", "tb", env=TINY)
    table, exact = agent.table, draw(agent, 1).figures
    agent.rules, agent.table = agent.source, None  # the grid itself, not its table
    found = draw(agent, 4000).figures
    assert table is not None
    for name, tolerance in (("elbo", 0.1), ("log_z", 0.3), ("eubo", 0.6)):
        assert found[name] == pytest.approx(exact[name], abs=tolerance)


def test_the_batch_says_log_z_where_no_parameter_does() -> None:
    agent = make("--loss", "log-variance", "--hidden", 32, "--optim.lr", "5e-3", env=TINY)
    for _ in range(150):
        scalars = dict(agent.iterate())
    assert agent.table is not None
    assert float(scalars["log_z"]) == pytest.approx(agent.table.log_partition(), abs=0.1)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flows") / "run"
    words = ["--agent", "gflownet", "--env", GRID, *SMALL, "--loss", "tb", "--steps", "200"]
    assert commands.train([*words, *QUIET, "--run-dir", str(path), "--eval-every", "0"]) == 0
    return path


def test_the_command_writes_a_table_and_prints_how_good_it_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "objects.csv"
    assert commands.main(["sample", str(folder), "--samples", "30", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    for name in ("tv", "log_z", "elbo", "eubo", "log_z_network", "top_10", "diversity", "modes"):
        assert f"\n{name} " in f"\n{shown}"
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert list(rows[0]) == ["object", "score", "log_reward", "log_prob"]
    found = semigradient.load(folder).sample(30)
    assert [row["object"] for row in rows] == found.objects
    assert [float(row["log_prob"]) for row in rows] == found.log_prob.tolist()
    assert command.main([str(folder), "--samples", "5", "--paths", "4"]) == 0
    assert "importance estimates" in capsys.readouterr().out
    header = (folder / "samples.csv").read_text().splitlines()[0]
    assert header == "object,score,log_reward,log_prob_estimate"


def test_the_learned_log_z_belongs_to_the_policy(folder: Path) -> None:
    agent = semigradient.load(folder).agent
    assert float(agent.log_z_estimate()) != 0  # where it began
    state = semigradient.training.parts.policy_state(agent)
    del state["log_z"]  # as of a run from before it did
    semigradient.training.parts.load_policy_state(agent, state)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such"], "run 'no/such': no such folder"),
        (["RUN", "--samples", "0"], "--samples 0: must be ≥ 1"),
        (["RUN", "--paths", "-1"], "--paths -1: must be ≥ 0"),
        (["RUN", "--seed", "-1"], "--seed -1: must be ≥ 0"),
        (["RUN", "--out", "no/such/x.csv"], "there is no folder 'no/such'"),
        (["RUN", "--out", "."], "--out '.': is a folder"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        command.main([str(folder) if word == "RUN" else word for word in words])
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_other_agents_have_nothing_to_sample(tmp_path: Path) -> None:
    words = ["--agent", "a2c", "--env", "CartPole-v1", "--steps", "40", "--eval-every", "0"]
    run = tmp_path / "run"
    assert commands.train([*words, *QUIET, "--run-dir", str(run), "--preset", "none"]) == 0
    with pytest.raises(UserError, match="run of a2c: has no objects to sample"):
        semigradient.load(run).sample(3)
