"""Where the time of one decision goes: every stage in process, and what HTTP, the store and the kernel add to it.

    python -m benchmarks.run --only budget

50 candidates, 32 columns, 64 customers in turn who have met ten actions three times each. In process the store answers
at once; each stage runs on what the stages before it made, thirty times in a row per round, and the whole decision
from bytes to bytes, for the same customer again and for another each time, takes its turn with them. What is in no
stage is the glue between them, and what a stage finds in the caches when it follows itself. Over HTTP the same catalog
is asked over one connection and over 64: CPU of the api process and of Redis per decision, by the kernel's count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import msgspec

from benchmarks.bench_events_http import CONNECTIONS, decision
from benchmarks.catalogs import sized
from benchmarks.harness import PYTHON, Cell, Result, Size, Table, at_share, interleaved
from benchmarks.in_process import NOW_MS, SALT, AtOnceStore, bodies, packed_states, result_of, served, service
from benchmarks.load_client import load
from benchmarks.pinned import Pinned, bare_asgi, cpu_s, on_service, ready
from nbx.api.plane import DataPlane, decoded_request
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.decision.arbitration import on_track
from nbx.decision.at_once import score_and_draw
from nbx.decision.choice import allowed, decide
from nbx.decision.contact_policy import Contacts
from nbx.decision.eligibility import candidates
from nbx.decision.facts import gather
from nbx.decision.record import decision_entry, reply
from nbx.decision.service import _checked, _commit_of
from nbx.decision.stages import STAGES, Stage, Stages
from nbx.experience.entries import PolicyRecord, encode_entry
from nbx.experience.fold import fold
from nbx.experience.lifecycle import encode_open
from nbx.features.keys import partition_keys
from nbx.features.state import decode_state, encode_state
from nbx.features.store import versioned
from nbx.hashing import uniform
from nbx.ids import new_decision_id, partition_of

CANDIDATES, COLUMNS, CONDITIONS = 50, 32, 20
_encode = msgspec.json.Encoder().encode


def stages(plan: Plan, model: BoundModel) -> dict[str, Callable[[], object]]:
    """Return each stage of a decision as a function over what the stages before it made."""
    body, packed = bodies(plan)[1], packed_states(plan)[1]
    request, placement = _checked(decoded_request(body), plan)
    version, struct = versioned(packed)
    assert struct is not None
    state = decode_state(struct)
    partition = partition_of(request.customer_id, 16)
    decision_id = new_decision_id(partition, NOW_MS)
    facts = gather(plan, placement, state, request, NOW_MS, SALT, model)
    contacts = Contacts(state, plan.rules, NOW_MS)
    purse: dict[str, int] = {}
    found = candidates(plan, placement, facts, contacts, request.exclude, purse)
    relationship = dict(facts.relationship)
    x = plan.layout.encode(facts.values, relationship)
    weight = on_track(found.context_weight, plan, model, placement, relationship, "")
    policy = PolicyRecord(exchange=1.0, strain=0.0, scale=1.0, floor=0.01, salt=SALT)
    choice = decide(plan, model, state, request, decision_id, NOW_MS, salt=SALT)
    entry = decision_entry(
        choice, request, decision_id, NOW_MS, release=1, snapshot=0, state_version=version, took_us=100, build="bench"
    )
    answer = reply(entry, choice, None)
    folded = fold(decode_state(struct), None, entry, plan.rules)
    opened = folded.decision
    assert opened is not None

    def record() -> object:
        return decision_entry(
            choice, request, decision_id, NOW_MS, release=1, snapshot=0, state_version=version, took_us=1, build="bench"
        )

    def watch() -> object:
        watched = Stages()
        for stage in STAGES:
            watched.enter(stage)
        return watched.stop()

    observe = service(plan, model, AtOnceStore([packed]))._observe
    watched = Stages()
    return {
        "decode request": lambda: decoded_request(body),
        "check request": lambda: _checked(request, plan),
        "keys": lambda: partition_keys(partition_of(request.customer_id, 16)).customer(request.customer_id),
        "decode state": lambda: decode_state(versioned(packed)[1]),
        "decision id": lambda: new_decision_id(partition, NOW_MS),
        "facts": lambda: gather(plan, placement, state, request, NOW_MS, SALT, model),
        "contacts": lambda: Contacts(state, plan.rules, NOW_MS),
        "rules → candidates": lambda: candidates(plan, placement, facts, contacts, request.exclude, purse),
        "encode x": lambda: plan.layout.encode(facts.values, relationship),
        "score, price, draw": lambda: score_and_draw(x, model, placement, found.positions, weight, policy, decision_id),
        "(of it: the draw's uniform)": lambda: uniform(f"{decision_id}/0", SALT),
        "record": record,
        "reply": lambda: reply(entry, choice, None),
        "(state decoded, then folded)": lambda: fold(decode_state(struct), None, entry, plan.rules),
        "pack state": lambda: encode_state(state),
        "pack open decision": lambda: encode_open(opened),
        "pack record": lambda: encode_entry(entry),
        "(state decoded, then all of the commit)": lambda: _commit_of(decode_state(struct), 3, entry, plan),
        "(state decoded for it)": lambda: decode_state(struct),
        "stage times": watch,
        "metrics": lambda: observe(entry, watched),
        "encode reply": lambda: _encode(answer),
        "(all of the choice: rules to draw)": lambda: decide(
            plan, model, state, request, decision_id, NOW_MS, salt=SALT
        ),
        "(all of the rules)": lambda: allowed(plan, state, request, NOW_MS, salt=SALT, model=model),
    }


class OverHttp(NamedTuple):
    """CPU per decision, µs, and its latency over one connection."""

    api_us: float
    redis_us: float
    bare_us: float
    """Of a bare ASGI application that answers as many bytes."""
    p50_ms: float


def measure(size: Size) -> Result:
    """Measure on a service of its own."""
    return on_service(measure_on, size)


async def measure_on(nbx: Pinned, size: Size) -> Result:
    """Measure all of it."""
    rounds, repeats = (3, 5) if size == "smoke" else (40, 30)
    plan, model = served(sized(CANDIDATES, COLUMNS, CONDITIONS))
    asked, plane = bodies(plan), DataPlane(service(plan, model, AtOnceStore(packed_states(plan))), None)  # type: ignore[arg-type] # no events
    turn = 0

    def whole() -> object:
        nonlocal turn
        turn += 1
        return result_of(plane.decide(asked[turn % len(asked)]))

    watched: list[Mapping[Stage, int]] = []
    timing = service(plan, model, AtOnceStore(packed_states(plan)))

    def note(_: object, stopped: Stages) -> None:
        stopped.stop()
        watched.append(stopped.ns)

    timing._observe = note
    timed = DataPlane(timing, None)  # type: ignore[arg-type] # likewise

    def by_stop_watch() -> object:
        return result_of(timed.decide(asked[len(watched) % len(asked)]))

    packed = packed_states(plan)[1]
    alone = DataPlane(service(plan, model, AtOnceStore([packed])), None)  # type: ignore[arg-type] # likewise

    def again() -> object:
        return result_of(alone.decide(asked[1]))

    whole()
    times = interleaved(
        {**stages(plan, model), "again": again, "whole": whole, "watch": by_stop_watch},
        rounds,
        repeats,
        time.thread_time,
    )
    total, same = times.pop("whole"), times.pop("again")
    del times["watch"]
    own = tuple((stage, median(ns[stage] for ns in watched) / 1000) for stage in STAGES)
    told = _told(times)
    explained = sum(told.values())
    rows = [(name, us, us / total) for name, us in told.items()]
    rows += [
        ("in no stage: awaits, glue, cold caches", same - explained, (same - explained) / total),
        ("another customer each time", total - same, 1 - same / total),
        ("one decision, bytes to bytes", total, 1.0),
    ]
    over = await _over_http(nbx, 0.2 if size == "smoke" else 2.0, 1 if size == "smoke" else 5)
    outside: tuple[tuple[Cell, ...], ...] = (
        ("nbx in process", *(total for _ in over)),
        ("a bare ASGI answer: uvicorn, asyncio, sockets", *(each.bare_us for each in over)),
        ("the rest: connection to Redis, front, tasks, waking", *(each.api_us - total - each.bare_us for each in over)),
        ("api process, CPU", *(each.api_us for each in over)),
        ("Redis, CPU: read, script, append-only file", *(each.redis_us for each in over)),
        ("p50 latency", *(each.p50_ms * 1000 for each in over)),
    )
    return Result(
        title="One decision, stage by stage",
        what=f"{CANDIDATES} candidates, {COLUMNS} columns, one slot; µs of one core, medians of {rounds} rounds",
        against="the whole decision in process, and the same over HTTP",
        command=f"{PYTHON} --only budget",
        tables=(
            Table(("stage", "µs", "share"), tuple(rows), "In process"),
            Table(("stage", "µs"), own, "By the service's own stop watch, as in `nbx_decide_stage_seconds`"),
            Table(("µs a decision", "1 connection", f"{CONNECTIONS} connections"), outside, "Over HTTP"),
        ),
        size=size,
    )


def _told(times: Mapping[str, float]) -> dict[str, float]:
    """Return the stages one after the other; what was measured together with others is what is left of the whole."""
    decoded = times["(state decoded for it)"]
    fold_us = max(times["(state decoded, then folded)"] - decoded, 0.0)
    commit_us = times["(state decoded, then all of the commit)"] - decoded
    packs = ("pack state", "pack open decision", "pack record")
    choice = ("facts", "contacts", "rules → candidates", "encode x", "score, price, draw")
    left = {
        "score, price, draw": (
            "policy and the rest of the choice",
            times["(all of the choice: rules to draw)"] - sum(times[name] for name in choice),
        ),
        "reply": ("fold", fold_us),
        "pack record": ("commit arguments", commit_us - fold_us - sum(times[name] for name in packs)),
    }
    told: dict[str, float] = {}
    for name, us in times.items():
        if not name.startswith("("):
            told[name] = us
            if name in left:
                told[left[name][0]] = max(left[name][1], 0.0)
    return told


async def _over_http(nbx: Pinned, seconds: float, rounds: int) -> list[OverHttp]:
    size = await ready(nbx.port, decision)
    found: dict[int, list[OverHttp]] = {1: [], CONNECTIONS: []}
    with bare_asgi(size) as peer:
        await ready(peer.port, decision)
        await load(nbx.port, decision, seconds=seconds / 4, connections=CONNECTIONS)
        for _ in range(rounds):
            for connections, rows in found.items():
                before_s, redis_s = cpu_s(nbx.pid), await _redis_s(nbx)
                done = await load(nbx.port, decision, seconds=seconds, connections=connections)
                api_us = (cpu_s(nbx.pid) - before_s) / done.requests * 1e6
                redis_us = (await _redis_s(nbx) - redis_s) / done.requests * 1e6
                before_s = cpu_s(peer.pid)
                bare = await load(peer.port, decision, seconds=seconds, connections=connections)
                bare_us = (cpu_s(peer.pid) - before_s) / bare.requests * 1e6
                rows.append(OverHttp(api_us, redis_us, bare_us, at_share(done.latencies_ms, 0.5)))
    return [OverHttp(*map(median, zip(*rows, strict=True))) for rows in found.values()]


async def _redis_s(nbx: Pinned) -> float:
    used = await nbx.redis.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
