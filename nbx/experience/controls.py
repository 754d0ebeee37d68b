"""Stop, pause, resume: what a customer last said about being prompted in a scope, in an event of type `control`.

Scopes are an action's name, `group:<name>`, `channel:<name>` and `overall`. Of everything said about one the latest
holds, whatever the order of arrival; of two words said at the same moment, the one that keeps prompts away longer. Like
consent, and unlike the pauses that outcomes call for, a word is kept when it has run out or was taken back: else an
older one that arrives late would come back. So words have a place of their own in the state, `CustomerState.controls`.

What a pause holds back is the same as for any pause: classes exempt from the contact policy are not held back by a
channel or `overall`, and an action that the customer stopped is stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.catalog.rules import OVERALL, channel_scope, group_scope
from nbx.catalog.time_words import duration_ms
from nbx.errors import Invalid
from nbx.features.state import Control, CustomerState
from nbx.limits import STOPPED_MS, WORD_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbx.catalog.rules import Rules
    from nbx.experience.entries import Event
    from nbx.features.schema import Value

CONTROL = "control"
"""Type of the event."""
_WORDS = ("pause", "stop", "resume")


def scopes_of(rules: Rules) -> Iterator[str]:
    """Yield every scope that customers have a say about, the widest first."""
    yield OVERALL
    yield from (channel_scope(name) for name in sorted(rules.channels))
    yield from (group_scope(name) for name in rules.groups)
    yield from rules.actions


def fold_control(state: CustomerState, event: Event, at_ms: int) -> None:
    """Take in what a customer said at a time, in `state`; what says nothing is passed over.

    Examples
    --------
    >>> from nbx.experience.entries import Event
    >>> state = CustomerState()
    >>> stop = Event(event_id="e", type="control", properties={"scope": "overall", "stop": True})
    >>> fold_control(state, stop, 5)
    >>> fold_control(state, Event(event_id="f", type="control", properties={"scope": "overall", "resume": True}), 4)
    >>> state.controls["overall"].said_ms
    5
    """
    scope, until_ms = event.properties.get("scope"), _until_ms(event.properties, at_ms)
    if isinstance(scope, str) and until_ms is not None:
        word = Control(until_ms, at_ms)
        state.controls[scope] = latest_word(state.controls.get(scope, word), word)


def latest_word(mine: Control, theirs: Control) -> Control:
    """Return which of two words about a scope holds."""
    return max(mine, theirs, key=lambda word: (word.said_ms, word.until_ms))


def held_ms(state: CustomerState, scope: str, now_ms: int) -> int:
    """Return until when a customer wants nothing of a scope, epoch milliseconds; 0: no such wish holds now."""
    word = state.controls.get(scope)
    return word.until_ms if word is not None and word.until_ms > now_ms else 0


def check_control(event: Event, rules: Rules, at_ms: int) -> None:
    """Check a control event, besides what is checked of every event.

    Parameters
    ----------
    event
        Its properties are as they came in.
    rules
        Say which scopes there are.
    at_ms
        When it was said.

    Raises
    ------
    Invalid
        It names a decision or a slot, no customer, no known scope, says not exactly one of pause, stop, resume, or the
        end of the pause is no time to come.
    """
    if event.decision_id or event.slot:
        field = "decision_id" if event.decision_id else "slot"
        raise Invalid(f"a control is about a customer, not about a decision: leave {field} out", field=field)
    if not event.customer_id:
        raise Invalid("a `control` event needs customer_id", field="customer_id", code="customer_missing")
    scope = event.properties.get("scope")
    if not isinstance(scope, str) or scope not in scopes_of(rules):
        raise Invalid(
            f"properties.scope is {str(scope)[:64]!r}; it must be overall, channel:<name> "
            f"({', '.join(sorted(rules.channels))}), group:<name> or the name of an action in force",
            field="properties.scope",
            code="scope_unknown",
        )
    said = [name for name in event.properties if name != "scope"]
    if len(said) != 1 or said[0] not in _WORDS:
        raise Invalid(
            f"properties must say one of {', '.join(_WORDS)} besides scope, found {', '.join(said)[:64] or 'none'}",
            field="properties",
            code="control_unclear",
        )
    if _until_ms(event.properties, at_ms) is None:
        field = f"properties.{said[0]}"
        must = "a duration up to 366d, such as 7d, or a time to come within that, in epoch milliseconds"
        raise Invalid(
            f"{field} is {str(event.properties[said[0]])[:64]!r}; it must be {must if said[0] == 'pause' else 'true'}",
            field=field,
            code="control_unclear",
        )


def _until_ms(properties: dict[str, Value], at_ms: int) -> int | None:
    """Return until when a word of a time keeps prompts away, 0: not at all; None: it says nothing."""
    if properties.get("stop") is True:
        return STOPPED_MS
    if properties.get("resume") is True:
        return 0
    pause = properties.get("pause")
    if isinstance(pause, str):
        length_ms = duration_ms(pause) or 0
        until_ms = at_ms + length_ms if length_ms else 0
    else:
        until_ms = 0 if pause is None or isinstance(pause, bool) else int(pause)
    return until_ms if at_ms < until_ms <= at_ms + WORD_MS else None
