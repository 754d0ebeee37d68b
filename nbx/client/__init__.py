"""The Python client: decide and report, blocking or async, each call idempotent and bound by a deadline.

>>> with Client("http://127.0.0.1:8080", key="nbx_...") as nbx:  # doctest: +SKIP
...     reply = nbx.decide("anna", "web_home_hero", context={"hour": 20.0}, deadline_s=0.2)
...     if reply.slots[0].action:
...         nbx.seen(reply)
...         nbx.accepted(reply, value=60.0)

What a call does is in `calls`, when it is tried again in `patience`; both are free of I/O, so that `Client` and
`AsyncClient` (in `transport`) differ in how they wait and in nothing else.
"""

from nbx.api.messages import BatchItem, InteractionReply
from nbx.client.patience import DeadlineExceeded, Refused, Retry
from nbx.client.transport import AsyncClient, Client
from nbx.decision.messages import DecideReply, DecideRequest, SlotReply
from nbx.errors import NbxError, Unavailable
from nbx.experience.entries import Event
from nbx.experience.results import EventResult

__all__ = [
    "AsyncClient",
    "BatchItem",
    "Client",
    "DeadlineExceeded",
    "DecideReply",
    "DecideRequest",
    "Event",
    "EventResult",
    "InteractionReply",
    "NbxError",
    "Refused",
    "Retry",
    "SlotReply",
    "Unavailable",
]
