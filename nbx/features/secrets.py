"""Secrets of an installation that is not told its own: made once, kept in Redis, the same for every process."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from nbx.errors import SetupError, Unavailable
from nbx.features.keys import PSEUDONYM_KEY

if TYPE_CHECKING:
    from nbx.features.connection import RedisConnection

KEY_BYTES = 32
"""Least length of a key: it is not to be guessed."""
TIMEOUT_MS = 2_000.0


async def pseudonym_key(connection: RedisConnection, file: Path | None) -> bytes:
    """Return what customers' pseudonyms are made with: the file's content, else a key made at its first use.

    Raises
    ------
    SetupError
        The file cannot be read, or holds too little.
    Unavailable
        Redis has lost the key.
    """
    if file is not None:
        return read_key(file)
    made = secrets.token_bytes(KEY_BYTES)
    await connection.execute("SET", PSEUDONYM_KEY, made, "NX", timeout_ms=TIMEOUT_MS)
    found = await connection.execute("GET", PSEUDONYM_KEY, timeout_ms=TIMEOUT_MS)
    if not isinstance(found, bytes):
        raise Unavailable("the key of pseudonyms is gone from Redis; try again")
    return found


def read_key(file: Path) -> bytes:
    """Return a key from a file, without white space around it; `SetupError` says what is wrong with it."""
    try:
        key = file.read_bytes().strip()
    except OSError as error:
        raise SetupError(f"NBX_PSEUDONYM_KEY_FILE: {file} cannot be read: {error.strerror}") from error
    if len(key) < KEY_BYTES:
        raise SetupError(
            f"NBX_PSEUDONYM_KEY_FILE: {file} holds {len(key)} bytes; a key has {KEY_BYTES} or more: "
            f"openssl rand -hex {KEY_BYTES} > {file}"
        )
    return key
