"""Options of an optimizer behind its name: --optim NAME:KEY=VALUE,KEY=VALUE."""

from __future__ import annotations

import pytest

from semigradient.errors import UserError
from semigradient.training.cli import parse


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            "corrected-momentum:correction=kronecker,lr=1e-3",
            {"correction": "kronecker", "lr": 1e-3},
        ),
        ("corrected-momentum:follow_target=true", {"follow_target": True}),
        ("momentum:decoupled_weight_decay=False,beta=0.5", {"beta": 0.5}),
        ("semigradient.optim.configs:AdamConfig:lr=.5", {"lr": 0.5}),
        ("adam", {"lr": 1e-3}),
    ],
)
def test_options_of_an_optimizer_may_follow_its_name(text, options):
    optimizer = parse(
        ["--agent", "dqn", "--env", "CartPole-v1", "--preset", "none", "--optim", text]
    )
    for key, value in options.items():
        assert getattr(optimizer.command.optimizer, key) == value


@pytest.mark.parametrize("text", ["adam:lr", "adam:lr=1e-3,3e-3", "adam:=1", "adam:lr=1,"])
def test_options_in_another_form_are_refused(text):
    with pytest.raises(UserError, match=r"accepted is NAME:KEY=VALUE,KEY=VALUE"):
        parse(["--agent", "dqn", "--env", "CartPole-v1", "--optim", text])
