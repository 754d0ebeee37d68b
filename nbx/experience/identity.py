"""Two ids, one customer: what a merge does to the states of both, as pure functions.

An alias lives on another partition than its canonical customer, and nothing commits on two. So an alias hands over: its
state when it is merged, and from then on each entry about a decision that was made under it, with that decision as it
was before. Each handover stands in the alias's `outbox` from the commit by which it came to be until the canonical
customer has taken it in, in the order of sequences and each once, as the last sequence taken in is in its `aliases`.

Handing over what happened, not the difference it made, lets the canonical customer fold it as its own: reservations are
freed, assumed exposures taken back and pauses replaced by the very code that does so for anybody.

What two merged states cannot tell is what the history of both together would have called for at the time: a pause for
several ignored prompts that neither had alone begins with the next one.

The steps, and what a crash between them leaves: `nbx.experience.merging`.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from nbx.catalog.rules import Rules
from nbx.experience import giveget, journeys, promises
from nbx.experience.controls import latest_word
from nbx.experience.entries import (
    AbsorbEntry,
    AliasEntry,
    DecisionEntry,
    Entry,
    EventEntry,
    Merge,
    MovedEntry,
    TimerEntry,
    decode_entry,
    encode_entry,
)
from nbx.experience.lifecycle import SLOT_EVENTS, OpenDecision, decode_open
from nbx.experience.relationship import IGNORED_WINDOW_S, charge
from nbx.features.aggregates import merge_cells
from nbx.features.state import Consent, CustomerState, Handover, Pause, Recent, decode_state, encode_state
from nbx.limits import CONTACTS, PAUSES, RECENT

MERGE = "merge:"
"""Begins the names of timers that see to it that a merge is finished."""
_HELD_OUT = ("", "random", "silent")
"""Of two, the later holds for both."""


def merge_timer(alias: str) -> str:
    """Return the timer's name."""
    return f"{MERGE}{alias}"


def stricter(one: str, other: str) -> str:
    """Return how a customer is held out of whom one half was held out like this and the other like that.

    Examples
    --------
    >>> stricter("random", "silent"), stricter("", "random"), stricter("", "")
    ('silent', 'random', '')
    """
    return max(one, other, key=_HELD_OUT.index)


class Happened(NamedTuple):
    """Something about an alias's decision, to be folded into its canonical customer's state."""

    entry: Entry
    decision: OpenDecision | None


def fold_merge(state: CustomerState, entry: Merge, rules: Rules) -> Happened | None:
    """Fold a step of a merge into `state`, in place; returns what has to be folded next, if anything."""
    match entry:
        case AliasEntry():
            if state.aliases.get(entry.alias, -1) < 0:
                state.aliases.pop(entry.alias, None)
                if not entry.withdrawn:
                    state.aliases[entry.alias] = -entry.at_ms
        case MovedEntry():
            _move(state, entry)
        case AbsorbEntry():
            if entry.handed.sequence > state.aliases.get(entry.alias, 0):
                return _take_in(state, entry, rules)
        case _:
            state.outbox = [handed for handed in state.outbox if handed.sequence > entry.sequence]
    return None


def hand_over(state: CustomerState, entry: DecisionEntry | EventEntry | TimerEntry, before: bytes) -> None:
    """Note in an alias's state that its canonical customer has to hear of an entry.

    Behaviour is told to the canonical customer itself, and goals change no customer: only slots matter here.
    """
    if isinstance(entry, EventEntry) and entry.event.type not in SLOT_EVENTS:
        return
    if isinstance(entry, TimerEntry) and entry.kind == "goal":
        return
    state.handed_over = max(state.handed_over + 1, entry.at_ms)
    state.outbox.append(Handover(state.handed_over, entry=encode_entry(entry), decision=before))


def absorb(state: CustomerState, other: CustomerState, rules: Rules) -> None:
    """Make `state` that of a customer who lived both lives, in place; `other` is handed over.

    Counts and balance do not depend on which of the two is `state`, nor on the order of several merges. Where only one
    can hold the newer does; of equally new profile values that of `state`, of equally new consents the no.
    """
    for name, value in other.profile.items():
        if name not in state.profile or value.at_ms > state.profile[name].at_ms:
            state.profile[name] = value
    kinds = {name: aggregate for fed in rules.aggregates.values() for name, aggregate in fed}
    for name, cells in other.aggregates.items():
        known = state.aggregates.setdefault(name, cells)
        if known is not cells and name in kinds:
            state.aggregates[name] = merge_cells(kinds[name], known, cells)
    for mine, theirs in ((state.exposures, other.exposures), (state.touches, other.touches)):
        for name, seen in theirs.items():
            mine[name] = _latest(mine.get(name, []), seen, rules.keep_s)
    state.reserved |= other.reserved
    for scope, pause in other.pauses.items():
        state.pauses[scope] = _longest(state.pauses.get(scope), pause)
    for scope, prompts in other.unanswered.items():
        together = [*state.unanswered.get(scope, ()), *prompts]
        state.unanswered[scope] = sorted(together, key=lambda each: (each.at_ms, each.source))[-CONTACTS:]
    charge(state, other.balance, other.balance_at_ms, rules.experience)
    state.ignored_s = _latest(state.ignored_s, other.ignored_s, IGNORED_WINDOW_S)
    state.last_prompt_ms = max(state.last_prompt_ms, other.last_prompt_ms)
    for outcome, count in other.outcomes.items():
        state.outcomes[outcome] = state.outcomes.get(outcome, 0) + count
    state.goals = sorted([*state.goals, *other.goals], key=lambda watch: (watch.kept_until_ms, watch.decision_id))
    for purpose, said in other.consent.items():
        state.consent[purpose] = _latest_said(state.consent.get(purpose, said), said)
    journeys.absorb(state, other, rules)
    _absorb_relationship(state, other, rules)
    touch = max((state.last_touch_ms, state.last_touch), (other.last_touch_ms, other.last_touch))
    state.last_touch_ms, state.last_touch = touch
    for name, at_ms in other.corrected.items():
        state.corrected[name] = max(state.corrected.get(name, at_ms), at_ms)
    for scope, word in other.controls.items():
        state.controls[scope] = latest_word(state.controls.get(scope, word), word)
    state.recent = latest([*state.recent, *other.recent])
    state.holdout = stricter(state.holdout, other.holdout)
    for alias, sequence in other.aliases.items():
        state.aliases[alias] = max(state.aliases.get(alias, sequence), sequence)


def _absorb_relationship(state: CustomerState, other: CustomerState, rules: Rules) -> None:
    """Take what was promised, owed, asked and given to another into `state`."""
    for topic, turns in other.obligations.items():
        both = zip(state.obligations.get(topic, turns), turns, strict=True)
        state.obligations[topic] = [max(pair) for pair in both]
    promises.absorb(state, other, rules.experience)
    for sum_, added in ((state.given, other.given), (state.asked, other.asked)):
        giveget.add(sum_, added.amount, added.at_ms, rules.experience)
    for counts, more in ((state.gives, other.gives), (state.asks, other.asks)):
        for name, count in more.items():
            counts[name] = counts.get(name, 0) + count
    for key, theirs_last in other.touched.items():
        mine_last = state.touched.get(key, theirs_last)
        state.touched[key] = max(mine_last, theirs_last, key=lambda each: (each.at_ms, each.event, each.channel))


def latest(decisions: list[Recent]) -> list[Recent]:
    """Return the latest of some decisions, oldest first, as many as are kept in mind."""
    return sorted(decisions, key=lambda each: (each.at_ms, each.decision_id))[-RECENT:]


def with_latest(decisions: list[Recent], new: Recent) -> list[Recent]:
    """Return what `latest` keeps of some decisions in its order, and a new one."""
    if not decisions or (decisions[-1].at_ms, decisions[-1].decision_id) < (new.at_ms, new.decision_id):
        return [*decisions, new][-RECENT:]
    return latest([*(each for each in decisions if each.decision_id != new.decision_id), new])


def _move(state: CustomerState, entry: MovedEntry) -> None:
    if not state.merged_into:
        goals, handed = state.goals, state.handed_over
        packed = encode_state(state)
        never_met = CustomerState()
        for name in never_met.__struct_fields__:
            setattr(state, name, getattr(never_met, name))
        # goals stay with the decisions that wait for them; the canonical customer gets a copy, to know of them
        state.goals, state.handed_over = goals, max(handed + 1, entry.at_ms)
        state.outbox = [Handover(state.handed_over, state=packed)]
    state.merged_into = entry.into


def _take_in(state: CustomerState, entry: AbsorbEntry, rules: Rules) -> Happened | None:
    handed = entry.handed
    happened = None
    if handed.state:
        absorb(state, decode_state(handed.state), rules)
        state.holdout = entry.holdout or state.holdout
    else:
        happened = Happened(decode_entry(handed.entry), decode_open(handed.decision) if handed.decision else None)
    state.aliases[entry.alias] = handed.sequence
    return happened


def _latest(mine: list[int], theirs: list[int], keep_s: int) -> list[int]:
    """Return two ascending lists of times as one, bounded as the fold bounds it."""
    times = sorted([*mine, *theirs])
    return [at_s for at_s in times if at_s > times[-1] - keep_s][-CONTACTS:]


def _longest(mine: Pause | None, theirs: Pause) -> Pause:
    """Return the pauses of a scope as one; of one source that which ends later."""
    found: dict[str, Pause] = {}
    for pause in ([mine, *mine.shorter] if mine is not None else []) + [theirs, *theirs.shorter]:
        if pause.source not in found or pause.until_ms > found[pause.source].until_ms:
            found[pause.source] = replace(pause, shorter=[])
    longest, *shorter = sorted(found.values(), key=lambda pause: (-pause.until_ms, pause.source))
    return replace(longest, shorter=shorter[: PAUSES - 1])


def _latest_said(mine: Consent, theirs: Consent) -> Consent:
    return max(mine, theirs, key=lambda said: (said.at_ms, not said.granted))
