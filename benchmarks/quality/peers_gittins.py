"""gittins (Rust): ε-greedy over a hashed linear model that forgets.

Its documentation: one bandit, a context of numbers, candidates by name; `bits` sized generously, ε and forgetfulness
meant to be left alone. Its own sweep varies the three; so does the grid, with no forgetting added, for these tasks
stand still. A decision on which nothing is learned (a row that replay passes over) is resolved without training. It
cannot learn a choice it did not make, except by deciding once more with that candidate alone: so it learns from a log.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchmarks.quality.installed import version_of
from benchmarks.quality.policy import Peer, Setting

if TYPE_CHECKING:
    from benchmarks.quality.task import Stream

BITS = 14
"""Four times the largest task's pairs of a column and an action."""


class Gittins:
    """One state over one stream; the clock is the row."""

    def __init__(self, setting: Setting, stream: Stream) -> None:
        self.module: Any = importlib.import_module("gittins")
        values: dict[str, Any] = {"bits": BITS, **dict(setting.values)}
        self.state = self.module.create(horizon=1e9, **values)
        self.candidates: list[tuple[str, dict[str, float]]] = [(f"a{k}", {}) for k in range(len(stream.actions))]
        self.salt = f"seed-{stream.seed}"
        self.names, self.x = stream.columns[1:], stream.x[:, 1:]  # it has an intercept
        self.context: dict[str, float] = {}
        self.open: Any = None

    def prepare(self, row: int) -> None:
        """Close what was passed over; make the row a dict."""
        self._close()
        values = self.x[row].tolist()
        self.context = {name: value for name, value in zip(self.names, values, strict=True) if value}

    def decide(self, row: int) -> tuple[int, float]:
        """Decide."""
        self.open = self.module.decide(self.state, self.context, self.candidates, float(row), self.salt)
        return self.open.chosen, self.open.propensity

    def learn(self, row: int, action: int, success: float, reward: float, propensity: float) -> None:  # noqa: ARG002
        """Resolve the decision, or the one the log made."""
        record = self.open
        if record.chosen != action:
            self._close()
            record = self.module.decide(self.state, self.context, [self.candidates[action]], float(row), self.salt)
        self.module.learn(self.state, record.decision_id, reward, float(row))
        self.open = None

    def _close(self) -> None:
        if self.open is not None:
            self.module.learn(self.state, self.open.decision_id, 0.0, self.open.t, train=lambda *_: None)
            self.open = None


PEER = Peer(
    "gittins",
    version_of("gittins", 1),
    ("gittins",),
    Gittins,
    {
        "gittins": (
            {"epsilon": 0.02},
            {"epsilon": 0.1},
            {"forgetfulness": 0.9999},
            {"forgetfulness": 1.0},
            {"forgetfulness": 1.0, "epsilon": 0.02},
        )
    },
)
