"""Results on file, one JSON line each, so that a run resumes and nbx alone can be run again against stored peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks.quality.protocols import VERSION, Result

if TYPE_CHECKING:
    from benchmarks.quality.policy import Peer, Setting
    from benchmarks.quality.task import Stream


class Key(msgspec.Struct, frozen=True):
    """What a result depends on."""

    task: str
    rows: int
    seed: int
    stream: str
    """Fingerprint of the rows."""
    protocol: int
    peer: str
    label: str
    version: str


class _Line(msgspec.Struct):
    key: Key
    result: Result | None
    """None: too slow to finish."""


def key(stream: Stream, fingerprint: str, peer: Peer, setting: Setting) -> Key:
    """Name one run."""
    version = peer.version or ""
    return Key(stream.task, len(stream), stream.seed, fingerprint, VERSION, peer.name, setting.label, version)


class Cache:
    """A file of results; without a path, memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.results: dict[Key, Result | None] = {}
        if path is not None and path.exists():
            whole, _, half = path.read_bytes().rpartition(b"\n")
            for line in whole.splitlines():
                stored = msgspec.json.decode(line, type=_Line)
                self.results[stored.key] = stored.result
            if half:  # a run was killed while it wrote
                path.write_bytes(whole + b"\n" if whole else b"")

    def put(self, key: Key, result: Result | None) -> None:
        """Remember, at once on file."""
        self.results[key] = result
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(_Line(key, result)) + b"\n")
