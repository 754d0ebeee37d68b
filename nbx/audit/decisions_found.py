"""Finding decisions: by customer, action, reason, outcome, time and more, newest first, in archive and live log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, get_args

from msgspec import Struct, field, structs

from nbx.audit.history import AFTER_MS
from nbx.audit.reading import Window
from nbx.catalog.model import REASONS, OutcomeName
from nbx.catalog.time_words import moment
from nbx.errors import Invalid
from nbx.experience.causes import CAUSES
from nbx.ids import checked_id, partition_of
from nbx.limits import FOUND

if TYPE_CHECKING:
    from nbx.audit.query import LogQuery
    from nbx.audit.query_rows import Rows

FIRST_MS: Final = 86_400_000
"""How much of a window is searched first: a day."""
HOLDOUTS: Final = ("silent", "random", "any")
_ALLOWED: Final = {"outcome": get_args(OutcomeName), "cause": CAUSES, "reason": REASONS, "holdout": HOLDOUTS}


class Criteria(Struct, frozen=True, kw_only=True):
    """What decisions have to be like; what is empty asks nothing."""

    customer: str = ""
    """As it was known when it was decided."""
    placement: str = ""
    action: str = ""
    """That a slot holds; with `reason`, that was removed."""
    reason: str = ""
    """Why an action was removed."""
    outcome: str = ""
    """Of a slot, by the last word on it."""
    cause: str = ""
    degraded: bool = False
    """Only degraded ones."""
    holdout: str = ""
    since_ms: int = 0
    until_ms: int = 0
    limit: int = 20

    def checked(self) -> Criteria:
        """Return these criteria.

        Raises
        ------
        Invalid
            A value is none that there can be; its field is named.

        Examples
        --------
        >>> Criteria(outcome="aceppted").checked()
        Traceback (most recent call last):
          ...
        nbx.errors.Invalid: outcome must be one of accepted, declined, dismissed, ignored, converted, failed, \
complained, not_seen, not_delivered; found 'aceppted'
        """
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value and value not in allowed:
                raise Invalid(
                    f"{name} must be one of {', '.join(allowed)}; found {value[:40]!r}",
                    field=name,
                    code="field_invalid",
                )
        for name in ("customer", "placement", "action"):
            if value := getattr(self, name):
                checked_id(value, name)
        if not 1 <= self.limit <= FOUND:
            raise Invalid(f"limit must be 1 to {FOUND}, found {self.limit}", field="limit", code="field_invalid")
        return self


class FoundSlot(Struct, frozen=True, kw_only=True):
    """A slot of a decision, in short."""

    slot: int
    action: str
    """Empty: none."""
    treatment: str
    none: str
    """Why silence; empty with an action."""
    propensity: float
    p_response: float
    outcome: str = ""
    """The last word on it; empty: none so far."""
    cause: str = ""


class FoundDecision(Struct, frozen=True, kw_only=True):
    """A decision that was found."""

    decision_id: str
    at_ms: int
    customer_id: str
    placement: str
    channel: str
    release: int
    holdout: str
    degraded: list[str]
    slots: list[FoundSlot]
    removed: int
    """Number of actions that rules removed."""


class Found(Struct, frozen=True, kw_only=True):
    """Decisions that were found, newest first."""

    decisions: list[FoundDecision]
    truncated: bool
    """There are more; ask again with `until` before the last one."""
    words: str = ""
    """Where nothing was found: what was looked for."""
    took_ms: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What is missing or was left out, in words."""


_PAGE: Final = """SELECT decision_id, epoch_ms("at") AS at_ms, customer_id, placement, channel, release, holdout,
    degraded, slots, len(removed) AS removed, partition
FROM entries WHERE {conditions} ORDER BY "at" DESC, decision_id LIMIT {limit}"""
_OUTCOMES: Final = """SELECT o.decision_id, o.slot, max_by(o.outcome, o.revision), max_by(o.cause, o.revision)
FROM (SELECT unnest(outcomes) AS o FROM entries
    WHERE kind IN ('event', 'timer', 'profile') AND logged_at >= epoch_ms(?) AND {whose})
WHERE o.decision_id IN (SELECT unnest(?)) GROUP BY ALL"""
_SLOTS = "list_transform(slots, lambda s: s.action)"


def find(query: LogQuery, criteria: Criteria, partitions: int) -> Found:
    """Find decisions.

    Parameters
    ----------
    query
        Over the log from the beginning of the window on; what became of its decisions may have been told after its end.
    criteria
        Checked ones.
    partitions
        Of customers: one customer is looked for in one of them.

    Raises
    ------
    TooLarge, Damage
        As `LogQuery.answer`.
    """
    rows: list[tuple[Any, ...]] = []
    for span in _steps(criteria):
        conditions, values = _conditions(criteria, span, partitions)
        sql = _PAGE.format(conditions=" AND ".join(conditions), limit=criteria.limit + 1 - len(rows))
        rows += query.over(sql, _listed, values, trusted=True)
        if len(rows) > criteria.limit:
            break
    page = rows[: criteria.limit]
    outcomes = _outcomes(query, page) if page else {}
    decisions = [
        FoundDecision(
            decision_id=decision_id, at_ms=at_ms, customer_id=customer, placement=placement, channel=channel,
            release=release, holdout=holdout, degraded=degraded, removed=removed,
            slots=[_slot(decision_id, slot, outcomes) for slot in slots],
        )
        for decision_id, at_ms, customer, placement, channel, release, holdout, degraded, slots, removed, _ in page
    ]  # fmt: skip
    words = "" if decisions else found_nothing(criteria)
    return Found(decisions=decisions, truncated=len(rows) > criteria.limit, words=words, notes=query.notes)


def _steps(criteria: Criteria) -> Iterator[Window]:
    """Yield parts of the window, the latest first and each longer than the one before, so that the past may stay shut.

    What became of decisions may be told at any time, so that who asks for it has all of the window read at once.
    """
    until, length = criteria.until_ms, FIRST_MS
    if criteria.outcome or criteria.cause:
        length = until - criteria.since_ms
    while until > criteria.since_ms:
        since = max(criteria.since_ms, until - length)
        yield Window(since, until)
        until, length = since, length * 2


def _conditions(criteria: Criteria, span: Window, partitions: int) -> tuple[list[str], list[object]]:
    conditions = ["kind = 'decision'", '"at" >= ?', '"at" < ?', "logged_at < ?"]
    values: list[object] = [_moment(span.since_ms), _moment(span.until_ms), _moment(span.until_ms + AFTER_MS)]

    def add(condition: str, *given: object) -> None:
        conditions.append(condition)
        values.extend(given)

    if criteria.customer:
        add("partition = ? AND customer_id = ?", partition_of(criteria.customer, partitions), criteria.customer)
    if criteria.placement:
        add("placement = ?", criteria.placement)
    if criteria.reason:
        wanted = {"action": criteria.action, "reason": criteria.reason}
        wanted = {name: value for name, value in wanted.items() if value}
        holds = " AND ".join(f"r.{name} = ?" for name in wanted)
        add(f"len(list_filter(removed, lambda r: {holds})) > 0", *wanted.values())
    elif criteria.action:
        add(f"list_contains({_SLOTS}, ?)", criteria.action)
    if criteria.degraded:
        add("len(degraded) > 0")
    if criteria.holdout:
        add("holdout <> ''" if criteria.holdout == "any" else "holdout = ?", *_given(criteria.holdout))
    told = {"outcome": criteria.outcome, "cause": criteria.cause}
    told = {name: value for name, value in told.items() if value}
    if told:
        holds = " AND ".join(f"{name} = ?" for name in told)
        add(f"decision_id IN (SELECT decision_id FROM outcomes WHERE latest AND {holds})", *told.values())  # noqa: S608
    return conditions, values


def _given(holdout: str) -> list[str]:
    return [] if holdout == "any" else [holdout]


def _listed(rows: Rows) -> list[tuple[Any, ...]]:
    return list(chain.from_iterable(rows.pages))


def _outcomes(query: LogQuery, page: list[tuple[Any, ...]]) -> dict[tuple[str, int], tuple[str, str]]:
    """Return the last word on each slot of some decisions: outcome and cause."""
    customers, partitions = sorted({row[2] for row in page}), sorted({row[-1] for row in page})
    whose, who = "partition IN (SELECT unnest(?)) AND customer_id IN (SELECT unnest(?))", (partitions, customers)
    if len(customers) == 1:  # so said, it reaches the files
        whose, who = "partition = ? AND customer_id = ?", (partitions[0], customers[0])
    values = [min(row[1] for row in page) - 1, *who, [row[0] for row in page]]
    told = query.over(_OUTCOMES.format(whose=whose), _listed, values, trusted=True)
    return {(decision_id, slot): (outcome, cause) for decision_id, slot, outcome, cause in told}


def _slot(decision_id: str, slot: dict[str, Any], outcomes: dict[tuple[str, int], tuple[str, str]]) -> FoundSlot:
    outcome, cause = outcomes.get((decision_id, slot["slot"]), ("", ""))
    shown = {name: slot[name] for name in ("slot", "action", "treatment", "none", "propensity", "p_response")}
    return FoundSlot(**shown, outcome=outcome or "", cause=cause or "")


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)


def found_nothing(criteria: Criteria) -> str:
    """Say what was looked for in vain.

    Examples
    --------
    >>> found_nothing(Criteria(customer="anna", degraded=True, until_ms=1_798_156_800_000))
    'no decision with customer anna, degraded from 1 Jan 1970 UTC to 25 Dec 2026 UTC'
    """
    asked = structs.asdict(criteria)
    words = [
        f"{name} {asked[name]}" for name in structs.asdict(criteria) if isinstance(asked[name], str) and asked[name]
    ]
    words += ["degraded"] if criteria.degraded else []
    sought = f" with {', '.join(words)}" if words else ""
    begin, end = (moment(ms // 1000 * 1000) for ms in (criteria.since_ms, criteria.until_ms))
    return f"no decision{sought} from {begin} to {end}"
