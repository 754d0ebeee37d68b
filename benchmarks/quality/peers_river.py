"""River's bandits: LinUCBDisjoint, of which River says that it is too slow for practice, and two without context."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

from benchmarks.quality.installed import version_of
from benchmarks.quality.policy import Peer, Setting

if TYPE_CHECKING:
    from benchmarks.quality.task import Stream


class River:
    """One policy over one stream."""

    def __init__(self, setting: Setting, stream: Stream) -> None:
        bandit: Any = importlib.import_module("river.bandit")
        values: dict[str, Any] = {**dict(setting.values), "seed": stream.seed}
        self.contextual = setting.policy == "LinUCBDisjoint"
        if setting.policy == "ThompsonSampling":
            values["reward_obj"] = importlib.import_module("river.proba").Beta()
        if setting.policy == "UCB":
            values.setdefault("delta", 1.0)
        self.policy = getattr(bandit, setting.policy)(**values)
        self.arms = list(range(len(stream.actions)))
        self.names, self.x = stream.columns, stream.x
        self.context: dict[str, float] = {}

    def prepare(self, row: int) -> None:
        """Make the row a dict."""
        if self.contextual:
            self.context = dict(zip(self.names, self.x[row].tolist(), strict=True))

    def decide(self, row: int) -> tuple[int, float]:  # noqa: ARG002 - the context is prepared
        """Pull an arm."""
        arm = self.policy.pull(self.arms, context=self.context) if self.contextual else self.policy.pull(self.arms)
        return arm, math.nan

    def learn(self, row: int, action: int, success: float, reward: float, propensity: float) -> None:  # noqa: ARG002
        """Update it."""
        if self.contextual:
            self.policy.update(action, self.context, reward)
        else:
            self.policy.update(action, reward)


PEER = Peer(
    "river",
    version_of("river", 1),
    ("LinUCBDisjoint", "ThompsonSampling", "UCB"),
    River,
    {"UCB": ({"delta": 0.1}, {"delta": 0.3})},
    binary=("ThompsonSampling",),
    seeds={"LinUCBDisjoint": 2},
)
