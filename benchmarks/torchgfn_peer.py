"""torchgfn on a hyper-grid: the peer of `benchmarks.gflownet_speed`.

Runs in its own Python, because torchgfn needs numpy < 2. Reads one number of iterations per line,
runs them, and prints the seconds of wall clock and of processor time; the line "tv" returns the
exact total variation instead.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch


class Peer:
    """One learner as torchgfn's own examples make it: MLP 2×256, Adam, k-hot cells."""

    def __init__(self, loss: str, dimensions: int, height: int, batch: int, seed: int) -> None:
        from gfn.estimators import DiscretePolicyEstimator
        from gfn.gflownet import FMGFlowNet, TBGFlowNet
        from gfn.gym import HyperGrid
        from gfn.preprocessors import KHotPreprocessor
        from gfn.samplers import Sampler
        from gfn.utils.modules import MLP, DiscreteUniform

        torch.manual_seed(seed)
        rewards = {"R0": 0.1, "R1": 0.5, "R2": 2.0}
        self.env: Any = HyperGrid(dimensions, height, "original", rewards, store_all_states=True)
        self.batch = batch
        cells = KHotPreprocessor(height, dimensions)
        actions = self.env.n_actions
        network = MLP(cells.output_dim, actions, 256, 2, activation_fn="leaky_relu")
        self.forward = DiscretePolicyEstimator(network, actions, cells)
        groups = [{"params": list(network.parameters()), "lr": 1e-3}]
        if loss == "tb":
            uniform = DiscreteUniform(actions - 1)
            behind = DiscretePolicyEstimator(uniform, actions, cells, is_backward=True)
            self.flow: Any = TBGFlowNet(self.forward, behind, init_logZ=0.0)
            groups.append({"params": self.flow.logz_parameters(), "lr": 0.1})
        else:
            self.flow = FMGFlowNet(self.forward)
        self.optimizer = torch.optim.Adam(groups)
        self.sampler = Sampler(self.forward)
        self.keep = loss == "tb"

    def iterate(self) -> None:
        """Sample on-policy and take one gradient step, with what was computed while sampling."""
        paths = self.sampler.sample_trajectories(
            self.env, n=self.batch, save_logprobs=self.keep, save_estimator_outputs=False
        )
        self.optimizer.zero_grad()
        samples = self.flow.to_training_samples(paths)
        loss = self.flow.loss(self.env, samples, recalculate_all_logprobs=False)
        loss.backward()
        self.optimizer.step()

    def total_variation(self) -> float:
        """Exact, by pushing probability through all cells in the order of their coordinate sums."""
        env, cells = self.env, self.env.all_states.tensor
        with torch.no_grad():
            logits = self.forward(env.all_states)
            legal = env.all_states.forward_masks
            chance = logits.masked_fill(~legal, -torch.inf).softmax(-1).double()
        powers = env.height ** torch.arange(env.ndim)
        row = {int(key): index for index, key in enumerate((cells * powers).sum(1))}
        reached = torch.zeros(len(cells), dtype=torch.float64)
        reached[row[0]] = 1
        for index in cells.sum(1).argsort(stable=True).tolist():
            for axis in range(env.ndim):
                if legal[index, axis]:
                    child = row[int((cells[index] * powers).sum() + powers[axis])]
                    reached[child] += reached[index] * chance[index, axis]
        reward = env.reward(env.all_states).double()
        return float((reached * chance[:, -1] - reward / reward.sum()).abs().sum() / 2)


def main(arguments: list[str]) -> None:
    """Serve: loss, dimensions, height, batch, seed, threads."""
    loss, *numbers = arguments
    dimensions, height, batch, seed, threads = map(int, numbers)
    torch.set_num_threads(threads)
    peer = Peer(loss, dimensions, height, batch, seed)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        if line.strip() == "tv":
            print(json.dumps(peer.total_variation()), flush=True)
            continue
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            peer.iterate()
        spent = [time.perf_counter() - wall, time.process_time() - processor]
        print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
