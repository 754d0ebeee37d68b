"""What the generator asks of a transport: send a call, say once what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from nbx.loadtest.traffic import Request


class Reply(NamedTuple):
    """What came of a call."""

    status: str
    """HTTP status, gRPC status name, or what kept the call from being answered."""
    ok: bool
    """Answered, and nothing in it was refused."""
    degraded: bool = False
    decision_id: str = ""
    slot: int = -1
    """First slot that holds an action; -1: none does."""


class Pending:
    """A call under way. Times: nanoseconds of `time.perf_counter_ns`."""

    __slots__ = ("carrier", "done", "due_ns", "entry", "number", "request", "sent_ns")

    def __init__(self, number: int, entry: int, request: Request, due_ns: int) -> None:
        self.number = number
        self.entry = entry
        """Call of the mix; one past the last: feedback."""
        self.request = request
        self.due_ns = due_ns
        self.sent_ns = 0
        """When it was handed to the network; 0: it waits for a connection."""
        self.done = False
        self.carrier: Any = None
        """Whatever the transport needs to give the call up."""


Done = Callable[[Pending, Reply], None]


def nobody(pending: Pending, reply: Reply) -> None:
    """Hear nothing: before a wire is open."""


class Wire(Protocol):
    """A transport. Every pending call is told to `done` exactly once, unless it is given up."""

    async def open(self, done: Done) -> None:
        """Connect; raises `Unavailable` when nobody answers there."""
        ...

    def send(self, pending: Pending) -> None:
        """Send now, or as soon as a connection is free."""
        ...

    def give_up(self, pending: Pending) -> None:
        """Forget a call: its time is over."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
