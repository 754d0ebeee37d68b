"""Decide: load, choose, commit, reply, within a deadline.

The choice itself is `nbx.decision.choice.decide`. Here is what surrounds it: one read, one conditional commit, retries
on a version conflict, idempotent replies, and the degraded answer when the store does not answer in time. A degraded
decision is kept in memory and logged when the store is back; a commit that timed out may have been applied, so its
decision is reported as not delivered then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import DecodeError, json, structs

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.clock import Clock
from nbx.decision.budgets import NO_BUDGETS
from nbx.decision.choice import decide
from nbx.decision.degraded import degraded_entry, degraded_reply
from nbx.decision.explain import explain
from nbx.decision.ledger import Ledger
from nbx.decision.messages import DecideReply, DecideRequest
from nbx.decision.record import decision_entry, reply
from nbx.decision.stages import Stages
from nbx.errors import Invalid, TooLarge, Unavailable, Unknown
from nbx.experience.entries import DecisionEntry, encode_entry
from nbx.experience.fold import fold
from nbx.experience.lifecycle import encode_open, keep_ms
from nbx.experience.merging import Merging, merge_timers
from nbx.features.keys import partition_keys
from nbx.features.schema import checked_values
from nbx.features.state import CustomerState, decode_state, encode_state
from nbx.features.store import Commit, Put, Store, Verdict, versioned
from nbx.ids import checked_id, new_decision_id, partition_of
from nbx.limits import COMMIT_ATTEMPTS, DEGRADED_QUEUE, EXCLUDES, NAME_LENGTH

STATE_UNAVAILABLE = "state_unavailable"
STATE_CONTENDED = "state_contended"
_ENCODE = json.Encoder().encode
_DECODE_REPLY = json.Decoder(DecideReply).decode


class PlanSource(Protocol):
    """Gives plans and models; `nbx.decision.serving.Serving` is one."""

    def current(self) -> tuple[Plan, BoundModel]:
        """Return plan and bound model in force, which belong together; raises `NotReady` when there are none."""
        ...

    async def plan_of(self, number: int) -> Plan:
        """Return the plan of any release: a degraded decision is logged under the one it was made with."""
        ...


class DecisionService:
    """Answers decision requests.

    Parameters
    ----------
    store
        Where state lives.
    serving
        What to decide with.
    clock
        Tells when a decision is made.
    partitions
        Number of partitions of the store.
    deadline_ms
        Default deadline of a call.
    request_ttl_ms
        How long a reply is kept for retries.
    salt
        Of the draws.
    observe
        Told every committed or degraded decision, and where its time went.
    ledger
        What may be spent of budgets; None: budgets bound nothing.
    build
        Fingerprint of this build, for the records.
    """

    def __init__(  # noqa: PLR0913 - each is told once, by name
        self,
        store: Store,
        serving: PlanSource,
        clock: Clock,
        *,
        partitions: int,
        deadline_ms: int,
        request_ttl_ms: int,
        salt: str,
        observe: Callable[[DecisionEntry, Stages], None] = lambda _, __: None,
        ledger: Ledger | None = None,
        build: str = "",
    ) -> None:
        self._store = store
        self._serving = serving
        self._clock = clock
        self._partitions = partitions
        self._deadline_ms = deadline_ms
        self._request_ttl_ms = request_ttl_ms
        self._salt = salt
        self._observe = observe
        self._ledger = ledger
        self._build = build
        self._merging = Merging(store, lambda: serving.current()[0], clock, partitions=partitions, salt=salt)
        self.degraded: deque[DecisionEntry] = deque(maxlen=DEGRADED_QUEUE)
        """Degraded decisions not logged yet, oldest first; `nbx.decision.recovery` drains it."""
        self.dropped = 0
        """Degraded decisions that were never logged because the queue was full."""
        self.uncertain: deque[tuple[str, str, int]] = deque(maxlen=DEGRADED_QUEUE)
        """(decision_id, customer_id, slots) of commits that timed out."""

    async def decide(self, request: DecideRequest, since_ns: int = 0) -> DecideReply:
        """Decide; always answers legally within the deadline once the request itself is right.

        Parameters
        ----------
        request
            What is asked.
        since_ns
            From when on the deadline runs, on the clock of `perf_counter_ns`; 0: now.

        Raises
        ------
        Invalid, TooLarge, Unknown
            The request is wrong; the error names the field.
        NotReady
            Nothing is published yet.
        """
        stages = Stages(since_ns)
        started_ns = stages.at_ns[0]
        plan, model = self._serving.current()
        request, placement = _checked(request, plan)
        deadline_ms = min(request.deadline_ms or self._deadline_ms, 10_000)
        partition, wanted = self._wanted(request)
        reason = STATE_CONTENDED
        decision_id = ""
        try:
            for _ in range(COMMIT_ATTEMPTS):
                stages.enter("load")
                stages.attempts += 1
                packed, *stored = await self._store.read(wanted, _left_ms(started_ns, deadline_ms))
                if stored and stored[0] is not None:
                    return _stored(stored[0])
                version, struct = versioned(packed)
                state = decode_state(struct)
                if state.merged_into:
                    find = self._merging.peek if request.mode == "preview" else self._merging.settled
                    known = await find(request.customer_id, lambda: _left_ms(started_ns, deadline_ms))
                    request = structs.replace(request, customer_id=known.customer_id)
                    partition, wanted = self._wanted(request)
                    if request.mode == "live":
                        continue
                    version, state = known.version, known.state
                now_ms = self._clock.now_ms()
                purse = NO_BUDGETS
                if placement.budgets and self._ledger is not None:
                    left_ms = _left_ms(started_ns, deadline_ms) / 2  # late: it is decided without, not degraded
                    purse = await self._ledger.filled(placement.budgets, request.slots, now_ms, left_ms)
                stages.enter("choose")
                decision_id = new_decision_id(partition, now_ms)
                choice = decide(plan, model, state, request, decision_id, now_ms, salt=self._salt, purse=purse)
                stages.enter("record")
                entry = decision_entry(
                    choice,
                    request,
                    decision_id,
                    now_ms,
                    release=plan.release,
                    snapshot=model.version,
                    state_version=version,
                    took_us=(time.perf_counter_ns() - started_ns) // 1000,
                    release_digest=plan.digest,
                    build=self._build,
                )
                answer = reply(entry, choice, _explanation(entry, request))
                if request.mode == "preview":
                    return answer
                left_ms = _left_ms(started_ns, deadline_ms)
                if purse and self._ledger is not None:
                    # no await since the purse was looked into: it still holds what was chosen
                    spent = self._ledger.take(placement.budgets, [slot.action for slot in entry.slots], now_ms)
                    entry = structs.replace(entry, spent=spent) if spent else entry
                stages.enter("commit")
                verdict = await self._commit(state, version, entry, answer, plan, left_ms)
                if verdict is None:
                    self._observe(entry, stages)
                    return answer
                if verdict:
                    return _stored(verdict)
                decision_id = ""
        except Unavailable:
            reason = STATE_UNAVAILABLE
            if decision_id and request.mode == "live":
                self.uncertain.append((decision_id, request.customer_id, request.slots))
        return self._degraded_reply(plan, placement, request, partition, reason, stages)

    def _wanted(self, request: DecideRequest) -> tuple[int, list[str]]:
        """Return the customer's partition, and the keys that a decision reads there."""
        keys = partition_keys(partition := partition_of(request.customer_id, self._partitions))
        wanted = [keys.customer(request.customer_id)]
        if request.request_id:
            wanted.append(keys.request(request.customer_id, request.request_id))
        return partition, wanted

    async def _commit(
        self, state: CustomerState, version: int, entry: DecisionEntry, answer: DecideReply, plan: Plan, left_ms: float
    ) -> bytes | None:
        """Commit a decision: None when done, the stored reply when there is one, empty: decide again."""
        verdict = None
        try:
            commit = _commit_of(state, version, entry, plan)
            keys = partition_keys(commit.partition)
            if entry.request.request_id:
                key = keys.request(entry.customer_id, entry.request.request_id)
                put = Put(key, _ENCODE(answer), self._request_ttl_ms, only_new=True)
                commit = structs.replace(commit, puts=(*commit.puts, put))
            if entry.spent and self._ledger is not None:
                commit = structs.replace(commit, spends=self._ledger.spends(entry.spent, keys))
            committed = await self._store.commit(commit, left_ms)
            verdict = committed.verdict
        finally:
            if entry.spent and self._ledger is not None:
                self._ledger.settle_commit(entry.spent, verdict)
        return None if verdict is Verdict.DONE else committed.existing

    def _degraded_reply(
        self, plan: Plan, placement: PlacementPlan, request: DecideRequest, partition: int, reason: str, stages: Stages
    ) -> DecideReply:
        """The placement's declared default in slot 0, silence in the others."""
        now_ms = self._clock.now_ms()
        decision_id = new_decision_id(partition, now_ms)
        entry = degraded_entry(plan, placement, request, decision_id, now_ms, reason, self._salt)
        entry = structs.replace(entry, took_us=stages.stop() // 1000, build=self._build)
        if request.mode == "live":
            self.dropped += len(self.degraded) == DEGRADED_QUEUE
            self.degraded.append(entry)
            self._observe(entry, stages)
        return degraded_reply(entry, placement)

    async def log_degraded(self, entry: DecisionEntry) -> None:
        """Write a degraded decision, so that its events are known; raises `Unavailable` while the store is down.

        One of before the customer's erasure is dropped: it would begin a life that nobody lives.
        """
        plan = await self._serving.plan_of(entry.release)
        for _ in range(COMMIT_ATTEMPTS):
            keys = partition_keys(partition_of(entry.customer_id, self._partitions))
            wanted = [keys.customer(entry.customer_id), keys.erased(entry.customer_id)]
            packed, erased_at_ms = await self._store.read(wanted, 1_000.0)
            if erased_at_ms is not None and entry.at_ms <= int(erased_at_ms):
                return
            version, struct = versioned(packed)
            commit = _commit_of(decode_state(struct), version, structs.replace(entry, state_version=version), plan)
            if (await self._store.commit(commit, 1_000.0)).verdict is not Verdict.STALE:
                await self._merging.settled(entry.customer_id)  # of an alias: its canonical customer's to know
                return
        raise Unavailable(f"customer {entry.customer_id} is being changed by too many at once", code=STATE_CONTENDED)


def _checked(request: DecideRequest, plan: Plan) -> tuple[DecideRequest, PlacementPlan]:
    """Check a request against the plan."""
    checked_id(request.customer_id, "customer_id")
    if request.request_id:
        checked_id(request.request_id, "request_id")
    placement = plan.placements.get(request.placement)
    if placement is None:
        raise Unknown(
            f"placement {request.placement[:64]!r} is not in release {plan.release}; "
            f"it has {', '.join(plan.placements) or 'none'}",
            field="placement",
            code="placement_unknown",
        )
    if not 1 <= request.slots <= placement.placement.slots:
        raise Invalid(
            f"slots is {request.slots}; placement {request.placement} has 1 to {placement.placement.slots}",
            field="slots",
            code="slots_out_of_range",
        )
    if len(request.exclude) > EXCLUDES:
        raise TooLarge(f"exclude has {len(request.exclude)} actions, at most {EXCLUDES} are allowed", field="exclude")
    for index, name in enumerate(request.exclude):
        if len(name) > NAME_LENGTH or not name.isprintable():
            raise Invalid(
                f"exclude[{index}] is not a name of at most {NAME_LENGTH} printable characters",
                field=f"exclude[{index}]",
                code="field_invalid",
            )
    if request.deadline_ms < 0:
        raise Invalid(f"deadline_ms is {request.deadline_ms}; it must be >= 0", field="deadline_ms")
    if request.context:
        context = checked_values(request.context, plan.context_features, "context")
        request = request if context is request.context else structs.replace(request, context=context)
    return request, placement


def _left_ms(started_ns: int, deadline_ms: int) -> float:
    left = deadline_ms - (time.perf_counter_ns() - started_ns) / 1e6
    if left <= 0:
        raise Unavailable("the deadline has passed", code="deadline_exceeded")
    return left


def _commit_of(state: CustomerState, version: int, entry: DecisionEntry, plan: Plan) -> Commit:
    partition = int(entry.decision_id[:3], 16)
    keys = partition_keys(partition)
    folded = fold(state, None, entry, plan.rules)
    assert folded.decision is not None
    kept_ms = keep_ms(folded.decision, plan.rules.remember_ms)
    opened = Put(keys.decision(entry.decision_id), encode_open(folded.decision), kept_ms, only_new=True)
    arm = merge_timers(entry.customer_id, state, entry.at_ms)[0] if state.merged_into else ()
    return Commit(
        partition=partition,
        customer_key=keys.customer(entry.customer_id),
        expected_version=version,
        state=encode_state(state),
        entries=(encode_entry(entry),),
        puts=(opened,),
        arm=(*folded.arm, *arm),
    )


def _stored(packed: bytes) -> DecideReply:
    try:
        return _DECODE_REPLY(packed)
    except DecodeError:
        raise Unavailable("the reply stored for this request_id cannot be read; use a new request_id") from None


def _explanation(entry: DecisionEntry, request: DecideRequest) -> Any:
    return None if request.explain == "none" else explain(entry, full=request.explain == "full")
