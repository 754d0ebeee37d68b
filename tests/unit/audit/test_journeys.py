"""The journeys report against counting by hand, over the log of a desk."""

from __future__ import annotations

from functools import cache
from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from rich.console import Console

from nbx.audit.cluster_report import cluster_reports
from nbx.audit.intervals import wilson
from nbx.audit.journeys import JourneysReport, JourneysTally, StepReport
from nbx.audit.reading import Window
from nbx.audit.tables_journeys import show_journeys
from nbx.audit.walks import Happened, walk
from nbx.bandits.learner import Learner
from nbx.bandits.snapshot import Step
from nbx.catalog.model import Journey
from nbx.decision.warm_up import warm_up
from nbx.experience.erasure import ErasureService
from nbx.experience.journeys import met
from tests.reference import journeys as twin
from tests.reference.journeys import Reported
from tests.unit.audit.worlds import EVER, fold
from tests.unit.experience.test_two_sides import histories, two_sided
from tests.worlds import CATALOG, DAY_MS, PARTITIONS, Desk, run, small_plan

TEXT = (
    CATALOG
    + """
journeys:
  onboarding:
    steps:
      opened:
        event: account_opened
        does: {events: [deposit], within: 10d}
        owes: {events: [card_sent], within: 2d}
        stakes: 0.5
      funded: {event: deposit, after: [opened], does: [salary]}
      idle: {event: nothing, after: [funded]}
segments: [tier]
clusters: {features: [age, tier, visits], count: 2, track_weight: 2}
"""
)
HOUR_MS = 3_600_000


def accept(desk: Desk, customer: str, kind: str) -> str:
    for _ in range(200):
        reply = desk.decide(customer)
        if reply.slots[0].action:
            desk.record(kind, decision_id=reply.decision_id)
            return reply.decision_id
    raise AssertionError("always silence")


@cache
def busy() -> tuple[Desk, dict[str, str]]:
    """Six open an account: a and b are met, the card of c is late, d deposits too late, e is new, f is erased."""
    warm_up()
    desk = Desk(small_plan(TEXT))
    ids = {}
    for customer in "abcdf":
        run(desk.events.change_profile(customer, {"tier": "gold" if customer in "ac" else "basic"}))
        desk.record("account_opened", customer_id=customer)
    desk.pass_time(HOUR_MS)
    for customer in "abdf":
        desk.record("card_sent", customer_id=customer, by="agent")
    desk.record("deposit", customer_id="c", by="agent")  # an agent's word does not do the customer's part
    desk.pass_time(HOUR_MS)
    for customer in "abc":
        desk.record("deposit", customer_id=customer)
    desk.pass_time(3 * DAY_MS)
    desk.record("card_sent", customer_id="c")
    desk.pass_time(8 * DAY_MS)
    desk.record("deposit", customer_id="d")
    desk.record("account_opened", customer_id="e")
    for customer in "abcd":
        ids[customer] = accept(desk, customer, "declined" if customer in "cd" else "accepted")
    desk.pass_time(HOUR_MS)
    erasures = ErasureService(desk.store, lambda: desk.plan, desk.clock, partitions=PARTITIONS)
    run(erasures.erase("f", "test"))
    return desk, ids


def told(span: Window = EVER, bound: int = 10_000) -> JourneysReport:
    desk, _ = busy()
    tally = JourneysTally(span, desk.plan, {1: desk.plan}.__getitem__, desk.clock.now_ms(), bound)
    fold(desk, tally.take)
    return tally.report()


def step(name: str, steps: tuple[StepReport, ...], value: str = "") -> StepReport:
    (found,) = [each for each in steps if (each.step, each.value) == (name, value)]
    return found


def test_entries_sides_and_harmony_are_counted() -> None:
    opened = step("opened", told().steps)
    assert (opened.entries, opened.open, opened.stakes) == (5, 1, 0.5), "e's time still runs, f is erased"
    assert opened.customer is not None
    assert opened.company is not None
    assert opened.harmony is not None
    assert (opened.customer.count, opened.customer.share, opened.customer.examples) == (4, 0.75, ("d",))
    assert (opened.company.count, opened.company.share, opened.company.examples) == (4, 0.75, ("c",))
    assert (opened.harmony.count, opened.harmony.share, opened.harmony.examples) == (4, 0.5, ("c", "d"))
    assert (opened.harmony.low, opened.harmony.high) == wilson(0.5, 4)
    assert (opened.customer_delay.count, opened.customer_delay.median_s) == (4, 7200.0)
    assert opened.company_delay.p90_s == pytest.approx(3600 + 0.7 * (3 * 86_400 + 3600))
    funded, idle = step("funded", told().steps), step("idle", told().steps)
    assert funded.entries == 5, "an agent's word enters a step, so c entered it twice"
    assert funded.company is None
    assert funded.customer is not None
    assert (funded.customer.share, funded.open) == (0.0, 0), "whenever: not until now"
    assert (idle.entries, idle.harmony, idle.after_met) == (0, None, None)


def test_what_came_after_is_told_apart_by_whether_they_met() -> None:
    _, ids = busy()
    opened = step("opened", told().steps)
    assert opened.after_met is not None
    assert opened.after_missed is not None
    assert (opened.after_met.accepted.count, opened.after_met.accepted.share) == (2, 1.0)
    assert (opened.after_missed.accepted.count, opened.after_missed.accepted.share) == (2, 0.0)
    assert set(opened.after_missed.accepted.examples) == {ids["c"], ids["d"]}
    met, missed = opened.after_met.balance, opened.after_missed.balance
    assert met is not None
    assert missed is not None
    assert met > 0.0 > missed, "what was owed is a promise, kept or broken"


def test_segments_are_those_on_record_and_who_has_none_is_counted() -> None:
    report = told()
    assert (report.customers, report.without_segments) == (5, 1), "nothing was decided for e"
    gold, basic = (step("opened", report.segments, value) for value in ("gold", "basic"))
    assert (gold.feature, gold.entries, basic.entries) == ("tier", 2, 2)
    assert gold.company is not None
    assert gold.company.examples == ("c",)
    assert basic.customer is not None
    assert basic.customer.examples == ("d",)


def test_only_entries_of_the_window_count_whatever_became_of_them() -> None:
    desk, _ = busy()
    late = told(Window(desk.clock.now_ms() - DAY_MS, desk.clock.now_ms()))
    assert step("opened", late.steps).entries == 1
    assert step("funded", late.steps).entries == 1, "though the account was opened before"


def test_more_than_is_kept_leaves_out_who_was_met_first() -> None:
    report = told(bound=8)
    assert report.cut
    assert 0 < report.customers < 5


def test_two_ids_of_one_customer_are_one() -> None:
    desk = Desk(small_plan(TEXT))
    desk.record("account_opened", customer_id="cookie")
    desk.pass_time(HOUR_MS)
    run(desk.events.merging.merge("anna", "cookie"))
    for kind in ("deposit", "card_sent"):
        desk.record(kind, customer_id="anna")
    tally = JourneysTally(EVER, desk.plan, {1: desk.plan}.__getitem__, desk.clock.now_ms())
    fold(desk, tally.take)
    report = tally.report()
    harmony = step("opened", report.steps).harmony
    assert harmony is not None
    assert (report.customers, harmony.count, harmony.share) == (1, 1, 1.0)


@given(two_sided(), histories(), st.data())
def test_the_last_entry_of_a_walk_is_the_states_in_any_order(
    journey: Journey, history: list[Reported], data: st.DataObject
) -> None:
    rows = [Happened(each.at_ms, each.event, each.by == "customer") for each in history]
    walked = walk(journey, rows)
    assert walk(journey, data.draw(st.permutations([*rows, *rows[:3]]))) == walked
    last = {each.step.name: each for each in walked}
    for key, times in twin.meetings(journey, history).items():
        entered = last[key.removeprefix("j.")]
        assert [entered.at_ms, entered.did_ms, entered.kept_ms] == times
        assert (entered.both(now_ms=10**6) == "met") == met(entered.step, times)
        assert entered.at_ms <= entered.settled_ms(now_ms=10**6) <= 10**6
    for name in last:
        mine = [each for each in walked if each.step.name == name]
        assert all(early.ends_ms == late.at_ms for early, late in pairwise(mine))


def test_clusters_are_told_in_units_of_their_features() -> None:
    plan = small_plan(TEXT)
    columns = ["age", "tier=basic", "tier=gold", "visits"]
    centres = np.array([[1.0, 0.25, 0.75, 1.0], [-1.0, 1.0, 0.0, 0.0]], "<f4").tobytes()
    track = [Step(0, "", "tips", 7.0), Step(0, "", "pay_card", 6.0), Step(1, "tips", "pay_card", 4.0)]
    snapshot = structs.replace(
        Learner().snapshot(1, 0), cluster_columns=columns, centres=centres, cluster_sizes=[5.0, 9.0], track=track
    )
    first, second = cluster_reports(snapshot, plan)
    assert (first.cluster, first.size, second.cluster) == (1, 9.0, 0)
    assert second.centre == pytest.approx({"age": 50.0, "tier=basic": 0.25, "tier=gold": 0.75, "visits": 20.0})
    assert [(each.next, each.on_track) for each in second.track] == [("tips", True), ("pay_card", False)]
    assert [each.on_track for each in first.track] == [False], "too rare"
    assert cluster_reports(None, plan) == ()
    assert cluster_reports(snapshot, small_plan()) == (), "the release has none"


def test_the_report_reads_well() -> None:
    out = StringIO()
    Console(file=out, width=100).print(show_journeys(told()))
    text = out.getvalue()
    assert "onboarding.opened" in text
    assert "50.0% [15%, 85%]" in text
    assert "onboarding.opened: the company did not, such as with c" in text
    assert max(map(len, text.splitlines())) <= 100
