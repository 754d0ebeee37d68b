"""Exposures of a customer: prompts that may still be seen, those proved, and what was only assumed."""

from __future__ import annotations

from bisect import insort

from nbx.catalog.rules import Rules
from nbx.experience.lifecycle import OpenSlot
from nbx.features.state import CustomerState, Reservation
from nbx.limits import CONTACTS, UNLIMITED


def reserve(state: CustomerState, key: str, reserved: Reservation, rules: Rules) -> None:
    """Count a prompt that may still be seen, and forget the first to end of those like it that no limit can need."""
    state.reserved[key] = reserved
    most = CONTACTS if (reserved.action, reserved.channel) in rules.limited else UNLIMITED
    if len(state.reserved) > most:
        at = (reserved.action, reserved.channel)
        same = [(each.until_ms, name) for name, each in state.reserved.items() if (each.action, each.channel) == at]
        for _, name in sorted(same)[:-most]:
            del state.reserved[name]


def expose(state: CustomerState, slot: OpenSlot, channel: str, key: str, at_ms: int, rules: Rules) -> None:
    """Count a proved exposure, and free its reservation."""
    state.reserved.pop(key, None)
    slot.exposed_at_ms = at_ms
    state.last_prompt_ms = max(state.last_prompt_ms, at_ms)
    for counted, name in ((state.exposures, slot.action), (state.touches, channel)):
        times = counted.get(name, [])
        insort(times, at_ms // 1000)
        since_s = times[-1] - rules.keep_s
        counted[name] = [at_s for at_s in times if at_s > since_s][-CONTACTS:]


def hide(state: CustomerState, slot: OpenSlot, channel: str) -> None:
    """Take back an exposure that was assumed."""
    at_s = slot.exposed_at_ms // 1000
    for times in (state.exposures.get(slot.action, []), state.touches.get(channel, [])):
        if at_s in times:
            times.remove(at_s)
