"""A running service whose log is archived every second and trimmed at once: everything that reads the log goes on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from nbx.audit.chain import Chain, file_hash
from nbx.audit.log_ids import ADMIN, JOURNAL
from nbx.audit.segments import read_entries
from nbx.audit.whole_log import ARCHIVE_CODES
from nbx.experience.entries import Entry, EraseEntry, decode_entry
from nbx.features.keys import MODEL_JOURNAL, partition_keys
from tests.edge.test_cli import nbx
from tests.service import Running, decisions_in, eventually, evidence_in_log, evidence_learned, outcomes_of, running

if TYPE_CHECKING:
    from collections.abc import Iterator

WITHIN_S = 60.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("archive"), archive_interval_s=1, log_keep_s=0, erased_keep_s=1, partitions=4
    ) as started:
        yield started


def answered(service: Running, stem: str, kind: str) -> tuple[str, str]:
    """Let new customers come until one is shown something, which is answered; returns customer and decision."""
    customer, reply = service.decide_shown(stem)
    event = {"event_id": f"{customer}-{kind}", "type": kind, "decision_id": reply["decision_id"]}
    assert service.record(event)[0]["outcome"] == kind
    return customer, reply["decision_id"]


def streams(service: Running) -> int:
    """Count what is left in the streams."""
    return sum(int(service.redis.xlen(partition_keys(p).log)) for p in range(service.settings.partitions))


def wait_until_trimmed(service: Running) -> None:
    eventually(lambda: streams(service) == 0, WITHIN_S, "everything is archived and trimmed")


def archived(service: Running) -> list[Entry]:
    """Decode the archive, partition by partition; every file must be the one that the chain names."""
    directory = service.settings.archive_path
    chain = Chain.open(directory)
    rows = []
    for record in chain.segments.values():
        assert file_hash(directory / record.file) == record.sha256
        rows += [row for row in read_entries(directory / record.file) if row.payload]
    assert len({(row.partition, row.entry_id) for row in rows}) == len(rows)
    return [decode_entry(row.payload) for row in rows if row.partition not in (ADMIN, JOURNAL)]


def read(service: Running, path: str, **query: Any) -> Any:
    answer = service.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def gauge(service: Running, name: str) -> float:
    lines = service.http.get("/metrics").text.splitlines()
    return max((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), default=-1.0)


def check_model(service: Running) -> None:
    """The model holds what archive and log hold, without the lives that were ended."""
    kept: dict[str, list[Entry]] = {}
    for entry in archived(service):
        if isinstance(entry, EraseEntry):
            kept.pop(entry.customer_id, None)
        else:
            kept.setdefault(entry.customer_id, []).append(entry)
    expected = evidence_in_log(entry for entries in kept.values() for entry in entries)
    checkpoint = service.checkpoint()
    assert checkpoint is not None
    learned = {action: count for action, count in evidence_learned(checkpoint).items() if count > 1e-9}
    assert learned == pytest.approx(expected, abs=1e-9)


@pytest.fixture(scope="module")
def lives(service: Running) -> list[tuple[str, str]]:
    """Customers and decisions of which nothing is in the streams any more."""
    found = [
        answered(service, f"{kind}-{number}", kind)
        for number in range(4)
        for kind in ("accepted", "declined", "dismissed")
    ]
    wait_until_trimmed(service)
    return found


def test_decisions_of_before_are_shown_explained_and_replayed(service: Running, lives: list[tuple[str, str]]) -> None:
    for customer, decision_id in lives[:3]:
        shown = read(service, f"/v1/decisions/{decision_id}")
        assert shown["record"]["customer_id"] == customer
        assert read(service, f"/v1/decisions/{decision_id}/explanation")
        replayed = read(service, f"/v1/decisions/{decision_id}/replay")
        assert replayed["same"] is True, replayed
    assert {entry.decision_id for entry in decisions_in(archived(service))} >= {each for _, each in lives}


def test_reports_and_timelines_reach_back(service: Running, lives: list[tuple[str, str]]) -> None:
    found = archived(service)
    report = read(service, "/v1/reports/experience")
    assert report["decisions"] == len(decisions_in(found))
    assert sum(each["count"] for each in report["sums"]) == len(outcomes_of(found)) >= len(lives)
    assert read(service, "/v1/reports/learning")
    assert read(service, "/v1/reports/journeys")
    assert read(service, "/v1/reports/policy", release=1)
    customer, decision_id = lives[0]
    timeline = read(service, f"/v1/customers/{customer}")["timeline"]
    assert [each["decision_id"] for each in timeline if each["what"] == "decision"] == [decision_id]


@pytest.mark.nightly
def test_the_log_is_exported_from_the_archive(service: Running, lives: list[tuple[str, str]], tmp_path: Any) -> None:
    done = nbx(service, "log", "export", str(tmp_path / "log.npz"), "--young", "--release", "1", "--json")
    assert done.code == 0, done.err
    assert done.json()["rows"] >= len(lives)


def test_a_customer_of_the_archive_is_erased_and_unlearned(service: Running, lives: list[tuple[str, str]]) -> None:
    customer, _ = lives[0]
    receipt = service.http.delete(f"/v1/customers/{customer}").json()
    assert receipt["taught"] == 1

    def done() -> Any:
        told = service.http.get(f"/v1/erasures/{receipt['erasure_id']}").json()
        return told if told["status"] == "done" else None

    told = eventually(done, WITHIN_S, "the erasure is done")
    assert (told["response"], told["beyond"]) == (1, 0)
    wait_until_trimmed(service)
    check_model(service)


def test_a_killed_learner_goes_on_behind_the_trimmed_log(service: Running, lives: list[tuple[str, str]]) -> None:
    before = service.pids()["learner"]
    answered(service, "kill", "accepted")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: service.pids()["learner"] != before, WITHIN_S, "the learner is started again")
    answered(service, "killed", "declined")
    wait_until_trimmed(service)
    check_model(service)
    steps = [int(entry_id.split(b"-")[1]) for entry_id, _ in service.redis.xrange(MODEL_JOURNAL)]
    assert len(steps) < 5
    assert lives


def test_an_archive_that_is_gone_is_told_and_caught_up_with(service: Running, lives: list[tuple[str, str]]) -> None:
    directory = service.settings.archive_path
    wait_until_trimmed(service)
    rows = len(archived(service))
    away = directory.with_name("away")
    directory.rename(away)
    customers = [answered(service, f"meanwhile-{number}", "accepted")[0] for number in range(5)]
    eventually(lambda: gauge(service, "nbx_archive_failing") == 1, WITHIN_S, "it is told that the archive fails")
    eventually(lambda: gauge(service, "nbx_archive_behind_rows") >= 10, WITHIN_S, "and how much waits")
    held = streams(service)
    assert held >= 10
    refused = service.http.get(f"/v1/decisions/{lives[1][1]}")
    assert refused.status_code == 422
    assert refused.json()["code"] in ARCHIVE_CODES
    doctor = nbx(service, "doctor")
    assert "NBX_ARCHIVE_DIR" in doctor.out, doctor.out
    assert service.decide("somebody")["degraded"] == []
    away.rename(directory)
    wait_until_trimmed(service)
    eventually(lambda: gauge(service, "nbx_archive_failing") == 0, WITHIN_S, "it works again")
    entries = archived(service)
    assert len(entries) >= rows + held
    assert {entry.customer_id for entry in entries} >= set(customers)
    check_model(service)
    log = service.child_log("keeper")
    assert log.count("WARNING nbx: the archive cannot be written, nothing is trimmed meanwhile") == 1
    assert "Traceback" not in log


def test_what_is_archived_of_trail_and_journal(service: Running, lives: list[tuple[str, str]]) -> None:
    directory = service.settings.archive_path
    rows = [row for record in Chain.open(directory).segments.values() for row in read_entries(directory / record.file)]
    published = [msgspec.json.decode(row.payload)["what"] for row in rows if row.partition == ADMIN]
    assert "published" in published
    steps = [int(row.entry_id.split("-")[1]) for row in rows if row.partition == JOURNAL]
    assert steps == list(range(1, len(steps) + 1))
    checkpoint = service.checkpoint()
    assert checkpoint is not None
    assert len(steps) >= checkpoint.step - 4
    assert lives
