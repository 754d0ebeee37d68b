"""Reading views for people: a decision, a customer, the live console. Nothing here changes anything."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from nbx.api.schemas import (
    ActionCount,
    Buckets,
    Candidate,
    CustomerReport,
    DecisionReport,
    LatestDecision,
    LatestSlot,
    Live,
    OutcomeCount,
    PlacementCount,
    PromiseReport,
    PurposeReport,
)
from nbx.api.wiring import Services
from nbx.audit.cluster_report import cluster_reports
from nbx.audit.experience_report import ExperienceReport, ExperienceTally
from nbx.audit.experienced import Experienced
from nbx.audit.failures_report import FailuresReport
from nbx.audit.failures_report import failures_report as sum_up_failures
from nbx.audit.history import latest_decisions, timeline, view_decision
from nbx.audit.journeys import JourneysReport, JourneysTally
from nbx.audit.judging import Maturity, Question, asked_plan
from nbx.audit.learning import Evidence, LearningReport, LearningTally
from nbx.audit.metrics import totals
from nbx.audit.policy_report import PolicyReport, PolicyTally
from nbx.audit.reading import read_log, releases_in, window
from nbx.audit.signals import read_signals
from nbx.bandits.snapshot import decode_snapshot
from nbx.catalog.model import Catalog
from nbx.catalog.plan import Plan
from nbx.catalog.rules import Rules
from nbx.decision.explain import explain
from nbx.decision.goals import unpack_goal
from nbx.decision.record import unpack_factors
from nbx.decision.replay import replay
from nbx.errors import NotReady, Unknown
from nbx.experience import journeys
from nbx.experience.consent import (
    LEARN,
    PERSONALISE,
    contact_purpose,
    may_contact,
    may_learn,
    may_personalise,
    said_of,
)
from nbx.experience.entries import FACTORS, Entry
from nbx.experience.holdout import assignment
from nbx.experience.lifecycle import decode_open
from nbx.experience.obligations import open_topics
from nbx.experience.relationship import relationship_features
from nbx.features.keys import MODEL_SNAPSHOT, partition_keys
from nbx.features.state import ERASED, CustomerState, decode_state
from nbx.features.store import versioned
from nbx.ids import checked_id, decision_ref, partition_of

LATEST = 12
TIMEOUT_MS = 2_000.0
_POSITIVE = ("accepted", "converted")
_NEUTRAL = ("not_seen", "not_delivered")


async def decision_report(services: Services, decision_id: str) -> DecisionReport:
    """Describe a logged decision."""
    view = await view_decision(services.store, decision_id, services.settings.partitions)
    entry = view.record
    x: dict[str, float] = {}
    candidates: tuple[Candidate, ...] = ()
    if entry.x:
        plan = await services.serving.plan_of(entry.release)
        values = np.frombuffer(entry.x, dtype=np.float32)
        x = dict(zip(plan.layout.columns, values.tolist(), strict=True))
        _, table = unpack_factors(entry)
        goal = unpack_goal(entry)
        goals = [None] * len(entry.actions) if goal is None else goal.reached.tolist()
        candidates = tuple(
            Candidate(action=action, treatment=treatment, **dict(zip(FACTORS, row, strict=True)), goal=reached)
            for action, treatment, row, reached in zip(
                entry.actions, entry.treatments, table.tolist(), goals, strict=True
            )
        )
    return DecisionReport(
        decision_id=decision_id,
        record=_named(entry),
        x=x,
        candidates=candidates,
        slots=_named(view.slots.slots) if view.slots is not None else None,
        goal=_named(view.slots.goal) if view.slots is not None else None,
        replay=replay(entry),
    )


async def customer_report(services: Services, customer_id: str, count: int) -> CustomerReport:
    """Describe a customer; `Unknown` when there is no state."""
    checked_id(customer_id, "customer_id")
    partitions = services.settings.partitions
    key = partition_keys(partition_of(customer_id, partitions)).customer(customer_id)
    (packed,) = await services.store.read([key], TIMEOUT_MS)
    version, struct = versioned(packed)
    if struct is None or struct == ERASED:
        raise Unknown(f"customer {customer_id} is not known here", field="customer_id", code="customer_unknown")
    state = decode_state(struct)
    if state.merged_into:
        customer_id, version, state = await services.events.merging.peek(customer_id)
    aliases = [alias for alias, sequence in state.aliases.items() if sequence > 0]
    ids = [customer_id, *aliases]
    found = await asyncio.gather(*(timeline(services.store, each, partitions, count) for each in ids))
    entries = [entry for of_one in found for entry in of_one]
    if aliases:
        entries = sorted(entries, key=lambda entry: entry.at_ms, reverse=True)[:count]
    plan = services.serving.plan()
    now_ms = services.clock.now_ms()
    walks = journeys.values(state, plan.rules, now_ms)
    return CustomerReport(
        customer_id=customer_id,
        state_version=version,
        profile={name: known.value for name, known in state.profile.items()},
        features=plan.resolver.resolve(state, {}, now_ms),
        relationship=relationship_features(state, now_ms, plan.rules.experience),
        outcomes=dict(state.outcomes),
        paused={
            scope: f"{pause.outcome} until {pause.until_ms}"
            for scope, pause in state.pauses.items()
            if pause.until_ms > now_ms
        }
        | {
            scope: f"customer until {word.until_ms}" for scope, word in state.controls.items() if word.until_ms > now_ms
        },
        exposures=state.exposures,
        timeline=[_brief(entry) for entry in entries],
        consent=_consent(state, plan.rules),
        journeys={name: str(step) for name, step in walks["journey"].items()},
        concerns={name: bool(is_open) for name, is_open in walks["concern"].items()},
        holdout=assignment(customer_id, state, plan.catalog.holdout, services.settings.salt),
        aliases=aliases,
        obligations=open_topics(state, now_ms, plan.rules.experience),
        promises=[
            PromiseReport(
                what=what,
                due_ms=promise.due_ms,
                made_ms=promise.made_ms,
                kept_ms=promise.kept_ms,
                broken=promise.broken,
                topic=promise.topic,
            )
            for what, promise in sorted(state.promises.items(), key=lambda each: each[1].due_ms)
        ],
        gives=dict(state.gives),
        asks=dict(state.asks),
    )


def _consent(state: CustomerState, rules: Rules) -> dict[str, PurposeReport]:
    policy = rules.consent
    holds = {contact_purpose(channel): may_contact(state, policy, channel) for channel in sorted(rules.channels)}
    holds |= {PERSONALISE: may_personalise(state, policy), LEARN: may_learn(state, policy)}
    found = {}
    for purpose, granted in holds.items():
        said = said_of(state, purpose)
        found[purpose] = PurposeReport(granted=granted, said_ms=said.at_ms if said is not None else 0)
    return found


async def learning_report(services: Services, since: str, until: str) -> LearningReport:
    """Tell how learning goes; the log is read and summed up beside the event loop."""
    now_ms = services.clock.now_ms()
    span = window(since, until, now_ms)
    plan, model = services.serving.current()
    tally = LearningTally(span)
    async for entries in read_log(services.store, services.settings.partitions, span.since_ms, now_ms):
        await asyncio.to_thread(tally.take, entries)
    report = await asyncio.to_thread(tally.report)
    by_group: dict[str, float] = {}
    for group, observations in zip(plan.action_groups, model.evidence.tolist(), strict=True):
        by_group[group] = by_group.get(group, 0.0) + observations
    lags = [value for _, value in totals().get("nbx_learner_lag_seconds", [])]
    return msgspec.structs.replace(
        report,
        release=plan.release,
        snapshot=model.version,
        step=model.step,
        learner_lag_s=max(lags, default=None),
        evidence=tuple(
            Evidence(name=name, observations=observations, changes=model.changes[k] if model.changes else 0)
            for k, (name, observations) in enumerate(zip(plan.action_names, model.evidence.tolist(), strict=True))
        ),
        group_evidence=tuple(Evidence(name=name, observations=count) for name, count in sorted(by_group.items())),
        exploration_scale=model.exploration,
        half_life=model.half_life if math.isfinite(model.half_life) else None,
    )


async def policy_report(
    services: Services, release: int, since: str, until: str, placement: str, clip: float | None, young: bool
) -> PolicyReport:
    """Tell what a release would have done; the log is read and summed up beside the event loop."""
    now_ms = services.clock.now_ms()
    plan = await asked_plan(services.store, release)
    if placement and placement not in plan.placements:
        raise Unknown(f"release {release} has no placement {placement}", field="placement", code="placement_unknown")
    question = Question(window(since, until, now_ms), plan, placement)
    plans: dict[int, Plan] = {}
    tally = PolicyTally(question, Maturity(now_ms, young=young), plans.__getitem__)
    async for entries in read_log(services.store, services.settings.partitions, question.span.since_ms, now_ms):
        for number in releases_in(entries) - plans.keys():
            plans[number] = await services.serving.plan_of(number)
        await asyncio.to_thread(tally.take, entries)
    return await asyncio.to_thread(tally.report, release, clip)


async def journeys_report(services: Services, since: str, until: str) -> JourneysReport:
    """Tell where customers went, and of the clusters; the log is read and summed up beside the event loop."""
    now_ms = services.clock.now_ms()
    span, plan = window(since, until, now_ms), services.serving.plan()
    (packed,) = await services.store.read([MODEL_SNAPSHOT], TIMEOUT_MS)
    plans: dict[int, Plan] = {}
    tally = JourneysTally(span, plan, plans.__getitem__, now_ms)
    async for entries in read_log(services.store, services.settings.partitions, 0, now_ms):
        for number in releases_in(entries) - plans.keys():
            plans[number] = await services.serving.plan_of(number)
        await asyncio.to_thread(tally.take, entries)
    report = await asyncio.to_thread(tally.report)
    snapshot = decode_snapshot(packed) if packed is not None else None
    return msgspec.structs.replace(
        report, snapshot=snapshot.version if snapshot is not None else 0, clusters=cluster_reports(snapshot, plan)
    )


async def experience_report(services: Services, since: str, until: str, placement: str) -> ExperienceReport:
    """Tell what customers experienced; the log is read and summed up beside the event loop."""
    now_ms = services.clock.now_ms()
    tally = ExperienceTally(window(since, until, now_ms), placement, services.serving.plan().catalog)
    catalogs = await _take_log(services, tally.kept, tally.take, now_ms)
    return await asyncio.to_thread(tally.report, catalogs.__getitem__, now_ms)


async def failures_report(services: Services, since: str, until: str, placement: str) -> FailuresReport:
    """Tell why experiences were negative; the log is read and summed up beside the event loop."""
    now_ms = services.clock.now_ms()
    kept = Experienced(window(since, until, now_ms), placement)
    catalogs = await _take_log(services, kept, kept.take, now_ms)
    signals = await read_signals(services.store)
    return await asyncio.to_thread(sum_up_failures, kept, catalogs.__getitem__, signals)


async def _take_log(
    services: Services, kept: Experienced, take: Callable[[list[Entry]], None], now_ms: int
) -> dict[int, Catalog]:
    """Read the log into a tally; returns the catalogs of the releases that decided."""
    catalogs: dict[int, Catalog] = {}
    async for entries in read_log(services.store, services.settings.partitions, kept.span.since_ms, now_ms):
        for number in releases_in(entries) - catalogs.keys():
            catalogs[number] = (await services.serving.plan_of(number)).catalog
        await asyncio.to_thread(take, entries)
    if kept.placement and not len(kept.made) and kept.placement not in services.serving.plan().placements:
        words = f"there is no placement {kept.placement}, and no decision of the window was made for one of that name"
        raise Unknown(words, field="placement", code="placement_unknown")
    return catalogs


async def live(services: Services) -> Live:
    """Collect what the console shows."""
    found = totals()
    try:
        plan, model = services.serving.current()
        release, catalog, snapshot = plan.release, plan.catalog.name, model.version
    except NotReady:
        release, catalog, snapshot = 0, "", 0
    return Live(
        now_ms=services.clock.now_ms(),
        release=release,
        catalog=catalog,
        snapshot=snapshot,
        learned=int(_sum(found, "nbx_learned_total")),
        decisions=_by(found, "nbx_decisions_total", "result"),
        events=_by(found, "nbx_events_total", "status"),
        latency=_buckets(found, "nbx_decide_seconds", 1000.0),
        outcomes=[
            OutcomeCount(outcome=outcome, cause=cause, count=count)
            for (outcome, cause), count in _by_pair(found, "nbx_outcomes_total").items()
        ],
        strain=_buckets(found, "nbx_strain", 1.0),
        placements=[
            PlacementCount(placement=name, count=count)
            for name, count in sorted(_by(found, "nbx_decisions_total", "placement").items())
        ],
        actions=_actions(found),
        latest=await _latest(services) if services.connection.connected else [],
    )


def _named(value: Any) -> Any:
    """Return a packed struct as people read it: fields by name, all the way down; raw bytes are left out."""
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: _named(each) for name, each in fields.items() if not isinstance(each, bytes)}
    if isinstance(value, dict):
        return {name: _named(each) for name, each in value.items()}
    return [_named(each) for each in value] if isinstance(value, list | tuple) else value


def _brief(entry: Entry) -> dict[str, Any]:
    """One timeline row: what it was, and everything about it but a decision's candidates."""
    named = _named(entry)
    for bulky in ("candidates", "actions", "treatments", "removed", "policy", "relationship"):
        named.pop(bulky, None)
    return {"what": type(entry).__name__.removesuffix("Entry").lower(), **named}


async def _latest(services: Services) -> list[LatestDecision]:
    entries = await latest_decisions(services.store, services.settings.partitions, LATEST)
    views = []
    for entry in entries:
        keys = partition_keys(decision_ref(entry.decision_id).partition)
        (packed,) = await services.store.read([keys.decision(entry.decision_id)], TIMEOUT_MS)
        opened = decode_open(packed).slots if packed is not None else []
        outcomes = [slot.outcome or ("seen" if slot.seen_at_ms else "") for slot in opened]
        views.append(
            LatestDecision(
                decision_id=entry.decision_id,
                at_ms=entry.at_ms,
                customer_id=entry.customer_id,
                placement=entry.request.placement,
                slots=[
                    LatestSlot(
                        slot=number,
                        action=slot.action,
                        none=slot.none,
                        propensity=slot.propensity,
                        p_response=slot.p_response,
                        outcome=outcomes[number] if number < len(outcomes) and slot.action else "",
                    )
                    for number, slot in enumerate(entry.slots)
                ],
                degraded=entry.degraded,
                took_ms=entry.took_us / 1000,
                words=explain(entry, full=False).words,
            )
        )
    return views


Samples = dict[str, list[tuple[dict[str, str], float]]]


def _sum(found: Samples, name: str) -> float:
    return sum(value for _, value in found.get(name, []))


def _by(found: Samples, name: str, label: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for labels, value in found.get(name, []):
        counts[labels[label]] = counts.get(labels[label], 0) + int(value)
    return counts


def _by_pair(found: Samples, name: str) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for labels, value in found.get(name, []):
        pair = labels["outcome"], labels["cause"]
        counts[pair] = counts.get(pair, 0) + int(value)
    return dict(sorted(counts.items()))


def _actions(found: Samples) -> list[ActionCount]:
    shown = _by(found, "nbx_slots_total", "action")
    accepted: dict[str, int] = {}
    negative: dict[str, int] = {}
    for labels, value in found.get("nbx_outcomes_total", []):
        if labels["outcome"] in _NEUTRAL:
            continue
        side = accepted if labels["outcome"] in _POSITIVE else negative
        side[labels["action"]] = side.get(labels["action"], 0) + int(value)
    return [
        ActionCount(action=name, shown=count, accepted=accepted.get(name, 0), negative=negative.get(name, 0))
        for name, count in sorted(shown.items())
    ]


def _buckets(found: Samples, name: str, scale: float) -> Buckets:
    rows = [
        (float(labels["le"]), int(value)) for labels, value in found.get(f"{name}_bucket", []) if labels["le"] != "+Inf"
    ]
    return Buckets(
        buckets=[(le * scale, count) for le, count in sorted(rows)],
        count=int(_sum(found, f"{name}_count")),
        sum_ms=_sum(found, f"{name}_sum") * scale,
    )
