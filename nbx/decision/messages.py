"""What goes into a decision and what comes out: the one data plane behind both faces."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from nbx.experience.entries import Continued
from nbx.features.schema import Value

Mode = Literal["live", "preview"]
Explain = Literal["none", "reasons", "full"]


class DecideRequest(Struct, frozen=True, kw_only=True):
    """What should we do next for this customer, here, now?"""

    customer_id: str
    placement: str
    slots: int = 1
    context: dict[str, Value] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    request_id: str = ""
    """A retry with the same id gets the same reply, for as long as the service remembers it."""
    mode: Mode = "live"
    """`preview` decides the same way and leaves no trace."""
    explain: Explain = "none"
    deadline_ms: int = 0
    """0: the service's default."""


class SlotReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One slot: an action, or `none` with the reason of silence."""

    slot: int
    action: str = ""
    treatment: str = ""
    content: Any = None
    """As the catalog has it; already encoded JSON (`msgspec.Raw`) on its way out."""
    gives: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    p_response: float | None = None
    propensity: float | None = None
    expires_at: int = 0
    """Epoch milliseconds after which the slot counts as not delivered."""
    none: str = ""


class DecideReply(Struct, frozen=True, kw_only=True):
    """One answered call."""

    decision_id: str
    slots: tuple[SlotReply, ...]
    holdout: str = ""
    degraded: tuple[str, ...] = ()
    release: int = 0
    snapshot: int = 0
    took_ms: float = 0.0
    explanation: Any = None
    """Present when asked for."""
    continues: tuple[Continued, ...] = ()
    """Open threads of the customer that were last touched on another channel."""
