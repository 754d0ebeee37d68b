"""`nbx demo`: everything on this machine, a minute of simulated customers, a report, and an end.

It plays in its own data directory (`<data_dir>/demo`), emptied first, so it neither sees nor changes anything else.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import msgspec
from redis.asyncio import Redis
from rich.console import Console

from nbx.api.auth import create_key
from nbx.catalog.parse import parse_catalog
from nbx.catalog.releases import publish
from nbx.clock import SystemClock
from nbx.demo.report import print_report
from nbx.demo.run import demo_catalog, run_demo
from nbx.errors import NbxError, SetupError
from nbx.local_key import store_key
from nbx.runtime.up import lock_holder, up
from nbx.settings import Settings

FOLDER = "demo"


async def play(
    settings: Settings,
    catalog_file: Path,
    seconds: float,
    customers: int,
    seed: int,
    *,
    keep: bool,
    console: Console,
) -> int:
    """Play the demonstration; returns the exit code.

    Parameters
    ----------
    settings
        Ports may be replaced by free ones when they are taken.
    catalog_file
        Played with, its durations scaled.
    seconds, customers, seed
        As in `nbx.demo.run.run_demo`.
    keep
        Leave everything running until a signal.
    console
        Where everything is shown.
    """
    settings = _own(settings)
    catalog = demo_catalog(parse_catalog(_text(catalog_file), source=str(catalog_file)))
    failed = False

    async def on_ready() -> None:
        nonlocal failed
        redis = Redis.from_url(settings.effective_redis_url)
        try:
            clock = SystemClock()
            key, _ = await create_key(redis, "demo", ["admin"], clock.now_ms())
            await publish(redis, catalog, author="nbx demo", note="durations scaled", at_ms=clock.now_ms())
        finally:
            await redis.aclose()
        path = store_key(settings, key)
        console.print(f"\nLook: [bold]{settings.url}/[/]  (live page; it refreshes by itself)\n")
        try:
            result = await run_demo(
                settings.url,
                f"{settings.host}:{settings.grpc_port}",
                key,
                catalog=catalog,
                seconds=seconds,
                customers=customers,
                seed=seed,
                console=console,
            )
            print_report(result, console, _next_steps(settings, path, keep=keep))
        except NbxError as error:
            failed = True
            console.print(f"the demonstration failed: {error.code}: {error.message}", markup=False, style="red")
        if failed or not keep:
            os.kill(os.getpid(), signal.SIGTERM)

    code = await up(
        settings, on_ready=on_ready, say=lambda line: console.print(line, style="dim", markup=False, soft_wrap=True)
    )
    return code or int(failed)


def _own(settings: Settings) -> Settings:
    """Return settings of the demonstration's own, empty installation."""
    folder = settings.data_dir / FOLDER
    holder = lock_holder(folder)
    if holder is not None:
        raise SetupError(f"a demonstration runs already, pid {holder}: look at it, or stop it (kill {holder})")
    shutil.rmtree(folder, ignore_errors=True)
    ports = {"port": settings.port, "grpc_port": settings.grpc_port}
    for name, port in ports.items():
        if not _is_free(settings.host, port):
            ports[name] = _free_port(settings.host)
    return msgspec.structs.replace(settings, data_dir=folder, redis_url="", auth="keys", **ports)


def _next_steps(settings: Settings, key_file: Path, *, keep: bool) -> list[str]:
    variables = f"NBX_DATA_DIR={settings.data_dir} NBX_PORT={settings.port} NBX_GRPC_PORT={settings.grpc_port}"
    nbx = os.path.relpath(Path(sys.executable).with_name("nbx"))
    ask = '{"customer_id": "you", "placement": "web_home_hero", "explain": "reasons"}'
    if not keep:
        again = [f"Its data stay in {settings.data_dir} until the next demo; start it again and look around:"]
        again.append(f"  {variables} {nbx} up")
    else:
        again = ["It keeps running: stop it with Ctrl-C. Meanwhile:"]
    return [
        *again,
        f"  curl -s {settings.url}/v1/decisions -H \"Authorization: Bearer $(cat {key_file})\" -d '{ask}'",
        f"  {variables} {nbx} decide you web_home_hero --preview",
        f"  {variables} {nbx} report failures",
        f"  {variables} {nbx} customer experience you --link",
        f"  {variables} {nbx} doctor",
    ]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"catalog {file} cannot be read: {error}; run in the project's folder") from error


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
