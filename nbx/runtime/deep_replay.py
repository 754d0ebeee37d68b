"""Deep replay: decisions made again from the log alone, model and state rebuilt up to each, and compared bit for bit.

The log is read once, from its beginning. The learner's journal says which entries each step took in, so a learner of
its own, whose sites are in memory, does the steps again and arrives at each snapshot that a wanted decision names;
customers of wanted decisions are folded on the way. A snapshot is kept from its step until the last wanted decision
that names it was made again, which is moments later in the log: a day of decisions needs a few at a time. Nothing is
written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import structs

from nbx.audit.journal import Journal, Step
from nbx.audit.rebuilding import Rebuilder
from nbx.audit.verdicts import Grounds, altered_by, judge, notes
from nbx.bandits.snapshot import BoundModel, Snapshot, bind, decode_snapshot, encode
from nbx.build import Build
from nbx.catalog.plan import Plan
from nbx.decision.recompute import BARE, decide_again, degrade_again, differences
from nbx.decision.replayed import Difference, Replay
from nbx.decision.serving import Serving
from nbx.errors import NotReady, TooLarge
from nbx.experience.entries import DecisionEntry, Entry, decode_entry
from nbx.experience.heads import head_of, is_decision
from nbx.features.builds import noted_builds
from nbx.features.state import CustomerState
from nbx.features.store import LogEntry, Store
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.sites import MemorySites

PAGE = 4096
_OF_THE_MODEL = 0
"""No release has this number: a release that an outcome names is gone."""


class Wanted(NamedTuple):
    """A decision to be made again, and where in the log it stands."""

    decision_id: str
    customer_id: str
    partition: int
    entry_id: str
    snapshot: int


class _Kept(NamedTuple):
    """A snapshot that is still asked for."""

    snapshot: Snapshot
    builds: frozenset[str]
    """Of the learners whose steps are in it."""


class DeepReplay:
    """Makes decisions again.

    Parameters
    ----------
    store
        Only read.
    journal
        From its first step on, as far as there is any.
    partitions
        Of the store.
    build
        Runs here.
    salt
        Of the installation, for degraded decisions; others have it on record.
    most
        Log entries to read at most; 0: all there are.
    progress
        Told how many log entries were read since the last time.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        partitions: int,
        *,
        build: Build,
        salt: str,
        most: int = 0,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._serving = Serving(store)
        self._sites = MemorySites()
        self.learner = LogLearner(store, self._serving, partitions, self._sites, lambda _: None)
        self._build = build
        self._salt = salt
        self._most = most
        self._progress = progress
        self.entries = 0
        """Log entries read."""
        self._plans: dict[int, Plan | None] = {}
        self._changed: dict[int, str] = {}
        """Release → how it is not what it was."""
        self._agreed: set[int] = set()
        """Releases that are what some record says: one that says otherwise is odd, and not the release."""
        self._builds: dict[str, Build | None] = {}
        self._learned_by: set[str] = set()
        self._kept: dict[int, _Kept] = {}
        self._bound: dict[tuple[int, int], BoundModel] = {}
        self._due: Counter[int] = Counter()
        """Snapshot → wanted decisions to come that name it."""
        self._wanted: dict[str, Wanted] = {}
        self._seen_builds: dict[str, set[str]] = {}
        """Customer → builds of its decisions so far."""
        self._lost: set[str] = set()
        """Customers of whom not all was folded, as a release is gone."""
        self._no_model = ""
        """Why the model cannot be had from some step on."""
        self._rebuilder = Rebuilder((), None, None, self._plan)

    async def run(self, wanted: Sequence[Wanted]) -> AsyncIterator[Replay]:
        """Yield the replay of each wanted decision, in the order of the log.

        Raises
        ------
        TooLarge
            More log entries than allowed would have to be read; those yielded stand.
        """
        self._wanted = {each.decision_id: each for each in wanted}
        self._due = Counter(each.snapshot for each in wanted)
        self._rebuilder = Rebuilder({each.customer_id for each in wanted}, None, None, self._plan)
        self._customers = {each.customer_id.encode() for each in wanted}
        needed = max(self._due, default=0)
        async for step in self._journal.steps(0, needed):
            entries = await self._read_step(step)
            if entries is None:
                break
            async for replayed in self._take(entries):
                yield replayed
            if not await self._learn(step, entries):
                break
        if self.learner.step < needed and not self._no_model:
            self._no_model = f"the journal ends at step {self.learner.step}"
        ends: dict[int, str] = {}
        for each in wanted:
            ends[each.partition] = max(each.entry_id, ends.get(each.partition, "0-0"), key=_order)
        for partition, end in sorted(ends.items()):
            start = f"({self.learner.offsets[partition]}" if partition in self.learner.offsets else "-"
            while page := await self._store.log_range(partition, start, end, PAGE):
                async for replayed in self._take(page):
                    yield replayed
                start = f"({page[-1].entry_id}"

    # The model

    async def _read_step(self, step: Step) -> list[LogEntry] | None:
        """Return what a step took in; None when that is not all there any more."""
        if step.step != self.learner.step + 1:
            before = f"ends at step {self.learner.step}" if self.learner.step else f"begins at step {step.step}"
            self._no_model = f"the journal {before}: what was learned beside it cannot be learned again"
            return None
        entries = await self.learner.read(step.offsets)
        last = {entry.partition: entry.entry_id for entry in entries}
        for partition, offset in step.offsets.items():
            if last.get(partition) != offset:
                self._no_model = (
                    f"step {step.step} of the learner took in log entries of partition {partition} up to {offset}, and "
                    "that one is not in the log any more"
                )
                return None
        return entries

    async def _learn(self, step: Step, entries: list[LogEntry]) -> bool:
        if entries:
            self._sites.now_ms = max(self._sites.now_ms, _order(entries[-1].entry_id)[0])
        try:
            await self.learner.learn(entries)
        except (NotReady, msgspec.DecodeError) as error:
            self._no_model = self._changed[_OF_THE_MODEL] = f"step {step.step} cannot be learned again: {error}"
            return False
        if step.build:
            self._learned_by.add(step.build)
        if self._due[self.learner.step]:
            snapshot = decode_snapshot(encode(self.learner.snapshot()))  # as workers read it
            self._kept[self.learner.step] = _Kept(snapshot, frozenset(self._learned_by))
        return True

    def _model(self, entry: DecisionEntry, plan: Plan) -> BoundModel | None:
        """Return the model of a decision; None when it cannot be had."""
        kept = self._kept.get(entry.snapshot)
        if kept is None and entry.snapshot:
            return None
        key = entry.snapshot, plan.release
        if key not in self._bound:
            snapshot = kept.snapshot if kept is not None else None
            self._bound[key] = bind(snapshot, plan.layout.columns, plan.action_names, plan.action_groups)
        return self._bound[key]

    def _done_with(self, snapshot: int) -> None:
        self._due[snapshot] -= 1
        if not self._due[snapshot]:
            self._kept.pop(snapshot, None)
            for key in [key for key in self._bound if key[0] == snapshot]:
                del self._bound[key]

    # Customers

    async def _take(self, entries: list[LogEntry]) -> AsyncIterator[Replay]:
        self.entries += len(entries)
        self._progress(len(entries))
        if self._most and self.entries > self._most:
            raise TooLarge(
                f"more than {self._most} log entries would have to be read again; "
                "`nbx decisions replay ID --deep` on the command line reads as many as there are",
                field="deep",
                code="replay_too_long",
            )
        for row in entries:
            head = head_of(row.payload)
            mine = head.customer in self._customers
            unseen = head.release not in self._plans and is_decision(row.payload)
            if not mine and not unseen:
                continue
            try:
                entry = decode_entry(row.payload)
            except msgspec.DecodeError:
                continue
            await self._know_release(entry)
            if not mine:
                continue
            if isinstance(entry, DecisionEntry):
                self._seen_builds.setdefault(entry.customer_id, set()).update({entry.build} - {""})
                if entry.decision_id in self._wanted:
                    yield await self._replay(entry)
                    self._done_with(self._wanted.pop(entry.decision_id).snapshot)
            if self._plans[entry.release] is None:
                self._lost.add(entry.customer_id)
            else:
                self._rebuilder.fold(entry)

    async def _know_release(self, entry: Entry) -> None:
        if entry.release not in self._plans:
            try:
                self._plans[entry.release] = await self._serving.plan_of(entry.release)
            except (NotReady, msgspec.DecodeError) as error:
                self._plans[entry.release] = None
                self._changed[entry.release] = f"release {entry.release} cannot be read: {error}"
        plan = self._plans[entry.release]
        if isinstance(entry, DecisionEntry) and plan is not None:
            digest = entry.release_digest
            if digest == plan.digest:
                self._agreed.add(entry.release)
                self._changed.pop(entry.release, None)
            elif digest and entry.release not in self._agreed:
                self._changed[entry.release] = f"release {entry.release} is {plan.digest} now, it was {digest}"

    def _plan(self, release: int) -> Plan:
        plan = self._plans[release]
        assert plan is not None, "what was made under a release that is gone is not folded"
        return plan

    # The decision

    async def _replay(self, entry: DecisionEntry) -> Replay:
        kept = self._kept.get(entry.snapshot)
        computed_by = {entry.build, *self._seen_builds[entry.customer_id], *(kept.builds if kept else ())}
        self._builds |= await noted_builds(self._store, computed_by - self._builds.keys() - {""})
        least, most = self._rebuilder.versions(entry.customer_id)
        found = list(self._compared(entry))
        missing = []
        if any(each.what == "model" for each in found) and _OF_THE_MODEL not in self._changed:
            missing.append(self._without_model(entry))
        lost = entry.customer_id in self._lost or self._plans[entry.release] is None
        if not least <= entry.state_version <= most and not lost:
            if found and entry.state_version > most:
                missing.append(
                    f"{entry.state_version} commits lay behind the customer's state, and the log holds at most {most}: "
                    "it begins too late, or entries were taken out"
                )
            between = str(least) if least == most else f"{least} to {most}"
            found.append(Difference("state_version", str(entry.state_version), between))
        if not found:
            grounds = self._grounds(computed_by, "")
            return Replay(entry.decision_id, same=True, differences=(), deep=True, notes=notes(grounds))
        grounds = self._grounds(computed_by, "; ".join(missing))
        verdict, why = judge(grounds, altered_by(entry, found))
        told = tuple([structs.replace(each, verdict=verdict, why=why) for each in found])
        return Replay(entry.decision_id, same=False, differences=told, deep=True, notes=notes(grounds))

    def _compared(self, entry: DecisionEntry) -> list[Difference]:
        plan = self._plans[entry.release]
        if plan is None:
            return [Difference("release", entry.release_digest or str(entry.release), "cannot be read")]
        found = []
        if entry.release_digest and entry.release_digest != plan.digest:
            found.append(Difference("release", entry.release_digest, plan.digest))
        if entry.request.placement not in plan.placements:
            return [*found, Difference("request.placement", entry.request.placement, "not in the release")]
        state = self._rebuilder.state_of(entry.customer_id)
        try:
            return found + self._made_again(entry, plan, state)
        except Exception as error:  # noqa: BLE001 - a record or release that was changed may ask for anything
            return [*found, Difference("decide", "a decision", f"{type(error).__name__}: {error}")]

    def _made_again(self, entry: DecisionEntry, plan: Plan, state: CustomerState) -> list[Difference]:
        if entry.degraded:
            return differences(entry, degrade_again(entry, plan, self._salt), plan)
        model = self._model(entry, plan)
        if model is not None:
            return differences(entry, decide_again(entry, plan, model, state), plan)
        none = bind(None, plan.layout.columns, plan.action_names, plan.action_groups)
        bare = differences(entry, decide_again(entry, plan, none, state), plan, only=BARE)
        return [Difference("model", f"snapshot {entry.snapshot}", "cannot be rebuilt"), *bare]

    def _without_model(self, entry: DecisionEntry) -> str:
        if self._no_model:
            return self._no_model
        return (
            f"snapshot {entry.snapshot} lies after the decision in the journal that is there: that was begun anew "
            "since, or the record names another snapshot than it was made with"
        )

    def _grounds(self, computed_by: set[str], missing: str) -> Grounds:
        return Grounds(
            build=self._build,
            builds=self._builds,
            computed_by=frozenset(computed_by),
            releases=tuple([words for _, words in sorted(self._changed.items())]),
            missing=missing,
        )


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence)
