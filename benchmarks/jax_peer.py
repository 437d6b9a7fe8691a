"""PPO on CartPole in JAX, as PureJaxRL lays it out: the peer of `benchmarks.scaling`.

Environment, rollout, epochs of minibatches and Adam are one compiled function, mapped over seeds
(C. Lu et al. 2022, "Discovered policy optimisation", whose code made that form known). Written
from the description, with our hyperparameters. It runs in its own Python (`pip install jax`), held
to one core. It reads a number of seconds per line, trains for as long, and prints environment
steps per second of all seeds together; compiling is not timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise
from typing import Any


class Peer:
    """K seeds of PPO, each with B copies of CartPole.

    Args:
        seeds: K.
        options: num_envs, rollout_steps, batch_size, epochs, hidden, gamma, gae_lambda, clip, lr,
            eps, entropy_coefficient, value_coefficient, max_grad_norm.
    """

    def __init__(self, seeds: int, options: dict[str, Any]) -> None:
        import jax

        self.jax: Any = jax
        self.np: Any = jax.numpy
        self.options = options
        self.samples = options["num_envs"] * options["rollout_steps"]
        self.steps = seeds * self.samples
        keys = jax.random.split(jax.random.key(0), seeds)
        self.state = jax.jit(jax.vmap(self._begin))(keys)
        self.update = jax.jit(jax.vmap(self._update), donate_argnums=0)
        for _ in range(2):  # the second time the types of all states are settled
            self.run(0.0)

    def run(self, seconds: float) -> float:
        """Environment steps per second, of all seeds together; one update at least."""
        steps, begin = 0, time.perf_counter()
        while True:
            self.state = self.jax.block_until_ready(self.update(self.state))
            steps += self.steps
            if (elapsed := time.perf_counter() - begin) >= seconds:
                return steps / elapsed

    def _begin(self, key: Any) -> Any:
        key, actor, critic, envs = self.jax.random.split(key, 4)
        parameters = (self._layers(actor, 2, 0.01), self._layers(critic, 1, 1.0))
        moments = [self.jax.tree.map(self.np.zeros_like, parameters) for _ in range(2)]
        obs = self._reset(envs, self.options["num_envs"])
        return parameters, *moments, self.np.zeros((), int), obs, self.np.zeros(len(obs), int), key

    def _layers(self, key: Any, outputs: int, last: float) -> Any:
        widths = [4, *self.options["hidden"], outputs]
        make = self.jax.nn.initializers.orthogonal
        gains = [2**0.5] * (len(widths) - 2) + [last]
        keys = self.jax.random.split(key, len(gains))
        shapes = pairwise(widths)
        return [
            (make(gain)(own, shape), self.np.zeros(shape[1]))
            for own, gain, shape in zip(keys, gains, shapes, strict=True)
        ]

    def _apply(self, layers: Any, x: Any) -> Any:
        for weight, bias in layers[:-1]:
            x = self.np.tanh(x @ weight + bias)
        return x @ layers[-1][0] + layers[-1][1]

    def _reset(self, key: Any, count: int) -> Any:
        return self.jax.random.uniform(key, (count, 4), minval=-0.05, maxval=0.05)

    def _act(self, obs: Any, action: Any) -> Any:
        """The dynamics of Gymnasium's CartPole-v1, by Euler's rule."""
        np = self.np
        x, speed, angle, turning = obs.T
        force = np.where(action == 1, 10.0, -10.0)
        cosine, sine = np.cos(angle), np.sin(angle)
        pushed = (force + 0.05 * turning**2 * sine) / 1.1
        bent = (9.8 * sine - cosine * pushed) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        pulled = pushed - 0.05 * bent * cosine / 1.1
        following = (x + 0.02 * speed, speed + 0.02 * pulled, angle + 0.02 * turning)
        return np.stack([*following, turning + 0.02 * bent], 1)

    def _update(self, state: Any) -> Any:
        """One rollout and its epochs."""
        jax, np, options = self.jax, self.np, self.options
        parameters, mean, square, count, obs, age, key = state

        def step(carry: Any, _: Any) -> Any:
            obs, age, key = carry
            key, drawn, fresh = jax.random.split(key, 3)
            logits, value = self._apply(parameters[0], obs), self._apply(parameters[1], obs)[:, 0]
            action = jax.random.categorical(drawn, logits)
            log_prob = self._log_prob(logits, action)
            later = self._act(obs, action)
            fallen = (np.abs(later[:, 0]) > 2.4) | (np.abs(later[:, 2]) > 0.2094395)
            cut = (age + 1 >= 500) & ~fallen
            following = self._apply(parameters[1], later)[:, 0]
            ended = fallen | cut
            row = (obs, action, log_prob, value, following, fallen, ended)
            start = self._reset(fresh, len(obs))
            obs = np.where(ended[:, None], start, later)
            return (obs, np.where(ended, 0, age + 1), key), row

        carry, rows = jax.lax.scan(step, (obs, age, key), None, options["rollout_steps"])
        obs, age, key = carry
        value, following, fallen, ended = rows[3:]
        error = 1.0 + options["gamma"] * np.where(fallen, 0.0, following) - value

        def back(later: Any, row: Any) -> Any:
            error, ended = row
            now = error + options["gamma"] * options["gae_lambda"] * np.where(ended, 0.0, later)
            return now, now

        _, advantage = jax.lax.scan(back, np.zeros_like(value[0]), (error, ended), reverse=True)
        data = [*rows[:3], advantage, advantage + value]
        flat = [part.reshape(-1, *part.shape[2:]) for part in data]

        def learn(carry: Any, batch: Any) -> Any:
            parameters, mean, square, count = carry
            gradient = jax.grad(self._loss)(parameters, batch)
            return self._adam(parameters, mean, square, count + 1, gradient), None

        def epoch(carry: Any, key: Any) -> Any:
            order = jax.random.permutation(key, self.samples).reshape(-1, options["batch_size"])
            return jax.lax.scan(learn, carry, [part[order] for part in flat])

        key, own = jax.random.split(key)
        keys = jax.random.split(own, options["epochs"])
        learned, _ = jax.lax.scan(epoch, (parameters, mean, square, count), keys)
        return *learned, obs, age, key

    def _log_prob(self, logits: Any, action: Any) -> Any:
        chosen = self.np.take_along_axis(logits, action[:, None], 1)[:, 0]
        return chosen - self.jax.nn.logsumexp(logits, 1)

    def _loss(self, parameters: Any, batch: Any) -> Any:
        np, options = self.np, self.options
        obs, action, old, advantage, return_ = batch
        advantage = (advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-8)
        logits, value = self._apply(parameters[0], obs), self._apply(parameters[1], obs)[:, 0]
        ratio = np.exp(self._log_prob(logits, action) - old)
        near = np.clip(ratio, 1 - options["clip"], 1 + options["clip"])
        policy = -np.minimum(ratio * advantage, near * advantage).mean()
        logs = self.jax.nn.log_softmax(logits)
        entropy = -(np.exp(logs) * logs).sum(1).mean()
        fit = ((value - return_) ** 2).mean()
        weighted = options["value_coefficient"] * fit - options["entropy_coefficient"] * entropy
        return policy + weighted

    def _adam(self, parameters: Any, mean: Any, square: Any, count: Any, gradient: Any) -> Any:
        jax, np, options = self.jax, self.np, self.options
        norm = np.sqrt(sum((part**2).sum() for part in jax.tree.leaves(gradient)))
        factor = np.minimum(1.0, options["max_grad_norm"] / (norm + 1e-6))
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * factor * g, mean, gradient)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * (factor * g) ** 2, square, gradient)
        rate = options["lr"] * np.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        eps = options["eps"] * np.sqrt(1 - 0.999**count)
        move = lambda p, m, v: p - rate * m / (np.sqrt(v) + eps)  # noqa: E731
        return jax.tree.map(move, parameters, mean, square), mean, square, count


def main(arguments: list[str]) -> None:
    """Serve: number of seeds, and the options as JSON."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["JAX_PLATFORMS"] = "cpu"
    peer = Peer(int(arguments[0]), json.loads(arguments[1]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(peer.run(float(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
