"""A decision explained in full: factors in money, contributions, slots, why not another action, in words and as data.

Pure: what the log and the model gave is passed in (`nbx.audit.explaining` reads it). The short explanation of
`nbx.decision.explain`, which a reply carries, is part of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Literal, NamedTuple

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.decision.again import again, same_rules
from nbx.decision.contributions import AS_DECIDED, Contributions, contributions
from nbx.decision.explain import Explanation, explain
from nbx.decision.seen import RECORD, Seen, seen_again, seen_in_record
from nbx.decision.why_not import Basis, Places, WhyNot, reasons_in_words, why_not
from nbx.decision.worth import SlotView, Worth, slot_views, worths
from nbx.errors import Unknown
from nbx.experience.entries import DecisionEntry
from nbx.features.state import CustomerState

Doubt = Literal[
    "", "not_needed", "log_incomplete", "log_too_long", "state_differs", "rules_differ", "merged", "erased", "degraded",
    "release_missing",
]  # fmt: skip
"""Why the customer was not rebuilt: nobody asked; the log does not reach back; it holds more entries than are read; the
state differs from what the record says; the rules, asked again, remove something else; another customer was merged into
it; the customer was erased; nothing was looked up; the release cannot be read any more."""
DOUBTS: dict[Doubt, str] = {
    "log_incomplete": "the log does not reach back to the customer's beginning",
    "log_too_long": "the log holds more since the customer's beginning than is read for an explanation",
    "state_differs": "the customer as folded from the log is not the one the record speaks of",
    "rules_differ": "the rules, asked again about the customer as folded from the log, did not answer alike",
    "merged": "another customer was merged into this one",
    "erased": "the customer was erased, and nothing personal is told",
    "degraded": "nothing could be looked up in time, so no rule was asked",
    "release_missing": "the release that decided cannot be read any more",
}
"""Said of what is told less of, for that."""


class Customer(NamedTuple):
    """The customer as rebuilt from the log, or why not."""

    state: CustomerState | None
    doubt: Doubt
    entries_read: int = 0


class Explained(Explanation, frozen=True, kw_only=True):
    """Everything that can be told of a decision; money unless said otherwise."""

    decision_id: str
    at_ms: int
    placement: str
    release: int
    snapshot: int
    holdout: str
    degraded: tuple[str, ...]
    slots: tuple[SlotView, ...]
    worth: tuple[Worth, ...]
    """Of every candidate, in catalog order."""
    weights: str
    """`as_decided`, `of_snapshot_N` (the model has moved on), or empty: no contributions."""
    contributions: tuple[Contributions, ...]
    """Of what was shown, of the best expected and of the action asked about."""
    values_from: Literal["rebuilt", "record"]
    """Whether values are those of the customer rebuilt from the log, or what the record alone tells."""
    doubt: Doubt
    """Why the customer was not rebuilt; empty: it was."""
    entries_read: int
    """Log entries looked through."""
    why_not: WhyNot | None
    """Of the action asked about."""
    told: tuple[str, ...]
    """All of it in words, one sentence or two each."""


class Known(NamedTuple):
    """What there is to explain with."""

    entry: DecisionEntry
    plan: Plan | None
    """Of the release that decided; None: it cannot be read any more."""
    model: BoundModel | None
    """Bound to that plan."""
    customer: Customer
    places: Places = {}  # noqa: RUF012 - nobody writes to it


def explained(known: Known, action: str = "") -> Generator[None, None, Explained]:
    """Explain a decision, in steps between which who runs it may rest; `smallest_change.finished` runs it at once.

    Parameters
    ----------
    known
        Record, plan, model and customer.
    action
        Why not this one? Empty: nobody asks.

    Raises
    ------
    Unknown
        The release that decided has no such action, or cannot be read.
    """
    entry, plan, doubt = known.entry, known.plan, known.customer.doubt
    erased = doubt == "erased"
    short = explain(entry, full=True)
    yield
    asked, seen = None, Seen({}, RECORD)
    if plan is not None and entry.request.placement in plan.placements and not erased:
        seen = seen_in_record(entry, plan)
        if known.customer.state is not None and known.model is not None:
            asked = again(entry, plan, known.model, known.customer.state)
            yield
            if same_rules(asked):
                seen = seen_again(asked)
            else:
                asked, doubt = None, "rules_differ"
    yield
    views, priced = slot_views(entry), worths(entry)
    yield
    parts: list[Contributions] = []
    for each in () if erased else _contributions(known, seen, views, action):
        parts.append(each)
        yield
    answer = None
    if action and plan is None:
        raise Unknown(
            f"release {entry.release}, which decided this, cannot be read any more: only the record is left",
            field="action",
            code="release_unknown",
        )
    if action and plan is not None:
        answer = yield from why_not(Basis(entry, plan, seen, asked, known.places), action)
    weights = next((each.weights for each in parts), "")
    return Explained(
        words=short.words,
        removed=short.removed,
        candidates=short.candidates,
        none_probability=short.none_probability,
        relationship={} if erased else short.relationship,
        exchange=short.exchange,
        goal=short.goal,
        decision_id=entry.decision_id,
        at_ms=entry.at_ms,
        placement=entry.request.placement,
        release=entry.release,
        snapshot=entry.snapshot,
        holdout=entry.holdout,
        degraded=entry.degraded,
        slots=views,
        worth=priced,
        weights=weights,
        contributions=tuple(parts),
        values_from="rebuilt" if asked is not None else "record",
        doubt=doubt,
        entries_read=known.customer.entries_read,
        why_not=answer,
        told=tuple(_told(known, priced, views, parts, doubt, answer)),
    )


def _contributions(known: Known, seen: Seen, views: tuple[SlotView, ...], action: str) -> Iterator[Contributions]:
    entry = known.entry
    if known.plan is None or known.model is None or not entry.x:
        return
    wanted = dict.fromkeys([*(view.action for view in views), *(view.best for view in views), action])
    for name in wanted:
        found = contributions(entry, known.plan, known.model, name, seen.values)
        if found is not None:
            yield found


def _told(
    known: Known,
    priced: Sequence[Worth],
    views: Sequence[SlotView],
    parts: Sequence[Contributions],
    doubt: Doubt,
    answer: WhyNot | None,
) -> Iterator[str]:
    entry = known.entry
    if answer is not None:
        yield from answer.words
    else:
        by_action = {each.action: each for each in priced}
        for view in views:
            yield _slot_words(view, by_action.get(view.action), by_action.get(view.best), len(entry.actions))
        for each in parts:
            if any(view.action == each.action for view in views):
                yield from (f"{each.action}: {words}" for words in each.words)
        yield from reasons_in_words(entry, known.plan)
    other = next((each.weights for each in parts if each.weights != AS_DECIDED), "")
    if other and answer is None:
        yield (
            f"the model has learned since: what features did is told by snapshot {other.rpartition('_')[2]}, "
            f"the decision was made by {entry.snapshot}"
        )
    if doubt in DOUBTS:
        yield f"told from the record alone: {DOUBTS[doubt]}"


def _slot_words(view: SlotView, mine: Worth | None, best: Worth | None, count: int) -> str:
    lead = f"slot {view.slot}: {view.action or 'nothing'}"
    match view.how:
        case "mandatory":
            return f"{lead}. Everybody concerned has to get it, so it was placed before anything was weighed."
        case "default":
            shown = "This is what the placement shows then." if view.action else "The placement shows nothing then."
            return f"{lead}. Nothing could be looked up in time. {shown}"
        case "no_candidate":
            return f"{lead}. No action was allowed, or none was left."
        case "held_out":
            return f"{lead}. The customer is held out, to see what choosing is worth, and gets mandatory actions only."
        case "chance":
            return (
                f"{lead}. The customer is held out: chance alone picked among {count} allowed ({view.chance:.1%} each)."
            )
    worth = f"It was expected to be worth {_worth_words(mine)}."
    chance = f"It had a chance of {view.chance:.1%}"
    if view.how == "best":
        more = (
            ""
            if view.explored_chance < 0.0005
            else f"; in {view.explored_chance:.1%} something else is tried, to learn"
        )
        return f"{lead}. Of {count} allowed and silence nothing was expected to be worth more. {worth} {chance}{more}."
    top = f"{view.best or 'silence'} was expected to be worth {view.short_of_best:,.2f} more"
    return f"{lead}. Tried to learn more: {top} ({_worth_words(best)}). {worth} {chance}."


def _worth_words(worth: Worth | None) -> str:
    if worth is None:
        return "0.00"
    parts = [
        f"{worth.acceptance:,.2f} from acceptance",
        f"{worth.experience:+,.2f} from how the customer feels about it",
    ]
    if worth.goal:
        parts.append(f"{worth.goal:+,.2f} from the goal")
    return f"{worth.utility:,.2f} ({', '.join(parts)})"
