"""Flow networks on molecules: the graph network, exact laws, the record, learning and resume."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.agents.gflownet.networks import graph_network
from semigradient.commands import train
from semigradient.domains.flows.estimates import Estimates
from semigradient.domains.flows.terminal import ancestors, log_terminal
from semigradient.domains.flows.trajectories import forward, running_sum, uniform_draws
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.envs.molecules.fingerprints import similarity
from semigradient.errors import UserError
from semigradient.nets.block_graph import BlockGraphNetwork, Graphs, GraphShape, read
from semigradient.training import parts
from semigradient.training.build import build
from semigradient.training.cli import parse
from support.commands import QUIET
from support.flow_agents import make as make_grid
from support.molecules import built, everything, rules
from support.states import differences

ID = "semigradient/Molecule-v0"
CHAINS = "vocabulary=CC[0,1]; C=O[0]; O[0]; F[0]"
SMALL = ("vocabulary=small", "max_blocks=4", "reward=mw_window")
TINY = ("--graph-width", "16", "--graph-steps", "2", "--batch-size", "4", "--test-objects", "6")


def make(*flags: object, env: tuple[str, ...] = SMALL) -> GFlowNet:
    words = ["--agent", "gflownet", "--env", ID, *map(str, flags), "--env-options", *env]
    agent = build(parse(words).command)
    assert isinstance(agent, GFlowNet)
    return agent


def inner(agent: GFlowNet) -> BlockMolecules:
    assert isinstance(agent.rules, BlockMolecules)
    return agent.rules


# Network

SHAPE = GraphShape(8, 30, 72, 127, 105)


def network(**options: Any) -> BlockGraphNetwork:
    torch.manual_seed(0)
    return BlockGraphNetwork(SHAPE, 12, 3, True, **options).double()


@pytest.fixture(scope="module")
def observations() -> torch.Tensor:
    big = rules()
    walks = built(big, 12)
    states = walks.state.flatten().unique()
    return big.features(states[states != walks.objects.max()])


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_graphs_in_a_batch_do_not_see_each_other(
    observations: torch.Tensor, normalised: bool, bidirectional: bool
) -> None:
    net = network(normalised=normalised, bidirectional=bidirectional)
    together = net(observations)
    assert together.forward.shape == (len(observations), 30 * 105 + 1)
    for index in range(0, len(observations), 7):
        alone = net(observations[index : index + 1])
        assert torch.allclose(alone.forward[0], together.forward[index], atol=1e-10)
        assert torch.allclose(alone.flow[0], together.flow[index], atol=1e-10)


def test_messages_are_those_of_an_outer_product_of_the_bond_ends(
    observations: torch.Tensor,
) -> None:
    net = network()
    graphs = read(observations, SHAPE, False)
    state = net.enter(net.block(graphs.block))
    ends = net.end(graphs.ends)
    for _ in range(net.steps):
        heard = net.stay(state)
        for w in range(len(graphs.source)):
            matrix = torch.outer(ends[w, 0], ends[w, 1])
            # Every block has one parent, so the mean over messages is the message.
            add = torch.zeros_like(heard)
            add[graphs.target[w]] = state[graphs.source[w]] @ matrix
            heard = heard + add
        state = net.memory(nn.functional.leaky_relu(heard), state)
    assert torch.allclose(net._nodes(graphs), state, atol=1e-9)


def test_the_direction_of_messages_is_an_option(observations: torch.Tensor) -> None:
    one, both = read(observations, SHAPE, False), read(observations, SHAPE, True)
    assert len(both.source) == 2 * len(one.source) > 0
    assert set(one.target.tolist()) <= set(both.target.tolist())
    assert (one.target > one.source).all()  # from the root outwards


def test_every_parameter_of_the_network_gets_a_gradient(observations: torch.Tensor) -> None:
    net = network(normalised=True, bidirectional=True)
    outputs = net(observations)
    there = outputs.forward > -1e29
    (outputs.forward[there].square().sum() + outputs.flow.square().sum()).backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in net.parameters())


def test_the_nodes_of_a_graph_are_read_from_its_numbers() -> None:
    some = rules("CC[0,1]; C=O[0]; O[0]; F[0]", 1, 4)
    empty = some.features(torch.tensor([some.root]))
    shape = GraphShape(4, some.stems, 4, some.tables.types, 4)
    graphs = read(empty, shape, False)
    assert isinstance(graphs, Graphs)
    assert (graphs.block.tolist(), graphs.type.tolist(), graphs.on.tolist()) == ([0], [0], [0])
    chain = some.child(some.child(torch.tensor([some.root]), torch.tensor([0])), torch.tensor([0]))
    graphs = read(torch.cat([empty, some.features(chain)]), shape, False)
    assert graphs.graph.tolist() == [0, 1, 1]
    assert (graphs.source.tolist(), graphs.target.tolist()) == ([1], [2])
    assert sorted(graphs.on.tolist()) == [0, 1, 2]


# Exact laws


def test_terminal_probabilities_are_those_of_the_table() -> None:
    agent = make_grid("--hidden", "8", env=("height=7",))
    table = agent.table
    assert table is not None
    at = agent.look(torch.arange(table.size))
    exact = table.reach(at.log_policy)[1]
    objects = table.objects[::3]
    found = log_terminal(table, agent.look, objects)
    assert torch.allclose(found.exp(), exact[objects], atol=1e-7)


def test_a_molecule_has_few_ancestors() -> None:
    big = rules()
    objects = built(big, 20).objects
    for each in objects:
        found = ancestors(big, each[None])
        assert len(found) <= 2 ** int(big.trees(each[None]).size[0])


def law(agent: GFlowNet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All objects, what the policy builds of them, and what it should."""
    states = torch.cat(everything(inner(agent)))
    legal = inner(agent).legal(states)
    objects = states[legal[:, -1] | ~legal.any(1)]
    target = agent.config.reward_exponent * inner(agent).log_reward(objects)
    return objects, log_terminal(agent.rules, agent.look, objects).exp(), target.softmax(0)


def test_the_law_of_a_policy_sums_to_one_and_is_what_it_builds() -> None:
    agent = make(*TINY, "--random-actions", 0, env=(CHAINS, "max_blocks=3", "min_blocks=2"))
    objects, found, _ = law(agent)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    look = agent.look

    def cumulative(states: torch.Tensor) -> torch.Tensor:
        once = states.unique()
        at = look(once)
        return running_sum(at.log_policy.exp())[at.rows(states)]

    draws = uniform_draws(agent.rules, 4000, torch.Generator().manual_seed(0))
    built = forward(agent.rules, cumulative, draws).objects
    share = (built[:, None] == objects).double().mean(0)
    deviation = (found * (1 - found) / 4000).sqrt()
    assert bool(((share - found).abs() < 4.5 * deviation).all())


@pytest.mark.parametrize("loss", ["fm", "tb"])
def test_losses_learn_molecules(loss: str) -> None:
    # Stems must know of all blocks, the ones behind them too.
    flags = ("--graph-width", 32, "--graph-steps", 2, "--bidirectional")
    flags += ("--batch-size", 32, "--optim.lr", "5e-3", "--schedule", "linear")
    flags += ("--log-z", 8) if loss == "tb" else ("--epsilon", 0)
    agent = make(
        *("--loss", loss, "--reward-exponent", 4, "--exact-every", 0),
        *("--steps", 18_000, "--test-objects", 0, *flags),
        env=(CHAINS, "max_blocks=3", "min_blocks=1", "scale=1"),
    )
    while agent.progress.steps < 18_000:
        agent.iterate()
    objects, found, wanted = law(agent)
    assert len(objects) == 24
    assert float((found - wanted).abs().sum() / 2) < 0.08
    scores = inner(agent).log_reward(objects)
    assert float(agent.log_z_estimate()) == pytest.approx(float((4 * scores).logsumexp(0)), abs=0.2)


# Learner


def test_scalars_speak_of_what_was_found() -> None:
    agent = make(*TINY, "--exact-every", 2)
    for _ in range(4):
        scalars = dict(agent.iterate())
    expected = {"top_10", "similarity", "similarity_morgan", "modes_7", "scaffolds_8", "objects"}
    assert expected | {"correlation", "rank_correlation", "log_z", "loss"} <= set(scalars)
    assert agent.pictures()["best"].shape[2] == 3
    reward, length = agent.progress.pop_episodes()[0]
    assert 0 < reward <= 10 / 8
    assert 2 <= length <= 4


def test_counters_are_of_the_moment() -> None:
    agent = make(*TINY, "--exact-every", 50, "--test-objects", 0)
    for count in (4, 8, 12):
        scalars = dict(agent.iterate())
        assert scalars["objects"] == count
    best = sorted(agent.record.discoveries.best.values())[-10:]
    assert scalars["top_10"] == pytest.approx(sum(best) / 10)


@pytest.mark.parametrize("loss", ["fl-db", "fl-subtb"])
def test_looking_forward_starts_from_energy_0(loss: str) -> None:
    flags = ("--loss", loss, "--reward-exponent", 10, "--exact-every", 0, "--test-objects", 0)
    agent = make(*TINY, *flags)
    root = torch.tensor([agent.rules.root])
    assert float(agent.rules.log_reward(root)) == pytest.approx(math.log(0.01 / 8))
    at = agent.look(root)
    assert float(agent.log_z_estimate()) == pytest.approx(float(at.log_flow(root)))
    paths = agent.batches.build(agent.look, None, (0, 1)).paths
    at = agent.look(paths.state.unique())
    reward = agent._reward_at(at, paths)
    assert float(reward[at.rows(root)]) == 0
    others = at.states[at.states != root]
    assert torch.allclose(reward[at.rows(others)].double(), 10 * agent.rules.log_reward(others))


def test_samples_are_molecules_with_exact_probabilities() -> None:
    env = (CHAINS, "max_blocks=3", "min_blocks=2", "reward=mw_window")
    agent = make(*TINY, "--reward-exponent", 3, env=env)
    objects, wanted, _ = law(agent)
    found = agent.sample(300, seed=1)
    assert found.exact
    assert not found.enumerated
    place = (objects == found.states[:, None]).int().argmax(1)
    assert torch.allclose(found.log_prob.exp(), wanted[place], atol=1e-6)
    assert found.objects == inner(agent).smiles(found.states)
    assert torch.equal(found.score, inner(agent).score(found.states))
    assert torch.allclose(found.log_reward, 3 * inner(agent).log_reward(found.states))
    distinct = list(dict.fromkeys(found.objects))
    assert found.figures["diversity"] == pytest.approx(1 - similarity(distinct))
    # From the greatest score on, far from all before: all of these light molecules score 10.
    kept: list[str] = []
    for name in distinct:
        kept += [name] if all(similarity([name, other]) < 0.7 for other in kept) else []
    assert found.figures["modes_7"] == len(kept)


def test_only_objects_are_asked_for_their_reward() -> None:
    agent = make(*TINY, "--exact-every", 0, "--test-objects", 0, "--replay", "transitions")
    for _ in range(5):
        agent.iterate()
    scorer: Any = inner(agent).score_of
    assert scorer.calls <= 5 * 4


def test_the_published_hyperparameters_are_the_preset() -> None:
    command = parse(["--agent", "gflownet", "--env", ID]).command
    config = command.agent
    assert (config.batch_size, config.reward_exponent, config.leaf_weight) == (4, 10, 10)
    assert (config.epsilon, config.random_actions) == (2.5e-5, 0.05)
    assert (config.reduction, config.graph_width, config.graph_steps) == ("balanced", 256, 10)
    assert command.optimizer.lr == 5e-4
    with pytest.raises(UserError, match="invalid choice 'other' for argument '--graph-form'"):
        make("--graph-form", "other")
    with pytest.raises(UserError, match="graph_width=0: must be ≥ 1"):
        make("--graph-width", 0)
    with pytest.raises(UserError, match="molecules have no bounded number of parents"):
        make("--loss", "tb", "--backward", "learned")


def test_flows_in_64_bits() -> None:
    agent = make(*TINY, "--double")
    agent.iterate()
    assert all(p.dtype == torch.float64 for p in agent.network.parameters())
    at = agent.look(torch.tensor([agent.rules.root]))
    assert at.log_edges.dtype == torch.float64


def test_forgetting_on_the_way_makes_no_difference() -> None:
    flags = ("--loss", "fm", "--replay", "trajectories", "--replay-size", "20")
    one, other = make(*TINY, *flags, "--exact-every", 3), make(*TINY, *flags, "--exact-every", 3)
    for _ in range(5):
        one.iterate()
    inner(one).limit = 50
    parts.load(other, copy.deepcopy(parts.state(one)))
    for _ in range(4):
        first, second = one.iterate(), other.iterate()
        assert {k: float(v) for k, v in first.items()} == {k: float(v) for k, v in second.items()}
    assert differences(parts.state(one), parts.state(other)) == []


def test_a_run_draws_its_best_molecules_and_resumes(tmp_path: Path) -> None:
    common = (*TINY, "--loss", "tb", "--log-every", 40, "--exact-every", 4, *QUIET)

    def run(*flags: object) -> None:
        assert train([str(each) for each in flags]) == 0

    start = ("--agent", "gflownet", "--env", ID, "--env-options", *SMALL, "--eval-episodes", 2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(*start, *common, "--steps", 160, "--checkpoint-every", 40, "--run-dir", whole)
    run(*start, *common, "--steps", 80, "--checkpoint-every", 40, "--run-dir", parts)
    run("--resume", parts, "--steps", 160)
    from semigradient.training import checkpoint

    states = [checkpoint.load(folder / "checkpoints", None).state for folder in (whole, parts)]
    assert differences(states[0]["agent"], states[1]["agent"]) == []
    assert '"train/top_10"' in (whole / "metrics.jsonl").read_text()
    assert list((whole / "pictures").glob("best-*.png"))


@pytest.mark.parametrize("agent", ["ppo", "sb3-ppo"])
def test_other_learners_build_molecules_with_masks_or_without(agent: str) -> None:
    masks = "info" if agent == "ppo" else "none"
    steps = "--rollout-steps" if agent == "ppo" else "--n-steps"
    words = f"--agent {agent} --env {ID} --num-envs 2 --batch-size 16 {steps} 16 --preset none"
    learner = build(parse([*words.split(), "--env-options", *SMALL, f"masks={masks}"]).command)
    before = [p.clone() for _, p in parts.learned(learner).items()]
    scalars = learner.iterate()
    assert all(math.isfinite(float(v)) for v in scalars.values())
    after = [p for _, p in parts.learned(learner).items()]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert any(score > 0 for score, _ in learner.progress.pop_episodes())


def test_a_network_is_made_to_measure() -> None:
    some = rules("small", 2, 5)
    agent = make(*TINY, env=("vocabulary=small", "max_blocks=5", "reward=mw_window"))
    net = graph_network(some, agent.config)
    with torch.no_grad():
        at = Estimates(some, net, torch.tensor([some.root]), "uniform")
    assert some.actions == some.stems * 30 + 1
    assert float(at.log_policy.exp().sum()) == pytest.approx(1)
    assert int((at.log_policy.exp() > 0).sum()) == 30


# Reproduction


def test_the_reproduction_runs_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semigradient.reproductions import report
    from semigradient.reproductions.molecules import molecule_flows

    tiny = {
        beta: replace(setting, flags=f"{setting.flags} --graph-width 8", molecules=112)
        for beta, setting in molecule_flows.settings(report.Job("quick", 2, tmp_path)).items()
        if beta > 1
    }
    monkeypatch.setattr(molecule_flows, "settings", lambda job: tiny)
    (tmp_path / "cells").mkdir()
    found = molecule_flows.reproduce(report.Job("quick", 2, tmp_path, say=lambda _: None))
    assert len(found.rows) == 10
    assert all(math.isfinite(row.measured) for row in found.rows)
    from matplotlib.figure import Figure

    found.draw(Figure())


def test_the_flow_into_a_sink_is_the_reward_where_flows_are_right() -> None:
    from semigradient.reproductions.molecules.molecule_flows import log_leaf_inflow

    agent = make(*TINY, env=(CHAINS, "max_blocks=3", "min_blocks=1"))
    objects, _, _ = law(agent)
    found = log_leaf_inflow(agent, objects)
    parents = agent.rules.parents(objects)
    at = agent.look(torch.cat(everything(inner(agent))).unique())
    for row, each in enumerate(objects):
        if bool(agent.rules.finished(each[None])):
            real = parents.real[row]
            flows = at.log_edges_of(parents.state[row][real], parents.action[row][real])
            assert float(found[row]) == pytest.approx(float(flows.logsumexp(0)), abs=1e-5)
        else:
            stop = at.log_edges_of(each[None], torch.tensor([agent.rules.actions - 1]))
            assert float(found[row]) == pytest.approx(float(stop), abs=1e-5)
