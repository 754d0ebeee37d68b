"""A store in memory that passes the contract suite, with faults on demand: for simulations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.errors import Unavailable
from nbx.features.keys import partition_keys
from nbx.features.store import VERSION_BYTES, Commit, Committed, LogEntry, Timer, Verdict
from nbx.limits import BUDGET_KEPT_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbx.clock import ManualClock

_LAST_SEQUENCE = 2**64 - 1

EntryId = tuple[int, int]


class FakeStore:
    """`nbx.features.store.Store` in memory; time to live and log ids follow `clock`.

    The three counters are faults to come: each makes that many calls raise `Unavailable`.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.failing_reads = 0
        self.failing_commits_before = 0
        """Commits to fail with nothing applied."""
        self.failing_commits_after = 0
        """Commits to fail although they were applied: the lost reply."""
        self._values: dict[str, tuple[bytes, float]] = {}
        self._timers: dict[str, dict[str, int]] = {}
        self._logs: dict[str, list[tuple[EntryId, bytes]]] = {}

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:  # noqa: ARG002 - never late
        if self.failing_reads:
            self.failing_reads -= 1
            raise Unavailable("injected: read", code="state_unavailable")
        return [self._value(key) for key in keys]

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:  # noqa: ARG002 - never late
        if not commit.state:
            raise ValueError("a commit needs a state")
        for put in commit.puts:
            if put.ttl_ms <= 0:
                raise ValueError(f"put {put.key}: ttl_ms must be positive")
        for spend in commit.spends:
            if spend.amount <= 0:
                raise ValueError(f"spend {spend.key}: amount must be positive")
        if self.failing_commits_before:
            self.failing_commits_before -= 1
            raise Unavailable("injected: commit, not applied", code="state_unavailable")
        committed = self._apply(commit)
        if self.failing_commits_after:
            self.failing_commits_after -= 1
            raise Unavailable("injected: commit, reply lost", code="state_timeout")
        return committed

    def close_spending(self, key: str, until_ms: int) -> int:
        """Close a lease's counter; what it counted."""
        paid = (self._value(key) or b"0").removeprefix(b"c")
        self._values[key] = (b"c" + paid, until_ms + BUDGET_KEPT_MS)
        return int(paid)

    async def due(self, partition: int, now_ms: int, count: int) -> list[Timer]:
        timers = self._timers.get(partition_keys(partition).timers, {})
        due = [Timer(member, due_ms) for member, due_ms in timers.items() if due_ms <= now_ms]
        return sorted(due, key=lambda timer: (timer.due_ms, timer.member.encode()))[: max(count, 0)]

    async def drop_timers(self, partition: int, members: Sequence[str]) -> None:
        timers = self._timers.get(partition_keys(partition).timers, {})
        for member in members:
            timers.pop(member, None)

    async def log_range(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        first, after_first = _bound(start, 0)
        last, before_last = _bound(end, _LAST_SEQUENCE)
        chosen = [
            entry
            for entry in self._log(partition)
            if (first < entry[0] if after_first else first <= entry[0])
            and (entry[0] < last if before_last else entry[0] <= last)
        ]
        return [_entry(partition, entry) for entry in chosen[: max(count, 0)]]

    async def log_tail(self, partition: int, count: int) -> list[LogEntry]:
        return [_entry(partition, entry) for entry in self._log(partition)[::-1][: max(count, 0)]]

    def _apply(self, commit: Commit) -> Committed:
        keys = partition_keys(commit.partition)
        for put in commit.puts:
            existing = self._value(put.key) if put.only_new else None
            if existing is not None:
                return Committed(Verdict.EXISTS, existing)
        expected = commit.expected_version.to_bytes(VERSION_BYTES, "big") if commit.expected_version else b""
        if (self._value(commit.customer_key) or b"")[:VERSION_BYTES] != expected:
            return Committed(Verdict.STALE)
        for spend in commit.spends:
            if self.clock.now_ms() >= spend.until_ms or (self._value(spend.key) or b"").startswith(b"c"):
                return Committed(Verdict.CLOSED)
        version = (commit.expected_version + 1).to_bytes(VERSION_BYTES, "big")
        self._values[commit.customer_key] = (version + commit.state, float("inf"))
        log = self._logs.setdefault(keys.log, [])
        for payload in commit.entries:
            log.append((self._next_id(log), payload))
        for put in commit.puts:
            self._values[put.key] = (put.value, self.clock.now_ms() + put.ttl_ms)
        for key in commit.drop:
            self._values.pop(key, None)
        timers = self._timers.setdefault(keys.timers, {})
        for member in commit.cancel:
            timers.pop(member, None)
        timers.update(commit.arm)
        for spend in commit.spends:
            paid = int(self._value(spend.key) or 0) + spend.amount
            self._values[spend.key] = (b"%d" % paid, spend.until_ms + BUDGET_KEPT_MS)
        return Committed(Verdict.DONE)

    def _value(self, key: str) -> bytes | None:
        value, ends_ms = self._values.get(key, (None, 0.0))
        return value if self.clock.now_ms() < ends_ms else None

    def _log(self, partition: int) -> list[tuple[EntryId, bytes]]:
        return self._logs.get(partition_keys(partition).log, [])

    def _next_id(self, log: list[tuple[EntryId, bytes]]) -> EntryId:
        now_ms = self.clock.now_ms()
        if log and log[-1][0][0] >= now_ms:
            last_ms, sequence = log[-1][0]
            return last_ms, sequence + 1
        return now_ms, 0 if now_ms else 1  # Redis has no id 0-0


def _entry(partition: int, entry: tuple[EntryId, bytes]) -> LogEntry:
    (at_ms, sequence), payload = entry
    return LogEntry(partition, f"{at_ms}-{sequence}", payload)


def _bound(text: str, sequence: int) -> tuple[EntryId, bool]:
    """Read one end of a range: the id, and whether it is excluded."""
    if text == "-":
        return (0, 0), False
    if text == "+":
        return (_LAST_SEQUENCE, _LAST_SEQUENCE), False
    at_ms, _, counted = text.removeprefix("(").partition("-")
    return (int(at_ms), int(counted) if counted else sequence), text.startswith("(")
