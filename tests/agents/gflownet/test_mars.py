"""Chains with learned proposals against exact laws, on graphs with one and with many edges."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from semigradient.agents.gflownet.mars import MARS, proposals, up_and_down
from semigradient.envs.constructions.construction import Construction, Table
from semigradient.errors import UserError
from semigradient.training.build import build
from semigradient.training.cli import parse
from support.states import differences

GRID = ("semigradient/HyperGrid-v0", ("height=4", "r0=0.1", "reward=uniform"))
TOY = ("semigradient/ToyMolecules-v0", ("vocabulary=rings",))


def make(env: tuple[str, tuple[str, ...]], *flags: object) -> MARS:
    if env is TOY:
        pytest.importorskip("rdkit", reason="the extra 'molecules' is not installed")
    words = ["--agent", "mars", "--env", env[0], *map(str, flags), "--env-options", *env[1]]
    built = build(parse(words).command)
    assert isinstance(built, MARS)
    # Proposals that are far from uniform.
    with torch.no_grad():
        for parameter in built.network.parameters():
            parameter.mul_(3)
    return built


def one_of_each(
    rules: Construction, network: torch.nn.Module, states: Tensor
) -> dict[tuple[int, int], float]:
    """q(x' | x) by adding up every single move."""
    found = proposals(rules, network, states)
    matrix: dict[tuple[int, int], float] = {}
    for row, state in enumerate(states.tolist()):
        here = torch.tensor([state])
        for action in range(rules.actions - 1):
            chance = float(found.log_add[row, action].exp())
            if chance:
                to = int(rules.child(here, torch.tensor([action])))
                matrix[state, to] = matrix.get((state, to), 0.0) + chance
        for slot in range(found.log_cut.shape[1]):
            chance = float(found.log_cut[row, slot].exp())
            if chance:
                to = int(found.parents.state[row, slot])
                matrix[state, to] = matrix.get((state, to), 0.0) + chance
    return matrix


@pytest.mark.parametrize("env", [GRID, TOY])
def test_proposals_are_the_sums_over_all_ways(env: tuple[str, tuple[str, ...]]) -> None:
    chain = make(env)
    table = chain.rules
    assert isinstance(table, Table)
    with torch.no_grad():
        matrix = one_of_each(table, chain.network, table.objects)
        for state in table.objects.tolist():
            row = sum(q for (x, _), q in matrix.items() if x == state)
            assert row == pytest.approx(1, abs=1e-5)
        # Every move has a way back, and the pair's two numbers are the sums.
        pairs = [(x, y) for x, y in matrix if y in set(_children(table, x))]
        lower, upper = torch.tensor(pairs).unbind(1)
        up, down = up_and_down(
            (lower, proposals(table, chain.network, lower)),
            (upper, proposals(table, chain.network, upper)),
        )
    assert up.exp().tolist() == pytest.approx([matrix[x, y] for x, y in pairs], rel=1e-4)
    assert down.exp().tolist() == pytest.approx([matrix[y, x] for x, y in pairs], rel=1e-4)
    if env is TOY:
        degree = table.parents(upper).real.sum(1)
        assert int(degree.max()) > 2


def _children(table: Table, state: int) -> list[int]:
    legal = table.legal(torch.tensor([state]))[0, :-1].nonzero()[:, 0]
    return table.child(torch.full_like(legal, state), legal).tolist()


@pytest.mark.parametrize("env", [GRID, TOY])
def test_only_the_ratio_of_proposals_makes_the_chain_exact(
    env: tuple[str, tuple[str, ...]],
) -> None:
    gaps = []
    for flags in ([], ["--no-proposal-ratio"]):
        chain = make(env, "--chains", 20_000, "--moves", 12, "--adapt", 0, "--hidden", 8, *flags)
        random = torch.Generator().manual_seed(0)
        chain.now = torch.multinomial(chain.visits.target, 20_000, True, generator=random)
        for _ in range(12):
            chain.move()
        # Chains that begin with the law must keep it.
        counts = torch.bincount(chain.now, minlength=chain.rules.size).double()
        gaps.append(float((counts / counts.sum() - chain.visits.target).abs().sum() / 2))
    assert gaps[0] < 0.03
    assert gaps[1] > 0.06


def test_proposals_learn_what_raised_the_reward() -> None:
    chain = make(GRID, "--chains", 64, "--moves", 10, "--updates", 20, "--optim.lr", 1e-2)
    first, last = (float(dict(chain.iterate())["loss"]) for _ in range(2))
    for _ in range(10):
        last = float(dict(chain.iterate())["loss"])
    assert last < first
    frozen = make(GRID, "--adapt", 0)
    before = copy.deepcopy(frozen.network.state_dict())
    frozen.iterate()
    assert differences(before, frozen.network.state_dict()) == []


def test_accepted_moves_without_gain_are_remembered_now_and_then() -> None:
    def kept(share: float) -> tuple[int, int]:
        """How many moves with and without gain are remembered."""
        chain = make(GRID, "--chains", 2000, "--other-moves", share, "--memory", 100_000)
        chain.move()
        states, moves = chain.memory.T
        found = proposals(chain.rules, chain.network, states)
        cut = found.parents.state.gather(1, (moves - chain.rules.actions).clamp(min=0)[:, None])
        grows = moves < chain.rules.actions
        after = torch.where(grows, states, cut[:, 0])
        after[grows] = chain.rules.child(states[grows], moves[grows])
        gain = chain.rules.log_reward(after) > chain.rules.log_reward(states)
        return int(gain.sum()), int((~gain).sum())

    gains, others = kept(1)
    assert others > 200
    assert kept(0) == (gains, 0)
    some = kept(0.3)
    assert some[0] == gains
    assert some[1] / others == pytest.approx(0.3, abs=0.08)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="--env CartPole-v1: mars builds objects"):
        build(parse(["--agent", "mars", "--env", "CartPole-v1"]).command)
    with pytest.raises(UserError, match="chains=0: must be"):
        make(GRID, "--chains", 0)
