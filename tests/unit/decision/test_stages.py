"""The stop watch of a decision, and that a decision's own adds up."""

from __future__ import annotations

from time import perf_counter_ns

from nbx.decision.messages import DecideRequest
from nbx.decision.service import DecisionService
from nbx.decision.stages import STAGES, Stages
from nbx.experience.entries import DecisionEntry
from tests.worlds import PARTITIONS, Desk, run


def test_time_goes_to_the_stage_that_runs() -> None:
    stages = Stages()
    stages.enter("load")
    for _ in range(20_000):
        pass
    stages.enter("commit")
    took_ns = stages.stop()
    assert stages.slowest() == "load"
    assert sum(stages.ns.values()) == took_ns
    assert stages.ns["choose"] == stages.ns["record"] == 0


def test_a_decision_tells_where_its_time_went() -> None:
    desk = Desk()
    seen: list[tuple[DecisionEntry, Stages]] = []
    decisions = DecisionService(
        desk.store,
        desk,
        desk.clock,
        partitions=PARTITIONS,
        deadline_ms=1000,
        request_ttl_ms=1000,
        salt="test",
        observe=lambda entry, stages: seen.append((entry, stages)),
    )
    run(decisions.decide(DecideRequest(customer_id="anna", placement="hero")))
    run(decisions.decide(DecideRequest(customer_id="anna", placement="hero", mode="preview")))
    ((entry, stages),) = seen
    took_ns = stages.stop()
    assert stages.attempts == 1
    assert all(stages.ns[stage] > 0 for stage in STAGES)
    assert sum(stages.ns.values()) == took_ns >= entry.took_us * 1000


def test_who_waited_before_has_less_time_left() -> None:
    desk = Desk()
    request = DecideRequest(customer_id="anna", placement="hero", deadline_ms=1_000)
    in_time = run(desk.decisions.decide(request, perf_counter_ns() - 500 * 1_000_000))
    late = run(desk.decisions.decide(request, perf_counter_ns() - 1_001 * 1_000_000))
    assert in_time.took_ms >= 500
    assert (in_time.degraded, late.degraded) == ((), ("state_unavailable",))
