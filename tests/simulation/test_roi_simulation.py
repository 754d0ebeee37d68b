"""Return on experience of services that run: planted rates, the real holdout, timers and log; the report finds them."""

from __future__ import annotations

from functools import cache

import numpy as np

from nbx.api.roi_routes import settle_ms
from nbx.audit.reading import Window
from nbx.audit.roi_report import Comparison, ReturnReport, return_report
from nbx.audit.roi_tally import ReturnTally, Terms
from nbx.decision.warm_up import warm_up
from nbx.experience.erasure import ErasureService
from nbx.experience.holdout import Assignment
from tests.unit.audit.worlds import fold
from tests.worlds import CATALOG, DAY_MS, NOW_MS, PARTITIONS, Desk, run, small_plan

HELD = "\nholdout: {silent: 0.25, random: 0.3}\n"
CUSTOMERS, FOLLOW_MS = 700, DAY_MS
ACCEPTS = {"gold_card": 0.5, "travel_card": 0.15, "pay_card": 0.1, "tips": 0.05}
"""What is planted; of the rest half is ignored, and a fifth fails where chance picks badly."""
FAILS = {"gold_card": 0.02, "travel_card": 0.1, "pay_card": 0.2, "tips": 0.1}
WORTH = {"gold_card": 60.0, "travel_card": 40.0, "pay_card": 20.0, "tips": 1.0}


class Truth:
    """What each arm was worth by what was planted, given what it was shown."""

    def __init__(self) -> None:
        self.customers: dict[str, int] = {"nbx": 0, "silent": 0, "random": 0}
        self.total = dict.fromkeys(self.customers, 0.0)
        self.accepted = dict.fromkeys(self.customers, 0.0)

    def shown(self, arm: str, action: str) -> None:
        """Add what an action is expected to bring."""
        accepts, fails = ACCEPTS[action], FAILS[action]
        ignored = 1.0 - accepts - fails
        self.accepted[arm] += accepts
        self.total[arm] += accepts * (WORTH[action] + 1.0) + 2.0 * (fails * -2.0 + ignored * -0.5)

    def lift(self, sums: dict[str, float], against: str) -> float:
        """Return nbx less a holdout, per customer."""
        return sums["nbx"] / self.customers["nbx"] - sums[against] / self.customers[against]


@cache
def played() -> tuple[Desk, Truth]:
    """Let customers come, one visit each, a second one for some; a few are erased, a few merged."""
    warm_up()
    desk, truth, rng = Desk(small_plan(CATALOG + HELD)), Truth(), np.random.default_rng(21)
    for number in range(CUSTOMERS):
        name = f"roi-{number}"
        for visit in range(1 + (number % 3 == 0)):
            reply = desk.decide(name)
            arm = reply.holdout or "nbx"
            truth.customers[arm] += not visit
            slot = reply.slots[0]
            if slot.action:
                truth.shown(arm, slot.action)
                stem = {"decision_id": reply.decision_id, "slot": 0}
                desk.record("seen", **stem)
                draw = rng.random()
                accepts, fails = ACCEPTS[slot.action], FAILS[slot.action]
                if draw < accepts + fails:
                    desk.record("accepted" if draw < accepts else "failed", **stem)
            desk.pass_time(20 * 60_000)
    desk.pass_time(2 * DAY_MS)
    return desk, truth


def report(desk: Desk, now_ms: int) -> ReturnReport:
    """Report as of a time."""
    catalog = desk.plan.catalog
    terms = Terms(Window(NOW_MS, now_ms + 1), "", catalog.holdout, FOLLOW_MS, settle_ms(catalog))
    tally = ReturnTally(terms, lambda _: catalog, "test")
    fold(desk, tally.take)
    return return_report(tally, now_ms, NOW_MS, moving=False)


def against(told: ReturnReport, arm: Assignment) -> Comparison:
    return next(each for each in told.comparisons if each.against == arm)


def test_the_planted_lift_is_recovered_from_the_log_of_running_services() -> None:
    desk, truth = played()
    told = report(desk, desk.clock.now_ms())
    assert {arm.arm: arm.customers for arm in told.arms} == truth.customers
    assert sum(arm.otherwise for arm in told.arms) == 0, "the hash of the report is the one that decided"
    assert sum(arm.degraded for arm in told.arms) == 0
    assert (told.followed, told.other_shares, told.erased) == (0, 0, 0)
    assert told.shares_evidence is not None
    assert told.shares_evidence < 20.0
    for arm in ("silent", "random"):
        compared = against(told, arm)
        metrics = {(each.metric, each.per): each.lift for each in compared.metrics}
        for name, sums in (("total", truth.total), ("acceptance", truth.accepted)):
            lift = metrics[name, "customer"]
            assert lift.low is not None
            assert lift.high is not None
            assert lift.low <= truth.lift(sums, arm) <= lift.high
        assert compared.verdict == "better", compared.words
        assert compared.payback.holdout_per_day is not None
        assert compared.payback.holdout_per_day > 0.0
    chance = {each.metric: each for each in against(told, "random").metrics if each.per == "customer"}
    assert chance["lost"].lift.lift is not None
    assert chance["lost"].lift.lift < 0.0, "chance fails more customers"
    assert against(told, "random").payback.saved > 0.0
    assert against(told, "silent").payback.extra_value_per_loss is not None


def test_looking_early_tells_of_the_first_customers_only() -> None:
    desk, _ = played()
    middle = (NOW_MS + desk.clock.now_ms()) // 2
    early, late = report(desk, middle), report(desk, desk.clock.now_ms())
    assert 0 < early.customers < late.customers
    assert early.followed > 0
    assert early.next_ms > middle


def test_who_is_erased_or_merged_meanwhile_is_handled() -> None:
    warm_up()
    desk = Desk(small_plan(CATALOG + HELD))
    for number in range(12):
        desk.decide(f"roi-{number}")
    run(ErasureService(desk.store, lambda: desk.plan, desk.clock, partitions=PARTITIONS).erase("roi-5"))
    run(desk.events.merging.merge("roi-6", "roi-7", "test"))
    desk.decide("roi-7")
    desk.pass_time(3 * DAY_MS)
    told = report(desk, desk.clock.now_ms())
    assert (told.customers, told.erased, told.merged) == (11, 1, 2)
    assert sum(arm.decisions for arm in told.arms) == 12, "the alias's decision is its customer's"
