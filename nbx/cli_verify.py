"""`nbx log verify` and `nbx log heads`: whether the archive is what was written, and what others keep to tell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbx.cli_options import AsJson, Url, client_of, err, out, read_settings, show
from nbx.errors import SetupError


def add_verify(app: typer.Typer) -> None:
    """Add the commands to those on the log."""
    app.command("verify")(log_verify)
    app.command("heads")(log_heads)


def log_verify(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="An archive or a copy of one, by itself; default: this machine's.")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Go through every row, whatever the sha256 says.")] = False,
    head: Annotated[
        list[Path] | None, typer.Option("--head", help="File of heads that somebody kept; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find what is edited, missing, doubled or moved in the archive; exit code 1 when anything is."""
    from nbx.audit.heads import read_heads
    from nbx.runtime.verifying import verify_copy, verify_here

    heads = [each for file in head or () for each in read_heads(file)]
    if directory is not None:
        found = verify_copy(directory, rows=rows, heads=heads, console=err)
    else:
        settings = read_settings()
        directory = settings.archive_path
        found = verify_here(settings, rows=rows, heads=heads, console=err)
    if as_json:
        show(found)
        raise typer.Exit(1 if found.faults else 0)
    for fault in found.faults:
        out.print(str(fault), markup=False)
    what = f"{found.segments:,} segments, {found.rows:,} rows" if found.segments else "nothing is archived yet"
    end = f"; head {found.head}" if found.head else ""
    count = len(found.faults)
    verdict = f"{count} fault{'' if count == 1 else 's'}" if count else "no fault"
    out.print(f"{directory}: {what}, {verdict} ({found.seconds:.1f} s){end}", markup=False)
    raise typer.Exit(1 if count else 0)


def log_heads(
    target: Annotated[Path | None, typer.Option("--out", help="File to add the head to, as a line.")] = None,
    url: Url = "",
) -> None:
    """Print the archive's newest head, signed, for somebody else to keep."""
    import msgspec

    from nbx.audit.heads import Head

    head = msgspec.convert(client_of(url).call("GET", "/v1/audit/heads"), Head)
    line = msgspec.json.encode(head)
    if target is None:
        out.print(line.decode(), markup=False)
        return
    try:
        with target.open("ab") as file:
            file.write(line + b"\n")
    except OSError as error:
        raise SetupError(f"{target} cannot be written: {error}") from error
    err.print(f"{target}: head of {head.n} segments, {head.hash[:12]}, is added", markup=False)
