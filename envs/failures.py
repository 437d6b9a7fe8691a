"""The exception for what an environment does wrong: one line that names it."""

from __future__ import annotations

from semigradient.errors import UserError


class EnvironmentFailureError(UserError, RuntimeError):
    """An environment raised, or returned something that its spaces do not declare.

    Args:
        name: of the environment.
        what: it did.
        details: the rest of the sentence.

    Attributes:
        step: environment steps of the run so far, once the caller knows.
    """

    step: int | None = None

    def __init__(self, name: str, what: str, details: str) -> None:
        super().__init__(name, what, details)
        self.name, self.what, self.details = name, what, details

    def __str__(self) -> str:
        at = "" if self.step is None else f" at step {self.step}"
        return f"environment {self.name} {self.what}{at}{self.details}"
