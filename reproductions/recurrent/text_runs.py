"""Single passes over endless texts, with UORO and with truncated backpropagation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from semigradient.envs.memory import streams
from semigradient.reproductions.recurrent.online import Adam, Array, Learners, Network

CHUNK = 4096
"""Characters that are drawn at once."""


@dataclass(frozen=True)
class Method:
    """UORO with memory T, or backpropagation truncated to T steps; an update every T steps."""

    name: str
    memory: int
    is_uoro: bool


@dataclass(frozen=True)
class Reading:
    """What is read, by what, and how it learns.

    Attributes:
        env_id, options: whose text it is.
        kind: gru or lstm.
        hidden: units.
        characters: of the single pass.
        rate, decay: γ and α of Adam's learning rate γ / (1 + α √t), t in characters.
        every: characters of which one mean loss is kept.
    """

    env_id: str
    kind: str
    hidden: int
    characters: int
    decay: float
    rate: float = 1e-3
    every: int = 10_000
    options: Mapping[str, Any] = field(default_factory=dict)


def read(reading: Reading, memory: int, are_uoro: Sequence[bool], seeds: int) -> Array:
    """Mean losses in bits, (methods, S, characters / every), of methods of one memory.

    Methods and seeds learn side by side; a seed's text and first parameters are the same for all.
    """
    stream = streams.make(reading.env_id, seeds, 0, cut=False, **reading.options)
    network = Network(reading.kind, len(stream.source.names), reading.hidden)
    theta = np.tile(network.initial(range(seeds)), (len(are_uoro), 1)).astype(np.float32)
    learners = Learners(network, theta, np.repeat(are_uoro, seeds))
    adam = Adam(theta)
    rng = np.random.default_rng((seeds, 11))
    losses = np.zeros((reading.characters // reading.every, len(theta)))
    done = 0
    for text in _texts(stream, reading.characters, len(are_uoro)):
        many = (CHUNK // memory, *learners.state.shape)
        signs = (2 * rng.integers(2, size=many, dtype=np.int8) - 1).astype(np.float32)
        for block, own in enumerate(signs):
            lost = learners.block(text[block * memory : (block + 1) * memory + 1], own)
            done += memory
            rate = reading.rate / (1 + reading.decay * math.sqrt(done))
            adam.step(theta, learners.gradient, rate)
            row = (done - 1) // reading.every
            if row < len(losses):
                losses[row] += lost.sum(0)
    bits = losses / reading.every / math.log(2)
    return bits.T.reshape(len(are_uoro), seeds, -1)


def levels(env_id: str, **options: Any) -> tuple[float, float]:
    """Bits per character of the optimum of a text, and of who knows its form alone."""
    nats = streams.make(env_id, 1, 0, **options).source.losses
    return nats["optimum"] / math.log(2), nats["memoryless"] / math.log(2)


def _texts(stream: streams.Stream, characters: int, times: int) -> Iterator[Array]:
    """Pieces (CHUNK + 1, times · S), each of which begins with the last character of the former."""
    last: Array | None = None
    for _ in range(0, characters, CHUNK):
        batch = stream.take(CHUNK)
        targets = batch.targets.numpy()
        first = batch.inputs[:1].argmax(-1).numpy() if last is None else last
        last = targets[-1:]
        yield np.tile(np.concatenate([first, targets]), (1, times))
