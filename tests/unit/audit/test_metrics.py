"""What is counted in plain numbers is what Prometheus would have counted."""

from __future__ import annotations

from msgspec import structs
from prometheus_client import CollectorRegistry, Histogram

from nbx.audit.metrics import STAGE_S, exposition, observe_decision, totals
from nbx.decision.messages import DecideRequest
from nbx.decision.stages import STAGES, Stages
from nbx.decision.warm_up import warm_up
from nbx.experience.entries import DecisionEntry
from tests.worlds import Desk, run


def decided() -> DecisionEntry:
    """Return the record of a decision, made with kernels that are there."""
    warm_up()
    desk = Desk()
    run(desk.decisions.decide(DecideRequest(customer_id="anna", placement="hero", deadline_ms=10_000)))
    (entry,) = [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]
    return entry


def took(load_ns: int) -> Stages:
    """Return a watch that waited for the store."""
    stages = Stages()
    stages.entered, stages.at_ns = ["load"], [0, load_ns]
    return stages


def counted(name: str, **labels: str) -> float:
    """Return a sample's value now; 0 when there is none."""
    return sum(value for found, value in totals().get(name, []) if found == labels)


def test_a_look_finds_every_decision_counted_once() -> None:
    entry = decided()
    labels = {"placement": entry.request.placement, "result": "action" if entry.slots[0].action else "none"}
    before, shown = counted("nbx_decisions_total", **labels), sum(v for _, v in totals().get("nbx_slots_total", []))
    took_s, strains = counted("nbx_decide_seconds_count"), counted("nbx_strain_count")
    for _ in range(3):
        observe_decision(entry, took(0))
    assert f'placement="{entry.request.placement}"' in exposition().decode()
    assert counted("nbx_decisions_total", **labels) == before + 3
    assert sum(v for _, v in totals().get("nbx_slots_total", [])) == shown + 3 * bool(entry.slots[0].action)
    assert counted("nbx_decide_seconds_count") == took_s + 3
    assert counted("nbx_strain_count") == strains + 3
    observe_decision(structs.replace(entry, degraded=("state_unavailable",)), took(0))
    assert counted("nbx_decisions_total", placement=labels["placement"], result="degraded") >= 1


def test_buckets_are_those_of_prometheus() -> None:
    """Each bound belongs to its bucket, and what is beyond the last one is in the one without a bound."""
    registry = CollectorRegistry()
    twin = Histogram("twin", "", buckets=STAGE_S, registry=registry)
    name = "nbx_decide_stage_seconds_bucket"
    before = {str(found): value for found, value in totals()[name] if found["stage"] == "load"}
    entry = decided()
    observed = [*(int(bound * 1e9) for bound in STAGE_S), 15_000, 999_999_999_999]
    for ns in observed:
        stages = took(ns)
        stages.stop()
        observe_decision(entry, stages)
        twin.observe(stages.ns["load"] / 1e9)
    assert len(STAGES) == len({found["stage"] for found, _ in totals()[name]})
    after = [(found["le"], value - before[str(found)]) for found, value in totals()[name] if found["stage"] == "load"]
    (family,) = registry.collect()
    assert after == [(sample.labels["le"], sample.value) for sample in family.samples if sample.name == "twin_bucket"]
