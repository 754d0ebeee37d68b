"""Decisions made again on a running service: by the command line, over HTTP, in bulk; what is refused, in words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from nbx.api import replay_routes
from nbx.build import Build, current_build
from nbx.cli import app
from nbx.errors import Invalid, NbxError, SetupError, TooLarge, Unknown
from nbx.features.keys import build_key
from tests.edge.test_cli import nbx
from tests.service import Running

if TYPE_CHECKING:
    from collections.abc import Iterator

UNKNOWN = "000fffffffffff000000000000"


@pytest.fixture(scope="module")
def answered(service: Running) -> Iterator[str]:
    """A decision on a snapshot that has learned something of others."""
    for number in range(6):
        _, reply = service.decide_shown(f"replay-{number}")
        for kind in ("seen", "accepted" if number % 2 else "declined"):
            decision_id = reply["decision_id"]
            service.record({"event_id": f"{decision_id}-{kind}", "type": kind, "decision_id": decision_id, "slot": 0})
    service.settled_checkpoint()
    while True:
        decision_id = service.decide("replay-last", slots=2)["decision_id"]
        if service.http.get(f"/v1/decisions/{decision_id}").json()["record"]["snapshot"]:
            yield decision_id
            return


def test_one_decision_deeply_by_command_line_and_over_http(service: Running, answered: str) -> None:
    told = nbx(service, "decisions", "replay", answered, "--deep")
    assert (told.code, told.out) == (0, f"{answered}: same\n"), told.err
    same = {"decision_id": answered, "same": True, "differences": [], "deep": True, "notes": []}
    assert service.http.get(f"/v1/decisions/{answered}/replay?deep=true").json() == same


def test_one_deep_replay_at_a_time_in_a_worker(service: Running, answered: str) -> None:
    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, headers=service.headers(), timeout=120.0) as client:
            path = f"/v1/decisions/{answered}/replay?deep=true"
            return list(await asyncio.gather(*(client.get(path) for _ in range(service.settings.workers + 2))))

    answers = asyncio.run(ask())
    good = [answer.json() for answer in answers if answer.status_code == 200]
    busy = [answer.json() for answer in answers if answer.status_code == 503]
    assert len(good) + len(busy) == len(answers)
    assert 1 <= len(good) <= service.settings.workers
    assert all(each["same"] for each in good)
    assert {each["code"] for each in busy} == {"replay_busy"}
    assert "nbx decisions replay ID --deep" in busy[0]["detail"]


def test_a_sample_of_a_day_from_records_and_deeply(service: Running, answered: str) -> None:
    told = nbx(service, "decisions", "replay", "--all", "--deep", "--sample", "20", "--seed", "4", "--json")
    report = told.json()
    assert (told.code, report["deep"]) == (0, True), told.err
    assert report["found"] >= 7
    assert report["replayed"] == report["same"] == min(20, report["found"])
    assert (report["different"], report["examples"], report["notes"]) == ({}, [], {})
    words = nbx(service, "decisions", "replay", "--all", "--sample", "5")
    assert words.code == 0
    assert "5 decisions made again from their records, a sample of " in words.out
    assert ": 5 same" in words.out
    assert answered


def test_builds_are_on_record_once_and_in_the_admin_trail(service: Running) -> None:
    build = current_build()
    stored = service.redis.get(build_key(build.fingerprint))
    assert msgspec.json.decode(stored, type=Build) == build
    changes = service.http.get("/v1/audit/changes?count=1000").json()
    started = [each for each in changes if each["what"] == "build_started"]
    assert [each["details"]["build"] for each in started] == [build.fingerprint], "every process is of the same build"
    assert started[0]["details"]["numpy"] == build.libraries["numpy"]
    assert started[0]["who"] in ("nbx api", "nbx learner")
    steps = service.redis.xrange("nbx:model:journal")
    assert {fields[b"b"].decode() for _, fields in steps} <= {build.fingerprint}


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ((UNKNOWN, "--deep"), Unknown, "is not in the log"),
        (("nonsense", "--deep"), Invalid, "not an id that this service gave out"),
        ((), SetupError, "say which decision, or --all"),
        ((UNKNOWN, "--all"), SetupError, "say which decision, or --all"),
        (("--all", "--since", "yesterday"), Invalid, "since must be epoch milliseconds"),
        (("--all", "--since", "1h", "--until", "2h"), Invalid, "is not before until"),
    ],
)
def test_what_cannot_be_replayed_is_said_in_words(
    service: Running, arguments: tuple[str, ...], kind: type[NbxError], words: str
) -> None:
    done = CliRunner().invoke(app, ["decisions", "replay", *arguments], env=service.environment)
    assert isinstance(done.exception, kind)
    assert words in str(done.exception)


def test_a_log_too_long_for_http_is_refused_with_the_way_out(
    service: Running, answered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(replay_routes, "REPLAY_ENTRIES", 2)
    with pytest.raises(TooLarge, match=r"more than 2 log entries.*nbx decisions replay ID --deep") as told:
        asyncio.run(replay_routes._deep(answered))
    assert told.value.code == "replay_too_long"
    monkeypatch.setattr(replay_routes, "REPLAY_S", 0.001)
    with pytest.raises(TooLarge, match="took longer than"):
        asyncio.run(replay_routes._deep(answered))
    assert service.http.get(f"/v1/decisions/{UNKNOWN}/replay?deep=true").json()["code"] == "decision_unknown"
    refused = service.http.get(f"/v1/decisions/{answered}/replay?deep=perhaps")
    assert refused.status_code == 400
