"""A desk with customers that answer, and reports over its log."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from nbx.audit.export import ObpExport
from nbx.audit.judging import Maturity, Question
from nbx.audit.learning import LearningTally
from nbx.audit.policy_report import PolicyReport, PolicyTally
from nbx.audit.reading import Window, read_log
from nbx.catalog.plan import Plan
from nbx.decision.warm_up import warm_up
from nbx.experience.entries import Entry
from tests.worlds import PARTITIONS, Desk, run

EVER = Window(0, 4_000_000_000_000)
HOUR_MS = 3_600_000


@cache
def busy_desk(decisions: int, *, seed: int = 1, slots: int = 1) -> Desk:
    """Decide and answer: one in three accepts, one in ten declines, the rest is ignored; all is over afterwards.

    Shared by the tests that only read it.
    """
    warm_up()  # a decision that waits for the compiler would be late, and degraded
    desk, rng = Desk(), np.random.default_rng(seed)
    for number in range(decisions):
        reply = desk.decide(f"customer-{number % (decisions // 2 + 1)}", slots=slots)
        for slot in reply.slots:
            if slot.action:
                desk.record("seen", decision_id=reply.decision_id, slot=slot.slot)
                answer = rng.random()
                if answer < 0.43:
                    kind = "accepted" if answer < 0.33 else "declined"
                    desk.record(kind, decision_id=reply.decision_id, slot=slot.slot)
        desk.pass_time(60_000)
    desk.pass_time(HOUR_MS)
    return desk


def decide_shown(desk: Desk, stem: str) -> str:
    """Decide for one new customer after another until there is an action; its decision id."""
    for number in range(50):
        reply = desk.decide(f"{stem}-{number}")
        if reply.slots[0].action:
            return reply.decision_id
    raise AssertionError("50 customers and always silence")


def fold(desk: Desk, *takes: Callable[[list[Entry]], None]) -> None:
    """Read the whole log of a desk into some tallies."""

    async def read() -> None:
        async for entries in read_log(desk.store, PARTITIONS, 0, desk.clock.now_ms()):
            for take in takes:
                take(entries)

    run(read())


def learning(desk: Desk, span: Window = EVER, bound: int = 10_000) -> LearningTally:
    """Tally learning."""
    tally = LearningTally(span, bound)
    fold(desk, tally.take)
    return tally


def policy(desk: Desk, plan: Plan, *, clip: float | None = None, young: bool = False, placement: str = "",
           bound: int = 10_000) -> PolicyReport:  # fmt: skip
    """Report on a policy."""
    plans = {desk.plan.release: desk.plan}
    maturity = Maturity(desk.clock.now_ms(), young=young)
    tally = PolicyTally(Question(EVER, plan, placement), maturity, plans.__getitem__, bound)
    fold(desk, tally.take)
    return tally.report(plan.release, clip)


def export(desk: Desk, plan: Plan | None, folder: Path, reward: str = "acceptance") -> ObpExport:
    """Spool an export."""
    plans = {desk.plan.release: desk.plan}
    maturity = Maturity(desk.clock.now_ms(), young=False)
    columns = tuple(desk.plan.layout.columns)
    spooled = ObpExport(Question(EVER, plan), maturity, plans.__getitem__, columns, reward, folder)
    fold(desk, spooled.take)
    return spooled
