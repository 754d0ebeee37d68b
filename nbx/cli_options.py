"""What every command shares: where it prints, the options that read alike, settings, and a client of the service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from nbx.errors import SetupError
from nbx.settings import Settings, load_settings

if TYPE_CHECKING:
    from nbx.client import Client

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str, typer.Option("--url", help="URL of the service; default: this machine's, from the settings.")]


def read_settings() -> Settings:
    """Load the settings of this environment."""
    return load_settings(os.environ)


def client_of(url: str, timeout_s: float = 30.0) -> Client:
    """Return a client of a service; an empty URL is this machine's."""
    from nbx.client import Client, Retry
    from nbx.local_key import stored_key

    settings = read_settings()
    once = Retry(attempts=1)  # whoever typed the command sees at once what is wrong
    # commands make one call or two: nothing is left open
    return Client(
        url or settings.url, stored_key(settings), settings.tls_cert, deadline_s=timeout_s, retry=once, keep_alive=False
    )


def show(value: Any) -> None:
    """Print something as JSON."""
    out.print_json(msgspec.json.encode(value).decode())


def read_text(file: Path) -> str:
    """Return a file's text as it is, line ends too; `SetupError` when it cannot be read."""
    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} cannot be read: {error}") from error
