"""Flow networks as the command line makes them."""

from __future__ import annotations

from semigradient.agents.gflownet.gflownet import GFlowNet
from semigradient.training.build import build
from semigradient.training.cli import parse

GRID = "semigradient/HyperGrid-v0"


def make(*flags: object, env: tuple[str, ...] = ()) -> GFlowNet:
    words = ["--agent", "gflownet", "--env", GRID, *map(str, flags)]
    agent = build(parse([*words, *(["--env-options", *env] if env else [])]).command)
    assert isinstance(agent, GFlowNet)
    return agent
