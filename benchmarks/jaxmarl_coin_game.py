"""Joint steps per second of jaxmarl's coin game, the peer of `benchmarks.environments`.

    PYTHON_WITH_JAXMARL benchmarks/jaxmarl_coin_game.py --batch 4096 --seconds 2

Runs in a separate environment (`pip install jaxmarl`) and does not import this project. The batch
is `vmap`ped and a hundred steps are compiled into one `scan`, with fixed actions: the peer's best
case. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time

_CHUNK = 100  # steps in one compiled call


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=2.0)
    chosen = parser.parse_args()
    import jax
    import jax.numpy as jnp
    from jaxmarl.environments.coin_game.coin_game import CoinGame

    env = CoinGame(num_inner_steps=50, num_outer_steps=1)
    root = jax.random.PRNGKey(0)
    actions = {
        name: jax.random.randint(jax.random.fold_in(root, index), (chosen.batch,), 0, 4)
        for index, name in enumerate(env.agents)
    }

    def advance(carry: tuple, _: None) -> tuple:
        key, state = carry
        key, draw = jax.random.split(key)
        keys = jax.random.split(draw, chosen.batch)
        obs, state, rewards, _, _ = jax.vmap(env.step)(keys, state, actions)
        # All outputs that a learner reads are used, so that none is optimised away.
        seen = sum(jnp.sum(array) for array in (*obs.values(), *rewards.values()))
        return (key, state), seen

    @jax.jit
    def chunk(carry: tuple) -> tuple:
        return jax.lax.scan(advance, carry, None, length=_CHUNK)

    _, state = jax.vmap(env.reset)(jax.random.split(root, chosen.batch))
    carry = (root, state)
    for _ in range(2):
        carry, seen = chunk(carry)
    seen.block_until_ready()
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < chosen.seconds:
        carry, seen = chunk(carry)
        seen.block_until_ready()
        count += chosen.batch * _CHUNK
    spent = time.perf_counter() - wall, time.process_time() - cpu
    rates = {"per_second": count / spent[0], "per_cpu_second": count / spent[1]}
    print(json.dumps({"jax": jax.__version__, **rates}))


if __name__ == "__main__":
    main()
