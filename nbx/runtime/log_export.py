"""`nbx log export`: reads the log from Redis itself, so that a long export costs the serving processes nothing."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from nbx.audit.export import Exported, ObpExport, checked_target
from nbx.audit.judging import Maturity, Question, asked_plan
from nbx.audit.reading import Window, read_log, releases_in
from nbx.audit.whole_log import WholeLog
from nbx.catalog.plan import Plan
from nbx.clock import SystemClock
from nbx.decision.serving import Serving
from nbx.features.connection import RedisConnection
from nbx.features.store_redis import RedisStore
from nbx.runtime.process import check_partitions
from nbx.settings import Settings


async def export_obp(
    settings: Settings,
    out: Path,
    span: Window,
    *,
    release: int | None,
    placement: str,
    reward: str,
    young: bool,
    console: Console,
) -> Exported:
    """Write logged decisions as Open Bandit Pipeline reads them; see `nbx.audit.export`.

    Raises
    ------
    Invalid, Unknown
        Wrong file name, reward or release; nothing to export.
    Unavailable
        Redis does not answer.
    """
    target = checked_target(out)
    connection = RedisConnection(settings.effective_redis_url)
    await connection.connect()
    try:
        await check_partitions(connection, settings.partitions)
        store = WholeLog(RedisStore(connection), settings.archive_path)
        serving = Serving(store)
        await serving.refresh()
        asked = await asked_plan(store, release) if release is not None else None
        plans: dict[int, Plan] = {}
        maturity = Maturity(SystemClock().now_ms(), young=young)
        question = Question(span, asked, placement)
        columns = (asked or serving.plan()).layout.columns
        bar = Progress(
            SpinnerColumn(), TextColumn("{task.completed:,} log entries"), TimeElapsedColumn(), console=console
        )
        with bar, ObpExport(question, maturity, plans.__getitem__, tuple(columns), reward, target.parent) as export:
            task = bar.add_task("read", total=None)
            async for entries in read_log(store, settings.partitions, span.since_ms, SystemClock().now_ms()):
                for number in releases_in(entries) - plans.keys():
                    plans[number] = await serving.plan_of(number)
                export.take(entries)
                bar.advance(task, len(entries))
            return export.write(target)
    finally:
        await connection.close()
