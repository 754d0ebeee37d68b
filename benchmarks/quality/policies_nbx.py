"""nbx as it serves: the learner, a snapshot every so often, the scoring kernel, the exact Thompson draw.

One setting for every task, the product's defaults. A snapshot is taken when what was learned has grown by 1/32, after
128 rows at the latest: the service takes one every quarter of a second, which is sooner in rows while there is little
traffic. The experience model rests, for peers have none.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import nbx.bandits
from benchmarks.quality.policy import Peer, Setting
from nbx.bandits import kernels
from nbx.bandits.learner import Learner, Observation, warm_up
from nbx.bandits.snapshot import bind
from nbx.bandits.thompson import choose_slate
from nbx.catalog.model import Exploration

if TYPE_CHECKING:
    from benchmarks.quality.task import Stream

REFRESH = 128
OWN = ("refresh", "scale", "floor")
"""Values that are not the learner's."""


class Nbx:
    """nbx over one stream."""

    def __init__(self, setting: Setting, stream: Stream) -> None:
        _warm_up()
        values = dict(setting.values)
        plain = Exploration()
        self.refresh = int(values.get("refresh", REFRESH))
        self.scale = float(values.get("scale", plain.scale))
        self.floor = float(values.get("floor", plain.floor))
        own: dict[str, Any] = {name: value for name, value in values.items() if name not in OWN}
        self.learner = Learner(**own)
        self.columns, self.actions = stream.columns, stream.actions
        self.groups = ("actions",) * len(stream.actions)
        self.learner.register_layout(1, self.columns)
        self.x, self.uniforms = stream.x, stream.uniforms
        self.gain, self.shift = stream.gain, stream.shift
        self.rows = np.arange(len(self.actions), dtype=np.int32)
        self.scores = [np.empty(len(self.actions), np.float32) for _ in range(3)]
        self.model = bind(None, self.columns, self.actions, self.groups)
        self.learned = 0
        self.snapshot_at = 1

    def prepare(self, row: int) -> None:
        """Nothing: a row is float32[d] already."""

    def decide(self, row: int) -> tuple[int, float]:
        """Score every action and draw one."""
        model, (mean, sd, points) = self.model, self.scores
        kernels.score(self.x[row], model.mean, model.cov_packed, model.experience, self.rows, mean, sd, points)
        slate = choose_slate(
            mean,
            sd,
            self.gain,
            self.shift,
            scale=self.scale * model.exploration,
            floor=self.floor,
            slots=1,
            uniforms=self.uniforms[row : row + 1],
            with_none=False,
        )
        return int(slate.chosen[0]), float(slate.propensity[0])

    def learn(self, row: int, action: int, success: float, reward: float, propensity: float) -> None:  # noqa: ARG002
        """Learn one answer; take a snapshot when it is due."""
        self.learner.learn(
            Observation(
                key=f"{row}/0",
                action=self.actions[action],
                group="actions",
                layout=1,
                x=self.x[row],
                response=int(success),
                experience=0.0,
                experience_weight=0.0,
            ),
            None,
        )
        self.learned += 1
        if self.learned >= self.snapshot_at:
            self.snapshot_at = self.learned + max(1, min(self.refresh, self.learned // 32))
            snapshot = self.learner.snapshot(self.learned, self.learned)
            self.model = bind(snapshot, self.columns, self.actions, self.groups)


@cache
def _warm_up() -> None:
    """Compile before the clock starts, as a worker does before its first request."""
    kernels.warm_up()
    warm_up()


def _version() -> str:
    """Digest of everything nbx decides with here."""
    digest = blake2b(digest_size=6)
    sources = sorted(Path(nbx.bandits.__path__[0]).glob("*.py"))
    for source in [*sources, Path(__file__)]:
        digest.update(source.read_bytes())
    return digest.hexdigest()


PEER = Peer("nbx", _version(), ("nbx",), Nbx)
