"""What became of an event that a caller reported."""

from __future__ import annotations

from msgspec import Struct


class EventResult(Struct, frozen=True, omit_defaults=True):
    """What became of one event."""

    event_id: str
    status: str
    """`accepted`, `duplicate` or `rejected`."""
    outcome: str = ""
    """Terminal outcome of the slot after the event, when it changed it."""
    code: str = ""
    detail: str = ""
    field: str = ""
