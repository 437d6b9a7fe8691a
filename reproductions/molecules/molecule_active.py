"""Figures 5.16 and 5.17: multi-round active learning on molecules.

In each round a model, the belief, is fitted from scratch to all scored molecules: the network of
the binding-energy proxy with a fixed validation set for early stopping, or at the quick scale,
whose few molecules teach a network little, a Gaussian process on fingerprints. The R² of the belief
on the validation set is reported. A generator is trained from scratch on
its predictions; and a batch of new molecules of the generator is scored. Reported are the best of
all scored molecules.

The oracle is the synthetic `dock_like` here, or with `--folder DIR` the published proxy from
`DIR/best_params.pkl.gz`, in place of docking. The quick scale has 18 blocks, up to four in a
molecule, 150 molecules at first and three rounds of 40; the full one 72, up to six, 2 000 and nine
rounds of 200, as published. The initial molecules are random, unlike the published ones,
which have a similarity of 0.60.

Source: E. Bengio, PhD thesis, section 5.4.3; β = 8 from its published code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.agents.gflownet.mars import MARS
from semigradient.domains.flows.trajectories import forward, uniform, uniform_draws
from semigradient.domains.molecules.atoms import atom_graphs
from semigradient.domains.molecules.gaussian_process import MoleculeProcess
from semigradient.domains.molecules.molecule_sets import Fitting, fit, predict, r_squared
from semigradient.envs.adapters import CoreVector
from semigradient.envs.molecules.active_molecules import (
    ActiveMolecules,
    ActiveMoleculesState,
    ActiveOptions,
)
from semigradient.envs.molecules.block_molecules import BlockMolecules
from semigradient.envs.molecules.block_trees import Trees
from semigradient.envs.molecules.fingerprints import chemistry, similarity
from semigradient.envs.molecules.molecule import MoleculeOptions
from semigradient.experiments.curves import COLOURS
from semigradient.nets.atom_network import AtomNetwork
from semigradient.reproductions.molecules.binding_proxy import FILE
from semigradient.reproductions.molecules.molecule_runs import Array
from semigradient.reproductions.report import Job, Report, Row
from semigradient.training.agent import AgentContext, generator
from semigradient.training.build import create
from semigradient.training.cli import parse
from semigradient.training.summary import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Active learning on molecules: thesis figures 5.16 and 5.17"
SEEDS = {"quick": 2, "full": 3}
METHODS = ("gflownet", "mars", "random")
PUBLISHED = {"gflownet": (8.83, 7.76), "mars": (8.27, 7.08)}
_SOURCE = "section 5.4.3"


@dataclass(frozen=True)
class CampaignScale:
    """The size of a campaign.

    Attributes:
        options: of the molecules, by keyword.
        first: initial scored molecules.
        validation: molecules of the validation set.
        rounds: number of rounds.
        queries: molecules scored per round.
        steps: steps of a generator per round, in its own unit.
        width: of the generators' networks.
        graph_steps: convolutions of the generators' networks.
        proxy: width and rounds of messages of the proxy.
        fitting: of the proxy.
        belief: network (the proxy) or process (a Gaussian process).
    """

    options: tuple[tuple[str, Any], ...]
    first: int
    validation: int
    rounds: int
    queries: int
    steps: int
    width: int
    graph_steps: int
    proxy: tuple[int, int]
    fitting: Fitting
    belief: Literal["network", "process"] = "network"


QUICK = CampaignScale(
    (("vocabulary", "small"), ("max_blocks", 4)),
    *(150, 60, 3, 40, 3_000, 32, 3, (32, 4)),
    Fitting(150, lr=1e-3, evaluate_every=30, batch_size=32),
    belief="process",
)
FULL = CampaignScale(
    (("max_blocks", 6),),
    *(2_000, 3_000, 9, 200, 100_000, 256, 10, (64, 12)),
    Fitting(20_000, weight_decay=1e-6),
)


def graphs_of(smiles: list[str]) -> list[Any]:
    """Molecules as graphs of atoms, each as a batch of one."""
    chem = chemistry()
    return [atom_graphs([chem.MolFromSmiles(string)]) for string in smiles]


def train(method: str, reward: Callable[[list[str]], Any], seed: int, scale: CampaignScale) -> Any:
    """A generator trained on a reward."""
    graph = f"--graph-width {scale.width} --graph-steps {scale.graph_steps}"
    flags = {
        "gflownet": f"{graph} --graph-form normalised --batch-size 16 --exact-every 0 "
        "--test-objects 0 --reward-exponent 8",
        "mars": f"{graph} --chains 64 --moves 4 --no-proposal-ratio --reward-exponent 8",
        "random": "--chains 64",
    }
    words = ["--agent", method, *flags[method].split(), "--env", "semigradient/Molecule-v0"]
    command = parse([*words, "--seed", str(seed), "--steps", str(scale.steps)]).command
    core: Any = MoleculeOptions(reward, **dict(scale.options)).make()
    setup = AgentContext(
        CoreVector(core, 1, seed),
        torch.device("cpu"),
        seed,
        scale.steps,
        command.optimizer,
    )
    agent: Any = create(method, command.agent, setup)
    while method != "random" and agent.progress.steps < scale.steps:
        agent.iterate()
        agent.progress.pop_episodes()
    return agent


def new_objects(agent: Any, rules: BlockMolecules, known: set[str], count: int) -> Trees:
    """Up to `count` molecules of the generator that are not known."""
    new: dict[str, int] = {}
    for _ in range(50):
        if isinstance(agent, GFlowNet):
            objects = agent.batches.build(agent.look, None, (0, 1)).paths.objects
        elif isinstance(agent, MARS):
            agent.move()
            objects = agent.now
        else:
            draws = uniform_draws(rules, 64, agent.generator)
            objects = forward(rules, uniform(rules), draws).objects
        kept = objects[rules.legal(objects)[:, -1] | rules.finished(objects)]
        for name, number in zip(rules.smiles(kept), kept.tolist(), strict=True):
            if name not in known:
                new.setdefault(name, number)
        if len(new) >= count:
            break
    return rules.trees(torch.tensor(list(new.values())[:count], dtype=torch.int64))


def random_molecules(rules: BlockMolecules, known: set[str], count: int, seed: int) -> list[str]:
    """Distinct molecules of the uniform policy that are not known."""
    random = generator(seed, 21)
    molecules: dict[str, None] = {}
    while len(molecules) < count:
        draws = uniform_draws(rules, 256, random)
        smiles = rules.smiles(forward(rules, uniform(rules), draws).objects)
        molecules.update(dict.fromkeys(string for string in smiles if string not in known))
    return list(molecules)[:count]


def learn(method: str, seed: int, scale: CampaignScale, file: str) -> dict[str, Array]:
    """Means of the best 10 and 100 after each round, and similarity of the best 100."""
    options: dict[str, Any] = {
        **dict(scale.options),
        "initial": scale.first,
        "queries": scale.queries,
        "rounds": scale.rounds,
    }
    oracle_name = "proxy" if file else "dock_like"
    core = ActiveOptions(reward=oracle_name, reward_file=file, **options).make()
    oracle, state = core.rules.scores_of, core.reset(1, generator(seed, 20))
    held = random_molecules(core.rules, set(core.smiles(state)), scale.validation, seed)
    truth = torch.from_numpy(oracle(held))
    tops, explained, similar = [best(state)], [], [likeness(core, state)]
    for turn in range(scale.rounds):
        number, smiles = 100 * seed + turn, core.smiles(state)
        reward: Any = oracle
        if method != "random":
            scores = state.score[0, : len(smiles)]
            reward = belief(scale, (smiles, scores), (held, truth), number)
            explained.append(r_squared(torch.from_numpy(reward(held)), truth))
        agent = train(method, reward, number, scale)
        state = core.measure(
            state, [new_objects(agent, agent.rules, set(smiles), scale.queries)]
        ).state
        tops.append(best(state))
    similar.append(likeness(core, state))
    return {
        "top": np.array(tops),
        "similar": np.array(similar),
        "r_squared": np.array(explained or [np.nan]),
        "known": np.array([float(len(core.smiles(state)))]),
    }


def belief(
    scale: CampaignScale,
    scored: tuple[list[str], torch.Tensor],
    held: tuple[list[str], torch.Tensor],
    seed: int,
) -> Callable[[list[str]], Array]:
    """What a model fitted to scored molecules predicts, validated on those held back."""
    smiles, scores = scored
    if scale.belief == "process":
        return MoleculeProcess().fit(smiles, scores.numpy()).predict
    torch.manual_seed(seed)
    network = AtomNetwork(width=scale.proxy[0], steps=scale.proxy[1])
    training, validation = (graphs_of(smiles), scores), (graphs_of(held[0]), held[1])
    fitted = fit(network, training, validation, scale.fitting, seed)
    return partial(believed, fitted.network)


def best(state: ActiveMoleculesState) -> list[float]:
    """Means of the 10 and the 100 best scores known."""
    scores = state.score[0].sort(descending=True).values
    return [float(scores[scores.isfinite()][:k].mean()) for k in (10, 100)]


def likeness(core: ActiveMolecules, state: ActiveMoleculesState) -> float:
    """Similarity of the 100 best molecules known."""
    smiles, order = core.smiles(state), state.score[0].argsort(descending=True)
    return similarity([smiles[row] for row in order[: min(100, len(smiles))].tolist()])


def believed(network: AtomNetwork, smiles: list[str]) -> Array:
    """Predictions of the network."""
    return predict(network.eval(), graphs_of(smiles)).numpy()


def reproduce(job: Job) -> Report:
    """Run every generator from the same initial molecules."""
    scale = FULL if job.full else QUICK
    file = str(Path(job.folder) / FILE) if job.folder else ""
    results = {}
    for method in METHODS:
        parts = [
            job.cell(
                f"{method}-s{seed}",
                (method, seed, scale, file),
                partial(learn, method, seed, scale, file),
            )
            for seed in range(job.seeds)
        ]
        results[method] = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    rows = _claims(results)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        for panel, (column, k) in zip(panels, enumerate((10, 100)), strict=True):
            for colour, (method, runs) in zip(COLOURS, results.items(), strict=False):
                panel.plot(runs["top"][:, :, column].T, color=colour, alpha=0.6, label=method)
            panel.set(xlabel="round", ylabel=f"mean score of the {k} best")

    return Report(rows, draw)


def _claims(results: dict[str, dict[str, Array]]) -> list[Row]:
    rows = []
    for column, k in enumerate((10, 100)):
        for other in ("mars", "random"):
            gap = results["gflownet"]["top"][:, -1, column] - results[other]["top"][:, -1, column]
            printed = f"{PUBLISHED['gflownet'][column]} and " + (
                f"{PUBLISHED['mars'][column]}" if other == "mars" else "less"
            )
            rows.append(_row(f"mean of the {k} best, gflownet minus {other}", printed, gap, 1))
    gap = results["gflownet"]["similar"][:, -1] - results["mars"]["similar"][:, -1]
    rows.append(_row("similarity of the 100 best, gflownet minus mars", "0.54 and 0.64", gap, -1))
    for name in ("gflownet", "mars"):
        explained = results[name]["r_squared"].mean(1)
        row = _row(f"R² of the belief, {name}, mean of the rounds", "not said", explained, 1)
        rows.append(replace(row, required=False))
    return rows


def _row(quantity: str, published: str, values: Array, sign: int) -> Row:
    low, high = bootstrap_interval(np.mean, values, np.random.default_rng(0))
    mean = float(values.mean())
    words = "mean > 0" if sign > 0 else "mean < 0"
    return Row(quantity, published, _SOURCE, mean, low, high, words, sign * mean > 0)
