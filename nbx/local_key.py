"""Where a service on this machine leaves its key for the command line: `<data_dir>/cli.key`, its owner's only."""

from __future__ import annotations

import os
from pathlib import Path

from nbx.errors import SetupError
from nbx.settings import Settings

KEY_VARIABLE = "NBX_API_KEY"
KEY_FILE = "cli.key"


def stored_key(settings: Settings) -> str:
    """Return the key to use: of the variable, else of the file in the data directory, else empty."""
    if KEY_VARIABLE in os.environ:
        return os.environ[KEY_VARIABLE]
    path = settings.data_dir / KEY_FILE
    try:
        return path.read_text().strip() if path.is_file() else ""
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}; set {KEY_VARIABLE}") from error


def store_key(settings: Settings, key: str) -> Path:
    """Leave a key for the command line on this machine."""
    path = settings.data_dir / KEY_FILE
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{key}\n")
    return path
