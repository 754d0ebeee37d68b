"""MABWiser's linear policies, in batches: a call of its Python layer costs more than the arithmetic of a batch.

Grid: α and λ of the examples and tests of its authors, below and above the default of 1.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchmarks.quality.batches import Batched
from benchmarks.quality.installed import version_of
from benchmarks.quality.policy import Peer, Setting

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.quality.task import Stream


class MabWiser(Batched):
    """One MAB over one stream; contexts hold the constant, for MABWiser has no intercept."""

    def __init__(self, setting: Setting, stream: Stream) -> None:
        module: Any = importlib.import_module("mabwiser.mab")
        policy = getattr(module.LearningPolicy, setting.policy)(**dict(setting.values))
        model = module.MAB(list(range(len(stream.actions))), policy, seed=stream.seed)
        super().__init__(model, stream, constant=True)

    def fit(self, x: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Learn a batch; the first must be a `fit`."""
        (self.model.partial_fit if self.learned else self.model.fit)(actions, rewards, x)


PEER = Peer(
    "mabwiser",
    version_of("mabwiser", 1),
    ("LinUCB", "LinTS", "LinGreedy"),
    MabWiser,
    {
        "LinUCB": tuple({"alpha": alpha, "l2_lambda": ridge} for alpha in (0.1, 0.3) for ridge in (1.0, 10.0)),
        "LinTS": tuple({"alpha": alpha, "l2_lambda": ridge} for alpha in (0.1, 0.3) for ridge in (1.0, 10.0)),
        "LinGreedy": ({"epsilon": 0.02}, {"epsilon": 0.02, "l2_lambda": 10.0}, {"epsilon": 0.3}),
    },
)
