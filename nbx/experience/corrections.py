"""Values that turn out to have been wrong: which late decisions have to be diagnosed anew.

A profile value that is changed to another one within a day of a decision was, most likely, wrong when it was decided.
The customer's state keeps when each feature was last changed like that, and the latest decisions, a few: those of the
last day may have outcomes to be told again. Their open decisions are handed to the fold with the entry; what is not
kept any more, or was made under an alias, stays as it was told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.limits import CORRECTED_MS

if TYPE_CHECKING:
    from nbx.experience.entries import ProfileEntry
    from nbx.features.schema import Value
    from nbx.features.state import CustomerState


def note(state: CustomerState, name: str, value: Value | None, at_ms: int) -> None:
    """Note in `state` that a feature's value is about to be changed, if it is known and another one."""
    known = state.profile.get(name)
    if known is not None and value is not None and value != known.value and at_ms >= known.at_ms:
        state.corrected[name] = max(state.corrected.get(name, at_ms), at_ms)


def affected(state: CustomerState, entry: ProfileEntry) -> list[str]:
    """Return the decisions on whose outcomes a change of values may throw another light, oldest first."""
    if not any(state.corrected.get(name) == entry.at_ms for name in entry.changes):
        return []
    return [each.decision_id for each in state.recent if each.at_ms < entry.at_ms <= each.at_ms + CORRECTED_MS]


def pauses_by(state: CustomerState, source: str) -> dict[str, int]:
    """Return scope → end of the pauses in force that an outcome called for."""
    return {
        scope: pause.until_ms
        for scope, longest in state.pauses.items()
        for pause in (longest, *longest.shorter)
        if pause.source == source
    }
