"""What a relationship holds does not depend on the order in which things are heard of, and is that of the slow twin.

Things are said in any order, twice, and late; in between the keeper comes round, or does not. In the end it has.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from nbx.experience.entries import DecisionEntry, Entry, Event, EventEntry, TimerEntry
from nbx.experience.fold import fold
from nbx.experience.giveget import amount_at
from nbx.experience.obligations import open_topics
from nbx.experience.promises import next_due_ms
from nbx.experience.relationship import balance_at
from nbx.features.state import CustomerState
from nbx.limits import TERMS
from tests.reference.relationship import Relationship
from tests.worlds import NOW_MS, Desk, small_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbx.experience.lifecycle import OpenDecision

MINUTE_MS = 60_000
END_MS = NOW_MS + 40 * 60 * MINUTE_MS
"""Everything is over by then: what is said, prompts, and promises."""
CATALOG = """
catalog: owing
placements:
  web: {channel: web, impressions: reported, slots: 3, delivery: 1m, attention: 10m}
  desk: {channel: phone, impressions: implicit, slots: 3, attention: 5m}
groups: {cards: {topic: cards}, loans: {}, plain: {topic: help}}
actions:
  card: {group: cards, value: 9, gives: [x], asks: [time, data], treatments: {t: {placements: [web, desk]}}}
  loan: {group: loans, value: 9, gives: [x, y], asks: [time], resolves: [cards],
         treatments: {t: {placements: [web, desk], promise: {what: call, within: 20m}}}}
  sorry: {group: plain, class: recovery, resolves: [loans], treatments: {t: {placements: [web, desk]}}}
experience: {half_life: 6h, loss_aversion: 2.5, obligation: 3h, promise_kept: 0.7, promise_broken: -4}
"""
SHOWN = (("card", "web", 0.0), ("loan", "desk", 0.3), ("sorry", "web", 0.0), ("loan", "web", 0.5))
"""Action, placement and stakes of the decisions there are."""
PLAN = small_plan(CATALOG)
POLICY = PLAN.rules.experience
ANSWERS = ("delivered", "seen", "accepted", "declined", "dismissed", "converted", "failed", "complained")

slow = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Heard(NamedTuple):
    """An event reaches nbx; the keeper has come round before, or not."""

    event: EventEntry
    kept: bool


@cache
def decisions() -> tuple[DecisionEntry, ...]:
    """Return decisions that gave out an action each."""
    desk = Desk(PLAN)
    made = []
    for number, (action, placement, stakes) in enumerate(SHOWN):
        desk.decide(f"nobody-{number}", placement, slots=1, exclude=tuple({"card", "loan", "sorry"} - {action}))
        entry = next(each for each in desk.log() if each.customer_id == f"nobody-{number}")
        assert isinstance(entry, DecisionEntry)
        (slot,) = entry.slots
        slot = structs.replace(slot, action=action, treatment="t", group=PLAN.rules.actions[action].group)
        at_ms = NOW_MS + number * 7 * MINUTE_MS
        changed = structs.replace(entry, decision_id=f"d{number}", customer_id="anna", at_ms=at_ms, stakes=stakes)
        made.append(structs.replace(changed, slots=(slot,)))
    return tuple(made)


def said_of_slots() -> st.SearchStrategy[list[Event]]:
    """Draw what is said of slots: each thing once of each."""
    keys = [(decision, kind) for decision in range(len(SHOWN)) for kind in ANSWERS]
    return st.lists(st.sampled_from(keys), unique=True, max_size=10).flatmap(
        lambda chosen: st.tuples(
            *(_with_mood(Event(event_id="", type=kind, decision_id=f"d{number}")) for number, kind in chosen)
        ).map(list)
    )


def said() -> st.SearchStrategy[list[Event]]:
    """Draw what is said beside: promises, what was done, and what is good again."""
    what, due = st.sampled_from(["call", "refund"]), st.sampled_from(["1m", "20m", "3h"])
    promise = st.builds(
        lambda what, topic, due: Event(
            event_id="", type="promise", customer_id="anna", properties={"what": what, "topic": topic, "due": due}
        ),
        what,
        st.sampled_from(["", "cards", "loans"]),
        due,
    )
    kept = what.map(lambda what: Event(event_id="", type="promise_kept", customer_id="anna", properties={"what": what}))
    resolved = st.sampled_from([{}, {"topic": "cards"}, {"topic": "loans"}]).map(
        lambda of: Event(event_id="", type="resolved", customer_id="anna", properties=dict(of))
    )
    called = st.just(Event(event_id="", type="called", customer_id="anna")).flatmap(_with_mood)
    # with those of the two slots, as many of one thing as are remembered
    few = [st.lists(promise, max_size=TERMS - 2), st.lists(kept, max_size=4), st.lists(resolved | called, max_size=4)]
    return st.tuples(*few).map(lambda lists: [event for each in lists for event in each])


def _with_mood(event: Event) -> st.SearchStrategy[Event]:
    sentiment, effort = st.none() | st.floats(-1, 1), st.none() | st.floats(1, 7)
    by = st.just("customer") if event.type != "called" else st.sampled_from(["customer", "agent"])
    return st.builds(
        lambda *mood: structs.replace(event, sentiment=mood[0], effort=mood[1], by=mood[2]), sentiment, effort, by
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Heard], list[Heard]]:
    """Draw the same events heard in two orders, some of them more than once."""
    events = draw(said_of_slots()) + draw(said())
    entries = []
    for number, event in enumerate(events):
        began_ms = next((each.at_ms for each in decisions() if each.decision_id == event.decision_id), NOW_MS)
        at_ms = began_ms + draw(st.integers(0, 240)) * MINUTE_MS + number  # no two at one moment
        known = structs.replace(event, event_id=f"e{number}")
        entries.append(EventEntry(customer_id="anna", at_ms=at_ms, release=1, event=known, received_ms=END_MS))
    again = draw(st.lists(st.sampled_from(entries), max_size=3)) if entries else []
    orders = [draw(st.permutations(entries + again)) for _ in range(2)]
    first, second = ([Heard(entry, draw(st.booleans())) for entry in order] for order in orders)
    return first, second


class Life:
    """A customer as folded, with a keeper, and the log of it."""

    def __init__(self) -> None:
        self.state = CustomerState()
        self.log: list[Entry] = []
        self.told: Counter[str] = Counter()
        self._open: dict[str, OpenDecision] = {}
        self._due: dict[str, int] = {}
        for decision in decisions():
            self._fold(decision, decision.decision_id)

    def live(self, heard: Sequence[Heard]) -> Life:
        """Hear everything, each event once, and let the keeper finish."""
        known: set[str] = set()
        for each in heard:
            if each.kept:
                self.keep(END_MS)
            event = each.event.event
            if event.event_id not in known:
                known.add(event.event_id)
                self._fold(each.event, event.decision_id)
        self.keep(END_MS)
        return self

    def keep(self, now_ms: int) -> None:
        """Run what is due, in its order."""
        while True:
            due = [(due_ms, member) for member, due_ms in self._due.items() if due_ms <= now_ms]
            if (promise_ms := next_due_ms(self.state)) and promise_ms <= now_ms:
                due.append((promise_ms, "promise::0"))
            if not due:
                return
            due_ms, member = min(due)
            kind, decision_id, number = member.split(":")
            self._due.pop(member, None)
            timer = TimerEntry(
                customer_id="anna", at_ms=due_ms, release=1, decision_id=decision_id, slot=int(number), kind=kind
            )
            self._fold(timer, decision_id)

    def _fold(self, entry: Entry, decision_id: str) -> None:
        self.log.append(entry)
        folded = fold(self.state, self._open.get(decision_id), entry, PLAN.rules)
        if folded.decision is not None:
            self._open[decision_id] = folded.decision
        for member in folded.cancel:
            self._due.pop(member, None)
        self._due |= {timer.member: timer.due_ms for timer in folded.arm}
        self.told += Counter(folded.broken)

    def twin(self) -> Relationship:
        """Return the slow twin, that has read the log."""
        twin = Relationship({1: PLAN.catalog})
        for entry in self.log:
            twin.take(entry)
        return twin


@slow
@given(histories())
def test_what_is_folded_is_what_the_slow_twin_says(heard: tuple[list[Heard], list[Heard]]) -> None:
    life = Life().live(heard[0])
    twin, state = life.twin(), life.state
    assert balance_at(state, END_MS, POLICY) == pytest.approx(twin.worth(1, END_MS), abs=1e-9)
    for now_ms in range(NOW_MS, END_MS, 30 * MINUTE_MS):
        assert open_topics(state, now_ms, POLICY) == twin.open_topics(1, now_ms)
    for tally, counts, told in ((state.asked, state.asks, twin.asks(1)), (state.given, state.gives, twin.gives(1))):
        assert counts == Counter(what for _, what in told)
        assert amount_at(tally, END_MS, POLICY) == pytest.approx(twin.amount(1, told, END_MS), abs=1e-9)


@slow
@given(histories())
def test_the_order_in_which_things_are_heard_of_does_not_matter(heard: tuple[list[Heard], list[Heard]]) -> None:
    one, other = (Life().live(order).state for order in heard)
    assert balance_at(one, END_MS, POLICY) == pytest.approx(balance_at(other, END_MS, POLICY), abs=1e-9)
    assert open_topics(one, NOW_MS + 60 * MINUTE_MS, POLICY) == open_topics(other, NOW_MS + 60 * MINUTE_MS, POLICY)
    assert (one.gives, one.asks, +Counter(one.outcomes)) == (other.gives, other.asks, +Counter(other.outcomes))
    became = [
        {
            what: [(t.due_ms, t.kept_ms, t.broken) for t in (*each.earlier, each)]
            for what, each in state.promises.items()
        }
        for state in (one, other)
    ]
    assert became[0] == became[1]


@slow
@given(histories())
def test_every_obligation_closes(heard: tuple[list[Heard], list[Heard]]) -> None:
    """By time, or because all is good again."""
    life = Life().live(heard[0])
    assert not open_topics(life.state, END_MS + POLICY.obligation_ms, POLICY)
    good = Event(event_id="good", type="resolved", customer_id="anna")
    entry = EventEntry(customer_id="anna", at_ms=END_MS, release=1, event=good, received_ms=END_MS)
    life.live([Heard(entry, kept=False)])
    for now_ms in range(NOW_MS, END_MS, 30 * MINUTE_MS):
        assert not open_topics(life.state, now_ms, POLICY)


@slow
@given(histories(), st.booleans())
def test_a_promise_is_told_broken_at_most_once_and_late_truth_takes_the_charge_back(
    heard: tuple[list[Heard], list[Heard]], knew: bool
) -> None:
    life = Life().live(heard[0])
    made = Counter(term.made.what for term in life.twin().promises())
    assert life.told <= made
    broken = [term for term in life.twin().promises() if term.broken]
    before, told = balance_at(life.state, END_MS, POLICY), life.told.copy()
    done = [
        Event(event_id=f"kept-{n}", type="promise_kept", customer_id="anna", properties={"what": term.made.what})
        for n, term in enumerate(broken)
    ]
    life.live(
        [
            Heard(EventEntry(customer_id="anna", at_ms=term.made.made_ms, release=1, event=event, received_ms=0), knew)
            for event, term in zip(done, broken, strict=True)
        ]
    )
    now_good = {(term.made.what, term.made.made_ms) for term in life.twin().promises() if not term.broken}
    assert now_good >= {(term.made.what, term.made.made_ms) for term in broken}
    assert life.told == told, "what is kept is not told again"
    better = sum(
        2.5 * 4 * 0.5 ** ((END_MS - term.made.due_ms) / POLICY.half_life_ms)
        + 0.7 * 0.5 ** ((END_MS - term.made.made_ms) / POLICY.half_life_ms)
        for term in broken
    )
    assert balance_at(life.state, END_MS, POLICY) == pytest.approx(before + better, abs=1e-9)
