"""Chains, PPO and the bench of searches on molecules of the published kind."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")

from semigradient.agents.gflownet.mars import MARS, proposals
from semigradient.agents.ppo import PPO
from semigradient.domains.molecules.gaussian_process import MoleculeProcess
from semigradient.domains.molecules.molecule_sets import Fitting, r_squared
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.envs.molecules.fingerprints import morgan, tanimoto
from semigradient.envs.molecules.rewards import Scorer
from semigradient.errors import UserError
from semigradient.nets.block_actor_critic import BlockActorCritic
from semigradient.reproductions.molecules import molecule_active
from semigradient.reproductions.molecules.molecule_runs import POINTS, Search, summary
from semigradient.reproductions.molecules.molecule_search import methods
from semigradient.training.build import build
from semigradient.training.cli import parse
from support.molecules import built, rules

SMALL = ("vocabulary=small", "max_blocks=4", "reward=mw_window")
GRAPH = "--graph-width 16 --graph-steps 2"
PPO_FLAGS = (
    "--torso-width 16 --torso-depth 2 --num-envs 2 --rollout-steps 6 --batch-size 4 --epochs 1"
)


def make(words: str, env: tuple[str, ...] = SMALL) -> Any:
    line = [*words.split(), "--env", "semigradient/Molecule-v0", "--env-options", *env]
    return build(parse(line).command)


def test_a_chain_can_go_everywhere_and_back() -> None:
    chain = make(f"--agent mars {GRAPH} --chains 6 --moves 1")
    assert isinstance(chain, MARS)
    rules = chain.rules
    assert isinstance(rules, BlockMolecules)
    for _ in range(3):
        chain.iterate()
    states = chain.now.unique()
    with torch.no_grad():
        found = proposals(rules, chain.network, states, "uniform")
        assert torch.allclose(found.both.exp().sum(1), torch.ones(len(states)), atol=1e-5)
        assert (found.parents.state[found.log_cut > -torch.inf] != rules.root).all()
        # Whatever is cut off can be attached again, by the actions that the edges name.
        for row, state in enumerate(states.tolist()):
            for slot in (found.log_cut[row] > -torch.inf).nonzero()[:, 0].tolist():
                parent = found.parents.state[row, slot][None]
                action = found.parents.action[row, slot][None]
                assert int(rules.child(parent, action)) == state
    # What is counted has two blocks at least; a chain may stand at one.
    assert chain.visits.objects <= 3 * 6


def test_ppo_looks_at_blocks() -> None:
    agent = make(f"--agent ppo {PPO_FLAGS}")
    assert isinstance(agent, PPO)
    assert isinstance(agent.network, BlockActorCritic)
    obs, mask = agent.collector.stepper.obs, agent.collector.stepper.mask
    seen, legal = torch.from_numpy(obs), torch.from_numpy(mask)
    parameters, value = agent.network(seen, legal)
    assert parameters.shape == (2, agent.setup.envs.single_action_space.n)
    assert value.shape == (2,)
    chance = parameters.detach().softmax(1)
    assert float(chance[~legal].max()) == 0
    assert torch.allclose(agent.network.value(seen), value)
    assert float(dict(agent.iterate())["entropy"]) > 0


def test_backward_policies_of_molecules_are_uniform() -> None:
    with pytest.raises(UserError, match="backward='learned': molecules have no bounded"):
        make("--agent mars --backward learned")


def test_a_summary_is_what_its_words_say() -> None:
    names = ["CCO", "c1ccccc1", "CCN", "CCCCCC", "c1ccccc1C"] * 40
    names = [f"C{'C' * (i // 5)}{each}" for i, each in enumerate(names)]
    scores = np.random.default_rng(0).uniform(0, 10, len(names))
    found = summary(list(zip(names, scores.tolist(), strict=True)), 400, (5.0, 9.0))
    assert found["calls"][0] == 400 / POINTS
    assert found["top_10"][0] == pytest.approx(np.sort(scores[:20])[-10:].mean())
    assert found["top_100"][5] == pytest.approx(np.sort(scores[:120])[-100:].mean())
    # The method stopped at 200 of 400: what it has then stays.
    assert found["top_10"][-1] == pytest.approx(np.sort(scores)[-10:].mean())
    assert np.isnan(found["top_1000"]).all()
    assert found["scored"][0] == 200
    assert found["above"].tolist() == [(scores > 5).sum(), (scores > 9).sum()]
    assert 0 < found["similar"][0] < 1


@pytest.mark.parametrize("name", methods(16, 2))
def test_every_method_searches(name: str) -> None:
    search = Search(methods(16, 2)[name], SMALL, 60, (5.0,))
    scored = search.scored(0)
    assert len(scored) == 60
    assert len({each for each, _ in scored}) == 60
    assert scored == search.scored(0)


def test_a_process_on_fingerprints_is_that_of_a_plain_solution() -> None:
    names = ["CCO", "CCN", "c1ccccc1O", "CCCCCC", "CC(=O)O", "c1ccncc1", "CCCl"]
    values = np.array([1.0, 1.2, 4.0, 0.5, 1.5, 3.5, 0.9])
    process = MoleculeProcess().fit(names, values)
    share, length = process._chosen
    prints, sizes = [morgan(each) for each in names], np.array([3, 3, 7, 6, 4, 6, 3.0])
    alike = np.array([tanimoto(each, prints) for each in prints])
    size = np.exp(-((sizes[:, None] - sizes) ** 2) / (2 * length**2))
    kernel, y = share * alike + (1 - share) * size, (values - values.mean()) / values.std()
    found = []
    for noise in process.NOISES:
        solved = np.linalg.solve(kernel + noise * np.eye(7), y)
        found.append(values.mean() + values.std() * kernel @ solved)
    predicted = process.predict(names)
    assert min(np.abs(each - predicted).max() for each in found) < 1e-9
    assert np.corrcoef(predicted, values)[0, 1] > 0.9


def test_the_belief_of_the_quick_scale_explains_molecules_held_back() -> None:
    some = rules("small", 2, 4)
    names = list(dict.fromkeys(some.smiles(built(some, 260).objects)))[:200]
    scores = torch.from_numpy(Scorer("dock_like")(names))
    scored, held = (names[:140], scores[:140]), (names[140:], scores[140:])
    reward = molecule_active.belief(molecule_active.QUICK, scored, held, 0)
    assert r_squared(torch.from_numpy(reward(held[0])), held[1]) > 0.4


@pytest.mark.parametrize("belief", ["network", "process"])
@pytest.mark.parametrize("method", ["gflownet", "mars", "random"])
def test_a_campaign_asks_for_new_molecules(
    method: str, belief: Literal["network", "process"]
) -> None:
    tiny = molecule_active.CampaignScale(
        (("vocabulary", "small"), ("max_blocks", 3)),
        *(20, 10, 2, 6, 100, 8, 1, (8, 1)),
        Fitting(3, batch_size=4, evaluate_every=2),
        belief,
    )
    found = molecule_active.learn(method, 0, tiny, "")
    assert found["known"][0] == 20 + 2 * 6
    assert found["top"].shape == (3, 2)
    assert (np.diff(found["top"][:, 0]) >= 0).all()
    assert np.isfinite(found["r_squared"]).all() != (method == "random")
