"""The learner process: reads the log, learns, publishes snapshots, keeps checkpoints.

Work goes in steps. A step takes what every partition's log holds beyond the last one, in the order of stream id, then
partition; is learned; and is journalled with the offsets it reached, before anything of it is published. A checkpoint
holds model, step and offsets together. After a kill the learner takes up the last checkpoint and does the journalled
steps again, with the same bounds, so it arrives at the same bits: nothing is lost and nothing learned twice, and every
version ever published can be rebuilt from the log.

Sites are stored under `<slot>/<revision>` with their decision, so that doing a step again writes the same values and a
correction finds the site of the revision it replaces. An outcome without the customer's consent is passed over: no byte
of the model depends on it. An erased customer's sites are subtracted where the log says so,
and outlive that for a while (`nbx.runtime.erasing`).

Journal, snapshots and checkpoints are fenced: a script compares the lease first, so a learner that was overtaken while
it slept publishes nothing more. Sites are not: they lie with their decision, and one that wakes up may still write the
sites of the step it was in.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct, structs

from nbx.audit.journal import Journal
from nbx.audit.metrics import CHANGES, EXPLORATION, HALF_LIFE, LEARNED, LEARNER_LAG_S, SNAPSHOT
from nbx.audit.whole_log import ARCHIVE_CODES, WholeLog
from nbx.bandits.clusters import Clustering, ClusteringState
from nbx.bandits.learner import LearnedSites, Learner
from nbx.bandits.learner import warm_up as warm_up_learning
from nbx.bandits.snapshot import Snapshot
from nbx.bandits.snapshot import encode as encode_snapshot
from nbx.bandits.teaching import Teaching
from nbx.build import current_build
from nbx.clock import SystemClock
from nbx.decision.serving import Serving
from nbx.decision.warm_up import warm_up
from nbx.errors import NotReady, Unavailable, Unsupported
from nbx.experience.entries import AnyOutcome, EraseEntry, Outcome, decode_entry, outcomes_of
from nbx.experience.erasure import encode_receipt, receipt_of
from nbx.experience.heads import is_decision
from nbx.features.builds import note_build
from nbx.features.connection import RedisConnection
from nbx.features.keys import LEASE_LEARNER, MODEL_CHECKPOINT, MODEL_JOURNAL, MODEL_VERSION, partition_keys
from nbx.features.lease import Lease
from nbx.features.store import LogEntry, Store
from nbx.ids import decision_ref
from nbx.runtime import telling_apart
from nbx.runtime.erasing import in_words, on_record
from nbx.runtime.journal import RedisJournal, WholeJournal
from nbx.runtime.known_settings import note_settings
from nbx.runtime.process import connect, log, pause, settle, stop_event
from nbx.runtime.publishing import JOURNAL, Overtaken, Publisher, Reached
from nbx.runtime.sites import Place, RedisSites, Sites
from nbx.runtime.weighing import Weighing, observation_of
from nbx.settings import Settings

LEASE_MS = 5_000
PAGE = 512
"""Log entries read from a partition per step."""
IDLE_S = 0.02
"""Wait after a step that found nothing."""
TIMEOUT_MS = 5_000.0
CHECKPOINT_FORMAT = 2

Offsets = dict[int, str]
Revision = tuple[str, int]
"""`<decision_id>/<slot>` and revision."""


class Taught(NamedTuple):
    """What a step learned and has to keep."""

    sites: dict[Place, LearnedSites]
    kept_ms: dict[Place, int]


class Checkpoint(Struct, frozen=True, kw_only=True):
    """Model, step and log offsets, together or not at all."""

    format: int
    step: int
    offsets: Offsets
    """Partition → last log id taken in."""
    learned: int
    """Outcomes taken in since the beginning."""
    learner: bytes
    teaching: Teaching
    clusters: ClusteringState | None = None


class LogLearner:
    """Folds the log into a learner, step by step.

    Parameters
    ----------
    store
        Where the log is.
    serving
        Gives the columns of releases.
    partitions
        Number of partitions.
    sites
        Where what may have to be taken back is kept.
    lagging
        Told how many seconds ago the last outcome of a step was logged.
    """

    def __init__(
        self,
        store: Store,
        serving: Serving,
        partitions: int,
        sites: Sites,
        lagging: Callable[[float], None] = LEARNER_LAG_S.set,
    ) -> None:
        self._store = store
        self._sites = sites
        self._lagging = lagging
        self._serving = serving
        self._partitions = partitions
        self.learner = Learner()
        self.weighing = Weighing()
        self.clusters = Clustering()
        self.step = 0
        self.learned = 0
        self.offsets: Offsets = {}
        self.reached: Offsets = {}
        """Partition → offset, of the partitions that the last step took something from."""
        self._layouts: dict[int, int] = {}
        """Release → how long sites of its outcomes are kept, ms; of those whose columns are known."""
        self._receipts: dict[str, bytes] = {}
        """Key → receipt of erasures that were learned and are to be told once the step is journalled."""

    def checkpoint(self) -> bytes:
        """Pack everything needed to continue."""
        return msgspec.msgpack.encode(
            Checkpoint(
                format=CHECKPOINT_FORMAT,
                step=self.step,
                offsets=self.offsets,
                learned=self.learned,
                learner=self.learner.checkpoint(),
                teaching=self.weighing.teaching,
                clusters=self.clusters.encode(),
            )
        )

    def snapshot(self) -> Snapshot:
        """Return what is served as of the last step."""
        snapshot = self.learner.snapshot(version=self.step, step=self.step)
        return structs.replace(snapshot, quarantined=self.weighing.teaching.quarantined(), **self.clusters.told())

    def restore(self, packed: bytes) -> None:
        """Continue from a checkpoint; `Unsupported` when this build cannot read it."""
        try:
            checkpoint = msgspec.msgpack.decode(packed, type=Checkpoint)
            if checkpoint.format != CHECKPOINT_FORMAT:
                raise ValueError(f"format {checkpoint.format}")  # noqa: TRY301 - one message for all
            self.learner = Learner.restore(checkpoint.learner)
            self.weighing = Weighing(checkpoint.teaching)
            self.clusters = Clustering(checkpoint.clusters)
        except (msgspec.DecodeError, ValueError) as error:
            raise Unsupported(
                f"the learner's checkpoint cannot be read ({error}); delete {MODEL_CHECKPOINT} and {MODEL_JOURNAL} to "
                "learn anew from the log",
                code="checkpoint_format",
            ) from error
        self.step, self.offsets, self.learned = checkpoint.step, dict(checkpoint.offsets), checkpoint.learned
        self._layouts.clear()

    async def take_step(self, until: Mapping[int, str] | None = None) -> int:
        """Learn what is new in the log.

        Parameters
        ----------
        until
            Offsets a journalled step reached: exactly these are taken in. None: what is there, a page per partition.

        Returns
        -------
        int
            Entries taken in; the step counts only when it is not 0.
        """
        entries = await self.read(until)
        if entries or until is not None:
            await self.learn(entries)
        return len(entries)

    async def read(self, until: Mapping[int, str] | None = None) -> list[LogEntry]:
        """Return what a step takes in, in its order; as `take_step`, which is this and `learn`."""
        targets = range(self._partitions) if until is None else until
        pages = await asyncio.gather(*(self._page(p, until[p] if until else "+", until is not None) for p in targets))
        return sorted((entry for page in pages for entry in page), key=_order)

    async def learn(self, entries: list[LogEntry]) -> None:
        """Learn what was read as one step."""
        lessons = list(self._lessons(entries))
        await self._learn(lessons)
        self.reached = {entry.partition: entry.entry_id for entry in entries}
        self.offsets |= self.reached
        self.step += 1
        self.learned += sum(isinstance(lesson, AnyOutcome) and lesson.learns for lesson in lessons)

    async def redo(self, journal: Journal) -> int:
        """Do the journalled steps after the checkpoint again; returns how many."""
        done = 0
        async for step in journal.steps(self.step, sys.maxsize):
            self.step = step.step - 1  # the journal may begin later than its first step
            await self.take_step(step.offsets)
            done += 1
        return done

    async def _page(self, partition: int, end: str, whole: bool) -> list[LogEntry]:
        start = f"({self.offsets[partition]}" if partition in self.offsets else "-"
        page = await self._store.log_range(partition, start, end, PAGE)
        while whole and page and page[-1].entry_id != end:
            more = await self._store.log_range(partition, f"({page[-1].entry_id}", end, PAGE)
            if not more:
                break
            page += more
        return page

    async def write_receipts(self) -> None:
        """Tell what erasures took from the models; only once their step is journalled, so that the step stands."""
        await self._sites.tell(self._receipts)
        self._receipts.clear()

    async def _learn(self, lessons: list[AnyOutcome | EraseEntry]) -> None:
        known = await self._previous_sites(lesson for lesson in lessons if isinstance(lesson, AnyOutcome))
        taught = Taught({}, {})
        waiting: list[AnyOutcome] = []
        for lesson in lessons:
            if isinstance(lesson, EraseEntry):
                self._teach(waiting, known, taught)
                await self._forget(lesson, known)
                continue
            if not lesson.learns:
                self.weighing.pass_over(lesson)
                continue
            if lesson.x and lesson.release not in self._layouts:
                self._teach(waiting, known, taught)
                await self._know_layout(lesson.release)
            waiting.append(lesson)
        self._teach(waiting, known, taught)
        await self._sites.write(taught.sites, taught.kept_ms)

    def _teach(self, waiting: list[AnyOutcome], known: dict[Revision, LearnedSites], taught: Taught) -> None:
        """Learn outcomes in order; they wait no more, and their sites are known."""
        observations = self.weighing.observations(waiting, known, self.learner.unfit)
        outcomes = [outcome for outcome in waiting if outcome.x]
        observations = [observation for observation in observations if observation.x]
        waiting.clear()
        for outcome, sites in zip(outcomes, self.learner.learn_all(observations, known), strict=True):
            if isinstance(sites, ValueError):
                key = f"{outcome.decision_id}/{outcome.slot}"
                log.error("outcome %s/%d teaches nothing: %s", key, outcome.revision, sites)
                continue
            if isinstance(outcome, Outcome):
                telling_apart.teach(self.clusters, outcome)
            known[sites.key, sites.revision] = sites
            place = Place(outcome.decision_id, outcome.slot, outcome.revision)
            taught.sites[place] = sites
            taught.kept_ms[place] = self._layouts[outcome.release]

    async def _forget(self, entry: EraseEntry, latest: Mapping[Revision, LearnedSites]) -> None:
        """Subtract what an erased customer taught, as far as it is on record."""
        response = experience = 0
        found = await on_record(self._sites, self._store, entry, latest)
        for outcome, sites in found:
            await self._know_layout(outcome.release)
            try:
                self.learner.unlearn(observation_of(outcome), sites)
            except ValueError as error:
                log.error("outcome %s/%d stays learned: %s", sites.key, sites.revision, error)
                continue
            response += sites.response is not None
            experience += sites.experience is not None
        receipt = structs.replace(
            receipt_of(entry),
            response=response,
            experience=experience,
            beyond=len(entry.taught) - len(found),
            step=self.step + 1,
            forgot=in_words(found),
        )
        key = partition_keys(decision_ref(entry.erasure_id).partition).erasure(entry.erasure_id)
        self._receipts[key] = encode_receipt(receipt)

    async def _previous_sites(self, outcomes: Iterable[AnyOutcome]) -> dict[Revision, LearnedSites]:
        corrected = [o for o in outcomes if o.revision > 0 and o.learns]
        found = await self._sites.read([Place(o.decision_id, o.slot, o.revision - 1) for o in corrected])
        return {
            (f"{o.decision_id}/{o.slot}", o.revision - 1): sites
            for o, sites in zip(corrected, found, strict=True)
            if sites is not None
        }

    def _lessons(self, entries: Iterable[LogEntry]) -> Iterable[AnyOutcome | EraseEntry]:
        latest: LogEntry | None = None
        for entry in entries:
            if is_decision(entry.payload):  # they teach nothing and are not even decoded
                continue
            try:
                decoded = decode_entry(entry.payload)
            except msgspec.DecodeError as error:
                log.error("log entry %s of partition %d is skipped: %s", entry.entry_id, entry.partition, error)
                continue
            if isinstance(decoded, EraseEntry):
                yield decoded
            elif outcomes := outcomes_of(decoded):
                latest = entry
                yield from outcomes
        if latest is not None:
            self._lagging(max(0.0, SystemClock().now_ms() - _order(latest)[0]) / 1000)

    async def _know_layout(self, release: int) -> None:
        if release not in self._layouts:
            plan = await self._serving.plan_of(release)
            self.learner.register_layout(release, plan.layout.columns)
            self.weighing.know(release, plan.rules.uses)
            telling_apart.register(self.clusters, plan)
            self._layouts[release] = plan.rules.remember_ms


async def learn(settings: Settings) -> int:
    """Run until stopped: wait for the lease, catch up, learn."""
    stop = stop_event()
    connected = await connect(settings, stop)
    if connected is None:
        return 0
    connection, redis_store = connected
    store = WholeLog(redis_store, settings.archive_path)
    warm_up()
    warm_up_learning()
    lease = Lease(connection, LEASE_LEARNER, f"{socket.gethostname()}:{os.getpid()}", LEASE_MS)
    await note_settings(connection, settings, "learner", SystemClock())
    settle()
    log.info("learner ready")
    while not stop.is_set():
        try:
            if await lease.acquire() is None:
                await pause(stop, LEASE_MS / 3000)
                continue
            await _lead(settings, connection, store, lease, stop)
        except Overtaken:
            log.warning("another learner has the lease; waiting")
        except NotReady as error:
            log.info("learning waits: %s", error)
            await pause(stop, 1.0)
        except Unavailable as error:
            log.warning("learning waits for Redis: %s", error)
            await pause(stop, 0.5)
        except Unsupported as error:
            if error.code not in ARCHIVE_CODES:
                raise
            log.error("learning waits for the archive: %s", error)
            await pause(stop, LEASE_MS / 1000)
    try:
        await lease.release()
    except Unavailable:
        log.info("the lease will run out by itself")
    await connection.close()
    return 0


async def _lead(
    settings: Settings, connection: RedisConnection, store: WholeLog, lease: Lease, stop: asyncio.Event
) -> None:
    """Learn while the lease is ours."""
    serving = Serving(store)
    state = LogLearner(store, serving, settings.partitions, RedisSites(connection))
    steps_kept = 0 if settings.archive == "on" else JOURNAL
    publisher = Publisher(connection, lease, current_build().fingerprint, steps_kept)
    await note_build(connection, current_build(), "nbx learner", SystemClock().now_ms())
    (packed,), (version,) = [await store.read([key], TIMEOUT_MS) for key in (MODEL_CHECKPOINT, MODEL_VERSION)]
    if packed is not None:
        state.restore(packed)
    if packed is not None:  # what comes after it is not trimmed: the archive is not needed
        again = await state.redo(RedisJournal(connection))
    else:
        again = await state.redo(WholeJournal(connection, store))
        state.step = max(state.step, int(version or 0))  # no two steps may have one number
    state.weighing.tell(again=True)
    await state.write_receipts()
    log.info("learner leads from step %d (%d steps done again, %d outcomes)", state.step, again, state.learned)
    clock = SystemClock()
    published = min(state.step - again, int(version or 0))  # a checkpoint may be ahead of the last snapshot
    renewed_ms = checkpoint_ms = snapshot_ms = clock.now_ms()
    checkpointed = state.step - again
    while True:
        before = state.learned
        found = 0 if stop.is_set() else await state.take_step()
        if found:
            await publisher.journal(state.step, state.reached)
            await state.write_receipts()
            LEARNED.inc(state.learned - before)
            state.weighing.tell()
        now_ms = clock.now_ms()
        if state.step > published and (stop.is_set() or now_ms - snapshot_ms >= settings.snapshot_interval_ms):
            snapshot = state.snapshot()
            await publisher.snapshot(encode_snapshot(snapshot), state.step, state.weighing.told(state.step))
            SNAPSHOT.set(state.step)
            EXPLORATION.set(snapshot.exploration)
            HALF_LIFE.set(snapshot.half_life)
            for action, changes in zip(snapshot.actions, snapshot.changes, strict=True):
                if changes:
                    CHANGES.labels(action).set(changes)
            published, snapshot_ms = state.step, now_ms
        due = now_ms - checkpoint_ms >= settings.checkpoint_interval_ms
        if state.step > checkpointed and (stop.is_set() or due):
            await publisher.checkpoint(state.checkpoint(), Reached(state.step, state.offsets))
            checkpointed, checkpoint_ms = state.step, now_ms
        if stop.is_set():
            return
        if now_ms - renewed_ms >= LEASE_MS // 3:
            if not await lease.renew():
                raise Overtaken
            renewed_ms = now_ms
        if found < PAGE:
            await pause(stop, IDLE_S)


def _order(entry: LogEntry) -> tuple[int, int, int]:
    ms, _, sequence = entry.entry_id.partition("-")
    return int(ms), int(sequence), entry.partition
