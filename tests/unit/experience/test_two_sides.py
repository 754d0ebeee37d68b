"""Steps with two sides equal their slow twin in any order; stakes are those of where the customer is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbx.catalog.model import Catalog, Journey, JourneyStep
from nbx.catalog.rules import Rules
from nbx.experience.identity import absorb
from nbx.experience.journeys import Owed, all_owed, feed, met, sides, stakes
from nbx.features.state import CustomerState
from tests.reference import journeys as twin
from tests.reference.journeys import Reported
from tests.unit.experience.test_journeys import EVENTS, journeys

DEED_EVENTS = ("d1", "d2", "k1")


def after(history: list[Reported], rules: Rules) -> CustomerState:
    state = CustomerState()
    for each in history:
        feed(state, each.event, each.at_ms, rules, each.by)
    return state


def histories() -> st.SearchStrategy[list[Reported]]:
    """Few moments, so that many things happen at once, and few deeds, so that none is forgotten."""
    reports = st.builds(
        Reported, st.sampled_from(EVENTS + DEED_EVENTS), st.integers(1, 8), st.sampled_from(["customer", "agent"])
    )
    return st.lists(reports, max_size=14)


@st.composite
def two_sided(draw: st.DrawFn) -> Journey:
    """Journeys of every shape with sides."""
    plain = draw(journeys())
    some = st.lists(st.sampled_from(DEED_EVENTS), max_size=2, unique=True).map(tuple)
    return Journey(
        name="j",
        steps=tuple(
            JourneyStep(
                name=step.name,
                event=step.event,
                after=step.after,
                does=draw(some),
                does_within_ms=draw(st.integers(0, 4)),
                owes=draw(some),
                owes_within_ms=draw(st.integers(1, 4)),
            )
            for step in plain.steps
        ),
    )


@given(two_sided(), histories(), st.data())
def test_meetings_equal_their_slow_twin_in_any_order(
    journey: Journey, history: list[Reported], data: st.DataObject
) -> None:
    rules = Rules(Catalog(name="c", journeys=(journey,)), 1)
    state = after(history, rules)
    assert state.meetings == twin.meetings(journey, history)
    for step in journey.steps:
        times = state.meetings.get(f"j.{step.name}")
        assert (times is not None and met(step, times)) == twin.harmony(journey, step, history)
    assert after(data.draw(st.permutations([*history, *history[:3]])), rules) == state, "late events and duplicates"


@given(two_sided(), histories(), st.integers(0, 14))
def test_two_lives_met_are_one(journey: Journey, history: list[Reported], cut: int) -> None:
    rules = Rules(Catalog(name="c", journeys=(journey,)), 1)
    mine, theirs = after(history[:cut], rules), after(history[cut:], rules)
    absorb(mine, theirs, rules)
    whole = after(history, rules)
    assert (mine.journeys, mine.meetings, mine.deeds) == (whole.journeys, whole.meetings, whole.deeds)


OPENED = JourneyStep(
    name="opened",
    event="account_opened",
    does=("deposit",),
    does_within_ms=50,
    owes=("card_sent", "card_called_off"),
    owes_within_ms=10,
    stakes=0.5,
)
FUNDED = JourneyStep(name="funded", event="salary", after=("opened",), does=("survey",), stakes=0.25)
ONBOARDING = Rules(Catalog(name="c", journeys=(Journey(name="onboarding", steps=(OPENED, FUNDED)),)), 1)


def told(*rows: tuple[str, int]) -> CustomerState:
    return after([Reported(event, at_ms) for event, at_ms in rows], ONBOARDING)


def test_both_sides_meet_in_time_or_not() -> None:
    def meets(*rows: tuple[str, int]) -> bool:
        times = told(*rows).meetings.get("onboarding.opened")
        return times is not None and met(OPENED, times)

    assert meets(("account_opened", 100), ("deposit", 150), ("card_sent", 110)), "at the last moment"
    assert meets(("card_called_off", 100), ("deposit", 100), ("account_opened", 100)), "in one moment, told backwards"
    assert not meets(("account_opened", 100), ("deposit", 151), ("card_sent", 110))
    assert not meets(("account_opened", 100), ("deposit", 150), ("card_sent", 111))
    assert not meets(("account_opened", 100), ("deposit", 99), ("card_sent", 105)), "before is not for it"
    assert not meets(("deposit", 150), ("card_sent", 110))
    assert not met(JourneyStep(name="s", event="e"), [5, 0, 0]), "without sides nobody meets"
    assert sides(FUNDED, [5, 0, 0]) == (False, True)
    assert met(FUNDED, [5, 10**9, 0]), "whenever"


def test_an_agent_does_the_companys_part_alone() -> None:
    state = after([Reported("account_opened", 1), Reported("deposit", 2, "agent"), Reported("card_sent", 3, "agent")],
                  ONBOARDING)  # fmt: skip
    assert state.meetings["onboarding.opened"] == [1, 0, 3]


def test_entering_anew_begins_anew_and_a_late_entry_finds_what_came_after_it() -> None:
    assert told(("account_opened", 1), ("deposit", 2), ("account_opened", 5)).meetings["onboarding.opened"] == [5, 0, 0]
    late = told(("account_opened", 1), ("deposit", 2), ("deposit", 7), ("account_opened", 5))
    assert late.meetings["onboarding.opened"] == [5, 7, 0]
    assert "onboarding.funded" not in told(("salary", 5)).meetings, "nobody gets in by the middle"


def test_only_so_many_deeds_are_kept() -> None:
    state = told(("account_opened", 1), *(("deposit", at_ms) for at_ms in range(2, 40)))
    assert state.deeds["onboarding.opened"] == [list(range(32, 40)), []]


def test_what_is_owed_follows_from_where_the_customer_entered() -> None:
    rows = [("account_opened", 100), ("salary", 200)]
    due = Owed("onboarding.opened", 110, 100, ("card_sent", "card_called_off"))
    for count in (1, 2):
        assert all_owed(told(*rows[:count]), rows[count - 1][0], ONBOARDING) == [due]
    assert all_owed(told(("salary", 200)), "salary", ONBOARDING) == []
    assert all_owed(told(*rows), "deposit", ONBOARDING) == [], "it moves no journey"


def test_stakes_are_the_highest_of_where_the_customer_is() -> None:
    assert stakes(told(), ONBOARDING) == 0.0
    assert stakes(told(("account_opened", 1)), ONBOARDING) == 0.5
    assert stakes(told(("account_opened", 1), ("salary", 2)), ONBOARDING) == 0.25, "further on"
    other = Journey(name="claim", steps=(JourneyStep(name="filed", event="filed", stakes=0.75),))
    rules = Rules(Catalog(name="c", journeys=(Journey(name="onboarding", steps=(OPENED, FUNDED)), other)), 1)
    state = after([Reported("account_opened", 1), Reported("filed", 1)], rules)
    assert stakes(state, rules) == 0.75
