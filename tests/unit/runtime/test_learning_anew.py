"""A model whose log and journal are in the archive is learned anew to the same bits."""

from __future__ import annotations

from pathlib import Path

import msgspec

from nbx.audit.log_ids import JOURNAL
from nbx.audit.whole_log import WholeLog
from nbx.clock import SystemClock
from nbx.decision.serving import Serving
from nbx.features.keys import LEASE_KEEPER, LEASE_LEARNER, MODEL_JOURNAL, partition_keys
from nbx.features.lease import Lease
from nbx.runtime.archiving import Archiver
from nbx.runtime.journal import WholeJournal
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.publishing import Publisher, Reached
from nbx.runtime.sites import RedisSites
from nbx.runtime.trimming import Trimmer
from tests.unit.runtime.test_learner_process import Place, lead, with_place
from tests.worlds import PARTITIONS


def test_it_is_the_same_whatever_was_trimmed(tmp_path: Path) -> None:
    async def check(it: Place) -> None:
        lease, keeper = (Lease(it.connection, name, "t", 60_000) for name in (LEASE_LEARNER, LEASE_KEEPER))
        assert await lease.acquire()
        assert await keeper.acquire()
        publisher = Publisher(it.connection, lease, "this build", 0)
        archiver = Archiver(
            it.connection, it.store, keeper, tmp_path, partitions=PARTITIONS, rows=1_000, clock=SystemClock()
        )
        trimmer = Trimmer(it.connection, partitions=PARTITIONS, keep_s=0)
        first = it.learner()
        for part in range(4):
            await it.live(part * 12, 12)
            await lead(it, first, publisher)
            if part < 3:  # the last step is only in Redis
                await publisher.checkpoint(first.checkpoint(), Reached(first.step, first.offsets))
                await archiver.archive()
                assert (await trimmer.trim(archiver.last, 2**50))[JOURNAL] == 1
        archiver.close()
        left = [await it.connection.execute("XLEN", partition_keys(p).log, timeout_ms=5_000) for p in range(PARTITIONS)]
        assert sum(left) < 40
        assert await it.connection.execute("XLEN", MODEL_JOURNAL, timeout_ms=5_000) == 1
        log = WholeLog(it.store, tmp_path)
        journal = WholeJournal(it.connection, log)
        steps = [step async for step in journal.steps(0, 100)]
        assert [step.step for step in steps] == [1, 2, 3, 4]
        assert {step.build for step in steps} == {"this build"}
        assert [step.step async for step in journal.steps(1, 3)] == [2, 3]
        assert msgspec.msgpack.encode(dict(steps[-1].offsets)) == msgspec.msgpack.encode(dict(first.reached))
        again = LogLearner(log, Serving(it.store), PARTITIONS, RedisSites(it.connection))
        assert await again.redo(journal) == 4
        assert again.checkpoint() == first.checkpoint()

    with_place(check)
