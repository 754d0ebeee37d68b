"""`nbx backtest`: a randomised log played through a running service, row by row, as if it happened now.

Rows go in chunks: decide for all of them, compare each choice with what the log shows, send the events of the rows that
count, wait until the learner has taken them in. So no decision is older in knowledge than the chunk before it plus one
snapshot interval, whatever the speed of the machine. Rows that do not count send nothing: on a placement with reported
impressions such a decision is never seen, and teaches nothing.

Customers are called `bt-<run>-<row or id>`, so a run neither meets another run's customers nor real ones.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nbx.backtest.data import PREFIX_LENGTH, Row, Spool, read_rows
from nbx.backtest.estimate import ReplayTally, unlikely_randomised
from nbx.backtest.report import BacktestResult, report
from nbx.backtest.service import Service, private_service
from nbx.backtest.spec import NONE, Spec, read_spec, service_faults, swaying
from nbx.clock import SystemClock
from nbx.decision.messages import DecideReply, DecideRequest
from nbx.errors import SetupError
from nbx.experience.entries import Event
from nbx.local_key import stored_key
from nbx.settings import load_settings

CHUNK = 200
"""Rows decided at a time: two batches, and a lag in learning of at most some 70 accepted rows of three actions."""
DEADLINE_MS = 2_000
"""Of a decision: nobody waits for it, and a degraded answer would be none of the policy's."""


async def backtest(
    data: Path,
    spec: Path,
    *,
    url: str = "",
    rows: int = 0,
    seed: int | None = None,
    console: Console,
) -> BacktestResult:
    """Play a log through a service.

    Parameters
    ----------
    data
        CSV (also compressed) or Parquet.
    spec
        The specification.
    url
        A running service; empty: a private one is started and removed.
    rows
        Use only so many; 0: all.
    seed
        Shuffle with it; None: as the specification says.
    console
        Shows the progress.

    Raises
    ------
    SetupError
        File, specification or service do not fit: nothing was sent then.
    Unavailable, Refused
        The service failed on the way.
    """
    checked = read_spec(spec)
    seed = checked.shuffle if seed is None else seed
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbx-backtest-")))
        with console.status(f"reading {data}"):
            spool = _read(data, checked, directory, rows, seed)
        notes = list(_notes(spool, checked))
        if url:
            service = await stack.enter_async_context(Service(url, stored_key(load_settings(os.environ))))
            notes += await _check_service(service, checked)
        else:
            own = directory / "service"
            own.mkdir()
            with console.status("starting a private service"):
                service = await stack.enter_async_context(private_service(checked.catalog_text, own))
        count = min(rows, spool.count) if rows else spool.count
        player = _Player(service, checked, ReplayTally(checked.probabilities, seed=seed or 0))
        loop = asyncio.get_running_loop()
        began = loop.time()
        await player.play(islice(spool.rows(), count), count, console)
        return report(
            data,
            checked,
            player.tally,
            seconds=loop.time() - began,
            silent=player.silent,
            degraded=player.degraded,
            held_out=player.held_out,
            notes=tuple(notes),
        )


class _Player:
    """Plays rows through a service and keeps count."""

    def __init__(self, service: Service, spec: Spec, tally: ReplayTally) -> None:
        self._service = service
        self._spec = spec
        self.tally = tally
        self._run = f"bt-{SystemClock().now_ms() // 1000:x}-{secrets.token_hex(3)}"
        assert len(self._run) < PREFIX_LENGTH
        self.silent = self.degraded = self.held_out = 0
        self._sent = 0

    async def play(self, rows: Iterable[Row], count: int, console: Console) -> None:
        """Play all rows, so many in all."""
        base = await self._service.learned()
        with _progress(console) as progress:
            task = progress.add_task("", total=count, accepted=0, reward=0.0)
            for chunk in _chunks(rows, CHUNK):
                await self._play_chunk(chunk)
                await self._service.until_learned(base + self._sent)
                _show(progress, task, self.tally)

    async def _play_chunk(self, chunk: list[Row]) -> None:
        customers = [f"{self._run}-{row.customer or row.number}" for row in chunk]
        await asyncio.gather(
            *(
                self._service.change_profile(quote(customer, safe=""), row.profile)
                for customer, row in zip(customers, chunk, strict=True)
                if row.profile
            )
        )
        requests = [
            DecideRequest(
                customer_id=customer, placement=self._spec.placement, context=row.context, deadline_ms=DEADLINE_MS
            )
            for customer, row in zip(customers, chunk, strict=True)
        ]
        events: list[Event] = []
        for row, reply in zip(chunk, await self._service.decide(requests), strict=True):
            chosen = self._chosen(reply)
            if self.tally.take(row.action, chosen, positive=row.positive) and chosen != NONE:
                events += self._events(row, reply)
        await self._service.record(events)
        self._sent += len(events) // 2

    def _chosen(self, reply: DecideReply) -> str:
        """Return the action of a reply, `none`, or empty when the choice was not the policy's own."""
        if reply.degraded or reply.holdout:
            self.degraded += bool(reply.degraded)
            self.held_out += not reply.degraded
            return ""
        action = reply.slots[0].action
        self.silent += not action
        return action or NONE

    def _events(self, row: Row, reply: DecideReply) -> tuple[Event, Event]:
        kinds = ("seen", "accepted" if row.positive else self._spec.negative_event)
        first, second = (
            Event(event_id=f"{self._run}-{row.number}-{kind}", type=kind, decision_id=reply.decision_id)
            for kind in kinds
        )
        return first, second


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows in chunks in which no customer comes twice: a decision sees what the customer did before."""
    chunk: list[Row] = []
    customers: set[str] = set()
    for row in rows:
        if len(chunk) == size or row.customer in customers:
            yield chunk
            chunk, customers = [], set()
        chunk.append(row)
        if row.customer:
            customers.add(row.customer)
    if chunk:
        yield chunk


def _read(data: Path, spec: Spec, directory: Path, rows: int, seed: int | None) -> Spool:
    spool = Spool(directory, seed=seed)
    found = read_rows(data, spec)
    # without a shuffle, rows beyond the last one used need not be read
    spool.fill(islice(found, rows) if rows and seed is None else found, spec.catalog.features)
    if spool.count == 0:
        raise SetupError(f"{data}: has no rows")
    if spool.positives in (0, spool.count):
        which = "no row" if spool.positives == 0 else "every row"
        raise SetupError(
            f"{spec.source} reward.positive: {which} of {data} has {spec.reward_column} = "
            f"{' or '.join(sorted(spec.positive))}: nothing could be learned"
        )
    if missing := [action for action in spec.probabilities if not spool.actions[action]]:
        raise SetupError(f"{spec.source} action.values: no row of {data} shows {', '.join(missing)}")
    if unlikely_randomised(spool.actions, spec.probabilities):
        shares = ", ".join(f"{action} {spool.actions[action] / spool.count:.3f}" for action in spec.probabilities)
        raise SetupError(
            f"{data}: its actions were not drawn with the probabilities of {spec.source} (default: equal); shares are "
            f"{shares}. Was it randomised? Then write the chances under action.probabilities"
        )
    return spool


def _notes(spool: Spool, spec: Spec) -> Iterator[str]:
    for name, count in spool.outside.items():
        yield f"{count} of {spool.count} values of {spec.columns[name].column} are no category of feature {name}"


async def _check_service(service: Service, spec: Spec) -> list[str]:
    """Refuse a service that cannot answer this specification; return what sways its choices besides the response."""
    catalog = await service.catalog()
    if faults := tuple(service_faults(spec, catalog)):
        raise SetupError(f"--url {service.url}: its release in force ({catalog.name}) does not fit", faults=faults)
    return [f"{service.url}: {field} {reason}" for field, reason in swaying(catalog, spec.probabilities)]


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows, {task.fields[accepted]} accepted, reward {task.fields[reward]:.4f}"),
        TimeRemainingColumn(),
        console=console,
    )


def _show(progress: Progress, task: TaskID, tally: ReplayTally) -> None:
    reward = tally.positives / tally.accepted if tally.accepted else 0.0
    progress.update(task, completed=tally.rows, accepted=tally.accepted, reward=reward)
