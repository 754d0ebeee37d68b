"""`nbx log verify` and heads over a service that archives by itself, and over copies of its archive."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
import redis

from nbx.audit.chain import CHAIN, Chain
from nbx.audit.heads import Head, is_genuine
from nbx.cli import main
from nbx.features.keys import ARCHIVE_HEAD, partition_keys
from tests.archives import write_archive
from tests.edge.test_cli import nbx
from tests.service import Running, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that archives every second and keeps nothing twice, with some segments."""
    directory = tmp_path_factory.mktemp("archiving")
    with running(directory, archive_interval_s=1, log_keep_s=0) as service:
        for batch in range(2):
            for number in range(10):
                service.decide_shown(f"verified-{batch}-{number}", "web")
            eventually(partial(_has_more_than, service, batch), 20.0, "a segment")
        eventually(lambda: _rows(service) >= 20, 20.0, "what was decided is archived")
        yield service


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def faults(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = msgspec.json.decode(self.out)["faults"]
        return found


class Verify:
    """`nbx log verify` in this process, with the environment of a service: a start of Python per command saved."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, service: Running, *arguments: str | Path, **variables: str) -> Ended:
        with self._monkeypatch.context() as patch:
            for name, value in {**service.environment, **variables}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["nbx", "log", "verify", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        code = ended.value.code
        assert isinstance(code, int)
        return Ended(code, *self._capsys.readouterr())


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verify:
    return Verify(capsys, monkeypatch)


def _rows(service: Running) -> int:
    return sum(record.rows for record in Chain.open(archive_of(service)).segments.values())


def _has_more_than(service: Running, segments: int) -> bool:
    return len(Chain.open(archive_of(service)).segments) > segments


def archive_of(service: Running) -> Path:
    return service.settings.archive_path


def test_a_running_archive_has_no_fault_and_its_heads_hold(archived: Running, verify: Verify, tmp_path: Path) -> None:
    kept = tmp_path / "heads.jsonl"
    for _ in range(2):
        assert nbx(archived, "log", "heads", "--out", str(kept)).code == 0
    heads = [msgspec.json.decode(line, type=Head) for line in kept.read_bytes().splitlines()]
    assert len(heads) == 2
    assert all(is_genuine(head) and head.n >= 2 for head in heads)
    assert archived.http.get("/v1/audit/heads").json()["public_key"] == heads[0].public_key

    done = verify(archived, "--rows", "--head", str(kept), "--json")
    assert done.code == 0, done.out
    found = msgspec.json.decode(done.out)
    assert (found["faults"], found["segments"] >= 2, found["rows"] >= 20) == ([], True, True)
    done = verify(archived)
    assert done.code == 0
    assert "no fault" in done.out


def test_a_copy_is_verified_by_itself_and_against_heads(archived: Running, verify: Verify, tmp_path: Path) -> None:
    kept, copy = tmp_path / "heads.jsonl", tmp_path / "copy"
    kept.write_bytes(archived.http.get("/v1/audit/heads").content)
    shutil.copytree(archive_of(archived), copy)
    nowhere = {"NBX_REDIS_URL": "redis://127.0.0.1:1", "NBX_DATA_DIR": str(tmp_path / "none")}
    command = ("--dir", str(copy), "--head", str(kept))
    assert verify(archived, *command, **nowhere).code == 0

    chain = Chain.open(copy)
    first = copy / chain.segments[1].file
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second = copy / chain.segments[2].file
    second.rename(second.with_name("moved.parquet"))
    done = verify(archived, *command, "--json", **nowhere)
    assert done.code == 1
    assert {fault["segment"] for fault in done.faults} == {1, 2}

    shutil.rmtree(copy)
    write_archive(copy)
    assert verify(archived, "--dir", str(copy), **nowhere).code == 0
    done = verify(archived, *command, **nowhere)
    assert done.code == 1
    assert "another key" in done.out


def test_wrong_use_is_told_as_such(archived: Running, verify: Verify, tmp_path: Path) -> None:
    (tmp_path / "heads").write_text("no head")
    for arguments in (["--dir", str(tmp_path / "none")], ["--head", str(tmp_path / "heads")], ["--head", "none"]):
        done = verify(archived, *arguments)
        assert done.code == 2, done.out
        assert done.err
    done = verify(archived, NBX_REDIS_URL="redis://127.0.0.1:1")
    assert done.code == 2
    assert "--dir" in done.err
    (tmp_path / "empty").mkdir()
    done = verify(archived, "--dir", str(tmp_path / "empty"))
    assert done.code == 0
    assert "nothing is archived yet" in done.out


def test_rows_lost_between_archive_and_live_log_are_counted(archived: Running, verify: Verify) -> None:
    """Entries that leave the stream before they are archived."""
    client = redis.Redis.from_url(archived.settings.effective_redis_url)
    partition = next(
        number for number in range(archived.settings.partitions) if client.exists(partition_keys(number).log)
    )
    stream = partition_keys(partition).log
    with client.pipeline(transaction=True) as pipe:
        for _ in range(3):
            pipe.xadd(stream, {"e": b"lost"})
        pipe.xtrim(stream, maxlen=0, approximate=False)
        pipe.execute()
    done = verify(archived, "--json")
    assert done.code == 1
    (fault,) = done.faults
    assert (fault["where"], fault["partition"]) == ("live", partition)
    assert fault["what"].startswith("3 rows")


def test_a_chain_cut_at_its_end_is_found_by_what_redis_knows(archived: Running, verify: Verify, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(archive_of(archived), copy)
    newest = max(Chain.open(copy).segments)
    (copy / Chain.open(copy).segments[newest].file).unlink()
    lines = (copy / CHAIN).read_bytes().splitlines(keepends=True)
    (copy / CHAIN).write_bytes(b"".join(lines[:-1]))
    assert verify(archived, "--dir", str(copy)).code == 0, "in itself it is whole"
    client = redis.Redis.from_url(archived.settings.effective_redis_url)
    assert client.get(ARCHIVE_HEAD) is not None
    done = verify(archived, "--json", NBX_ARCHIVE_DIR=str(copy))
    assert done.code == 1
    assert any(fault["where"] == "head" and "was cut" in fault["what"] for fault in done.faults)
