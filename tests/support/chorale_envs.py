"""Environments of chorales with made-up pieces and models, played at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from semigradient.envs.music.chorale_setting import Setting, chorale_setting
from support.chorales import pieces

FILL, REWRITE = "semigradient/ChoraleFill-v0", "semigradient/ChoraleRewrite-v0"
CHRONO = "semigradient/ChoraleChrono-v0"
P = 46


def some_model(seed: int = 0) -> Callable[[Tensor, Tensor], Tensor]:
    """Conditionals that depend on all that is known, in no sensible way."""
    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(P, P, generator=random, dtype=torch.float64)

    def conditionals(pitches: Tensor, known: Tensor) -> Tensor:
        seen = (weights[pitches] * known[..., None]).sum((1, 2))
        place = torch.arange(known[0].numel()).view(known.shape[1:])
        return (seen[:, None, None] * (1 + place[..., None] % 3)).log_softmax(-1)

    return conditionals


def setting(frames: int = 16, beat: int = 1, model: Any = None) -> Setting:
    return chorale_setting(pieces(), frames, beat, model=model or some_model())


def placed(options: dict[str, Any], folder: str) -> dict[str, Any]:
    """Options with the place of the chorales, which the toy has not."""
    return options if options.get("model") == "toy" else {"source": folder, **options}


def play(core: Any, start: Any, random: torch.Generator) -> tuple[Any, Tensor, Tensor]:
    """Random legal actions until all episodes are over: last states, returns, lengths (B,)."""
    state, total = start, torch.zeros(len(start[0]), dtype=torch.float64)
    over, length = torch.zeros(len(total), dtype=torch.bool), torch.zeros(len(total))
    while not bool(over.all()):
        mask = core.info(state)["action_mask"]
        weights = mask.float().masked_fill(over[:, None], 1.0)
        action = torch.multinomial(weights, 1, generator=random).squeeze(1)
        now = core.step(state, action, random)
        assert not bool((now.truncated & ~over).any())
        total += now.reward.where(~over, 0.0)
        length += ~over
        rows = [over.view(-1, *[1] * (part.dim() - 1)) for part in state]
        kept = zip(rows, state, now.state, strict=True)
        state = type(state)(*(old.where(row, new) for row, old, new in kept))
        over = over | now.terminated
    return state, total, length
