"""`nbx customer erase|erasure|export`: what is kept about a customer, and its end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from nbx.cli_options import AsJson, Url, client_of, err, out, read_settings, show
from nbx.errors import SetupError, Unavailable
from nbx.hashing import pseudonym

WAIT_S = 2.0
"""Between two looks at an erasure that is waited for."""
EXPORT_S = 600.0
"""How long to wait for an export: the whole log of a customer's partitions is read."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to those about customers."""
    app.command("erase")(customer_erase)
    app.command("erasure")(customer_erasure)
    app.command("export")(customer_export)
    app.command("pseudonym")(customer_pseudonym)


def customer_erase(
    customer_id: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing names the customer any more.")] = False,
    within: Annotated[float, typer.Option(help="Most seconds to wait.")] = 86_400.0,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Erase a customer: from state at once, from the models at the next step, then from log and archive."""
    if not yes:
        typer.confirm(f"Erase everything that is known about {customer_id}, for good?", abort=True, err=True)
    client = client_of(url)
    receipt = client.call("DELETE", f"/v1/customers/{quote(customer_id, safe='')}")
    deadline = time.monotonic() + within
    while wait and receipt["status"] != "done":
        if time.monotonic() > deadline:
            raise Unavailable(f"erasure {receipt['erasure_id']} is {receipt['status']} after {within:g} s: ask again")
        time.sleep(WAIT_S)
        receipt = client.call("GET", f"/v1/erasures/{receipt['erasure_id']}")
    _receipt(receipt, as_json)


def customer_erasure(erasure_id: str, as_json: AsJson = False, url: Url = "") -> None:
    """Show the receipt of an erasure: what was removed, what the models forgot, and what is left where."""
    _receipt(client_of(url).call("GET", f"/v1/erasures/{quote(erasure_id, safe='')}"), as_json)


def customer_export(
    customer_id: str,
    file: Annotated[Path | None, typer.Option("--out", help="Write it there instead of printing it.")] = None,
    url: Url = "",
) -> None:
    """Write down everything that is kept about a customer and its other ids, as JSON."""
    path = f"/v1/customers/{quote(customer_id, safe='')}/export"
    told = client_of(url, EXPORT_S).call("GET", path)
    if file is None:
        show(told)
        return
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1))
    except OSError as error:
        raise SetupError(f"{file} cannot be written: {error.strerror}") from error
    err.print(f"{file}: {len(told['log'])} log entries of {', '.join(told['customer_ids'])}", markup=False)


def customer_pseudonym(customer_id: str) -> None:
    """Print a customer's pseudonym, as in receipts, the admin trail and exports (works on Redis directly)."""
    out.print(pseudonym(key_of_pseudonyms(), customer_id), markup=False)


def key_of_pseudonyms() -> bytes:
    """Return the key of this installation's pseudonyms."""
    from nbx.features.connection import RedisConnection
    from nbx.features.secrets import pseudonym_key, read_key

    settings = read_settings()
    if settings.pseudonym_key_file is not None:
        return read_key(settings.pseudonym_key_file)

    async def read() -> bytes:
        connection = RedisConnection(settings.effective_redis_url)
        await connection.connect()
        try:
            return await pseudonym_key(connection, None)
        finally:
            await connection.close()

    return asyncio.run(read())


def _receipt(receipt: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show(receipt)
        return
    status = receipt["status"]
    lines = [
        "erasure {erasure_id}: customer {customer_id} erased at {at_ms}",
        "removed: state (version {state_version}), {decisions} open decisions, {timers} timers, {replies} replies",
        "taught: {taught} slots and goals",
        "models: still to be done by the learner; `nbx customer erasure {erasure_id}` tells"
        if status == "pending"
        else "models: {response} response and {experience} experience sites subtracted, {beyond} beyond the "
        "correction window; so from snapshot {step}",
        "log: {rows} rows in {segments} segments of the archive rewritten; done at {done_ms}"
        if status == "done"
        else "log: rows are still to be taken out; `nbx customer erasure {erasure_id}` tells",
    ]
    for line in lines:
        out.print(line.format(**receipt), markup=False)
    for words in receipt["forgot"]:
        out.print(f"forgot: {words}", markup=False)
    for alias, erasure_id in receipt["aliases"].items():
        out.print(f"also erased: {alias}, erasure {erasure_id}", markup=False)
    for left in receipt["remains"]:
        out.print(f"remains: {left}", markup=False)
