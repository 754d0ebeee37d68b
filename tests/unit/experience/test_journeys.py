"""Journeys and concerns equal their slow twins, whatever the order in which events come in and how often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from nbx.catalog.model import Catalog, Concern, Journey, JourneyStep
from nbx.catalog.rules import Rules
from nbx.experience.journeys import current_step, feed, is_open, values
from nbx.features.state import CustomerState
from tests.reference import journeys as twin
from tests.reference.journeys import Happened

EVENTS = ("e1", "e2", "e3", "e4")
NAMES = ("a", "b", "c", "d", "e")
OPENED, FUNDED, USED = (
    JourneyStep(name="opened", event="o"),
    JourneyStep(name="funded", event="f", after=("opened",)),
    JourneyStep(name="used", event="u", after=("funded",)),
)
ONBOARDING = Journey(name="onboarding", steps=(OPENED, FUNDED, USED))
PAYMENT = Concern(name="payment", opens=("failed", "late"), resolves=("paid",), timeout_ms=100)
RULES = Rules(Catalog(name="c", journeys=(ONBOARDING,), concerns=(PAYMENT,)), 1)


def after(history: list[Happened], rules: Rules = RULES) -> CustomerState:
    state = CustomerState()
    for each in history:
        feed(state, each.event, each.at_ms, rules)
    return state


def histories() -> st.SearchStrategy[list[Happened]]:
    """Few moments, so that many things happen at once."""
    return st.lists(st.builds(Happened, st.sampled_from(EVENTS), st.integers(1, 8)), max_size=12)


@st.composite
def journeys(draw: st.DrawFn) -> Journey:
    """Journeys of every shape, circles included."""
    names = NAMES[: draw(st.integers(1, 5))]
    before = st.lists(st.sampled_from(names), max_size=2, unique=True).map(tuple)
    return Journey(
        name="j",
        steps=tuple(JourneyStep(name=n, event=draw(st.sampled_from(EVENTS)), after=draw(before)) for n in names),
    )


@given(journeys(), histories(), st.data())
def test_a_journey_equals_its_slow_twin_in_any_order(
    journey: Journey, history: list[Happened], data: st.DataObject
) -> None:
    rules = Rules(Catalog(name="c", journeys=(journey,)), 1)
    state = after(history, rules)
    assert values(state, rules, 9)["journey"] == {"j": twin.step(journey, history)}
    assert after(data.draw(st.permutations([*history, *history[:3]])), rules) == state, "late events and duplicates"


@given(histories(), st.integers(0, 12), st.data())
def test_a_concern_equals_its_slow_twin_in_any_order(history: list[Happened], now_ms: int, data: st.DataObject) -> None:
    concern = Concern(name="k", opens=("e1", "e2"), resolves=("e3",), timeout_ms=4)
    rules = Rules(Catalog(name="c", concerns=(concern,)), 1)
    state = after(history, rules)
    assert values(state, rules, now_ms)["concern"] == {"k": twin.concern_open(concern, history, now_ms)}
    assert after(data.draw(st.permutations([*history, *history[:3]])), rules) == state


def test_steps_are_reached_one_after_the_other() -> None:
    def where(**times: int) -> str:
        return current_step(ONBOARDING, times)

    assert where() == ""
    assert (where(opened=1), where(opened=1, funded=2), where(opened=1, funded=2, used=3)) == (
        "opened",
        "funded",
        "used",
    )
    assert (where(funded=2), where(opened=2, used=3)) == ("", "opened"), "nobody gets in by the middle"
    assert where(opened=4, funded=2, used=3) == "opened", "who begins anew has the rest before him"
    assert where(opened=4, funded=2, used=5) == "opened"
    assert where(opened=2, funded=2, used=2) == "used", "in one moment: the one declared last"


def test_steps_of_one_moment_may_be_declared_in_any_order() -> None:
    second, first = JourneyStep(name="second", event="e1", after=("first",)), JourneyStep(name="first", event="e2")
    third = JourneyStep(name="third", event="e3", after=("second",))
    assert (
        current_step(Journey(name="j", steps=(second, first, third)), {"second": 1, "first": 1, "third": 2}) == "third"
    )


def test_a_circle_without_a_way_in_is_never_entered() -> None:
    circle = Journey(
        name="j",
        steps=(JourneyStep(name="a", event="e1", after=("b",)), JourneyStep(name="b", event="e2", after=("a",))),
    )
    assert current_step(circle, {"a": 1, "b": 1}) == ""


def test_a_concern_is_closed_by_its_resolution_or_by_time() -> None:
    def open_at(now_ms: int, *history: tuple[str, int]) -> object:
        state = after([Happened(*each) for each in history])
        return values(state, RULES, now_ms)["concern"]["payment"]

    assert open_at(10) is False
    assert open_at(10, ("failed", 5)) is True
    assert open_at(10, ("failed", 5), ("paid", 6)) is False
    assert open_at(10, ("paid", 6), ("failed", 5)) is False, "told late"
    assert open_at(10, ("failed", 6), ("paid", 6)) is False, "a tie is resolved"
    assert open_at(10, ("failed", 5), ("paid", 6), ("late", 7)) is True
    assert (open_at(104, ("failed", 5)), open_at(105, ("failed", 5))) == (True, False)
    assert open_at(105, ("failed", 5), ("late", 6)) is True, "the time runs from the latest opening"
    assert open_at(3, ("failed", 5)) is True, "a clock that lags"
    assert is_open(PAYMENT, (0, 0), now_ms=1) is False


def test_what_nobody_declared_changes_nothing_and_what_is_no_longer_declared_stays() -> None:
    assert after([Happened("page_view", 5)]) == CustomerState()
    state = after([Happened("o", 5), Happened("failed", 5)])
    other = Rules(Catalog(name="c"), 2)
    feed(state, "o", 6, other)
    assert values(state, other, 7) == {"journey": {}, "concern": {}}
    assert values(state, RULES, 7) == {"journey": {"onboarding": "opened"}, "concern": {"payment": True}}
    fewer = Journey(name="onboarding", steps=(structs.replace(FUNDED, after=()),))
    assert values(state, Rules(Catalog(name="c", journeys=(fewer,)), 3), 7)["journey"] == {"onboarding": ""}


def test_one_event_may_mean_several_things() -> None:
    again = Journey(name="again", steps=(JourneyStep(name="x", event="o"), JourneyStep(name="y", event="o")))
    topic = Concern(name="topic", opens=("o",))
    rules = Rules(Catalog(name="c", journeys=(ONBOARDING, again), concerns=(topic,)), 1)
    assert values(after([Happened("o", 5)], rules), rules, 6) == {
        "journey": {"onboarding": "opened", "again": "y"},
        "concern": {"topic": True},
    }
