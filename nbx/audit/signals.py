"""How placements, features and diagnoses are, as the learner last published it beside its snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, field

from nbx.bandits.evidence import CauseTable
from nbx.bandits.health import PlacementHealth
from nbx.bandits.quarantine import FeatureHealth
from nbx.bandits.signals import SignalHealth
from nbx.features.keys import MODEL_SIGNALS

if TYPE_CHECKING:
    from nbx.features.store import Store

TIMEOUT_MS = 2_000.0


class Signals(Struct, frozen=True, kw_only=True):
    """Health of all placements that had outcomes, as of a learner step."""

    step: int
    """Learner step; 0: nothing was published yet."""
    placements: list[SignalHealth]
    """By name, how their `seen` events are."""
    execution: list[PlacementHealth] = []
    """By name, how well placements execute."""
    features: list[FeatureHealth] = []
    """By name, profile features that were used."""
    causes: CauseTable = field(default_factory=CauseTable)

    @property
    def lost(self) -> list[SignalHealth]:
        """Placements that are paused."""
        return [health for health in self.placements if health.lost]


encode_signals = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Signals).decode


def decode_signals(packed: bytes | None) -> Signals:
    """Read what was published.

    Examples
    --------
    >>> decode_signals(None).step
    0
    """
    return Signals(step=0, placements=[]) if packed is None else _decode(packed)


async def read_signals(store: Store) -> Signals:
    """Return the health of all placements; `Unavailable` when the store does not answer."""
    (packed,) = await store.read([MODEL_SIGNALS], TIMEOUT_MS)
    return decode_signals(packed)
