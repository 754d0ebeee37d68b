"""Every peer, nbx first; a package that is not installed is named, not missed in silence."""

from __future__ import annotations

from benchmarks.quality import (
    peers_contextualbandits,
    peers_gittins,
    peers_mabwiser,
    peers_plain,
    peers_river,
    peers_vw,
    policies_nbx,
)
from benchmarks.quality.policy import Peer

PEERS: tuple[Peer, ...] = (
    policies_nbx.PEER,
    peers_plain.PEER,
    peers_vw.PEER,
    peers_mabwiser.PEER,
    peers_contextualbandits.PEER,
    peers_river.PEER,
    peers_gittins.PEER,
)
YARDSTICK = "best fixed action"
"""Known in hindsight only: shown, never ranked."""
