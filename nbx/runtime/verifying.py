"""`nbx log verify` on this machine: the settings' archive against what Redis knows of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nbx.audit.heads import Head, public_hex
from nbx.audit.log_ids import ADMIN
from nbx.audit.verify import ArchiveHead, Kept, LiveLog, Verification, verify
from nbx.errors import SetupError
from nbx.features.keys import ADMIN_LOG, ARCHIVE_HEAD, ARCHIVE_SIGNER, partition_keys
from nbx.settings import Settings

PATIENCE_S = 30.0
"""How long a file may have no record while a keeper may be writing: a large segment takes some seconds."""
WORKERS = 2


def verify_here(settings: Settings, *, rows: bool, heads: Sequence[Head], console: Console) -> Verification:
    """Verify the settings' archive, with what Redis knows of it.

    Raises
    ------
    SetupError
        Redis does not answer, or the archive cannot be read.
    """
    kept = asyncio.run(_ask(settings))
    return _run(settings.archive_path, rows=rows, heads=heads, kept=kept, console=console)


def verify_copy(directory: Path, *, rows: bool, heads: Sequence[Head], console: Console) -> Verification:
    """Verify an archive, or a copy of one, by itself.

    Raises
    ------
    SetupError
        There is no such directory, or it cannot be read.
    """
    if not directory.is_dir():
        raise SetupError(f"{directory} is no directory")
    return _run(directory, rows=rows, heads=heads, kept=None, console=console)


async def known_to_redis(redis: Redis, partitions: int) -> Kept:
    """Ask Redis for the archive's newest record, the installation's key and where the live streams are.

    The learner's journal is left out: the learner itself keeps only the end of it.
    """
    found: list[Any] = await redis.mget(ARCHIVE_HEAD, ARCHIVE_SIGNER)
    head, signer = found
    streams = {ADMIN: ADMIN_LOG} | {number: partition_keys(number).log for number in range(partitions)}
    return Kept(
        head=msgspec.json.decode(head, type=ArchiveHead) if head else None,
        public_key=public_hex(Ed25519PrivateKey.from_private_bytes(signer)) if signer else "",
        live={partition: await _live(redis, stream) for partition, stream in streams.items()},
    )


async def _live(redis: Redis, stream: str) -> LiveLog:
    try:
        found: dict[str, Any] = await redis.xinfo_stream(stream)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return LiveLog(first="", newest="0-0", length=0, added=0)
    first = found["first-entry"]
    return LiveLog(
        first=first[0].decode() if first else "",
        newest=found["last-generated-id"].decode(),
        length=found["length"],
        added=found["entries-added"],
    )


async def _ask(settings: Settings) -> Kept:
    redis = Redis.from_url(settings.effective_redis_url)
    try:
        return await known_to_redis(redis, settings.partitions)
    except (RedisError, OSError) as error:
        raise SetupError(
            f"Redis at {settings.redis_label}: {error}; is `nbx up` running? "
            f"`--dir {settings.archive_path}` verifies the archive by itself"
        ) from error
    finally:
        await redis.aclose()


def _run(directory: Path, *, rows: bool, heads: Sequence[Head], kept: Kept | None, console: Console) -> Verification:
    bar = Progress(
        TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeElapsedColumn(),
        console=console, transient=True,
    )  # fmt: skip
    try:
        with bar:
            task = bar.add_task("", total=None)
            return verify(
                directory,
                rows=rows,
                heads=heads,
                kept=kept,
                workers=min(WORKERS, os.cpu_count() or 1),
                patience_s=PATIENCE_S if kept is not None else 0.0,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except OSError as error:
        raise SetupError(f"the archive {directory} cannot be read: {error}") from error
