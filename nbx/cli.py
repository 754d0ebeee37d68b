"""The command line: thin over the HTTP face, except for what runs or mends the service itself.

Exit codes: 0 good, 1 the thing checked or done is bad, 2 wrong use or nothing could be started.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import msgspec
import typer
from rich.table import Table

from nbx.cli_catalog import catalog_app
from nbx.cli_explain import decisions_explain
from nbx.cli_loadtest import loadtest_app
from nbx.cli_options import AsJson, Url, err, out
from nbx.cli_options import client_of as _client
from nbx.cli_options import read_settings as _settings
from nbx.cli_options import read_text as _read_text
from nbx.cli_options import show as _show
from nbx.cli_privacy import add_to as add_privacy
from nbx.cli_privacy import key_of_pseudonyms
from nbx.cli_query import attach, export_view
from nbx.cli_replay import decisions_replay
from nbx.cli_roi import report_roi
from nbx.cli_verify import add_verify
from nbx.clock import SystemClock
from nbx.errors import NbxError, SetupError, Unavailable
from nbx.processes import run_process
from nbx.settings import Settings

if TYPE_CHECKING:
    from nbx.decision.publishable import Checked

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Real-time next-best-experience decisioning.",
)
decisions_app = typer.Typer(no_args_is_help=True, help="Look into decisions.")
customer_app = typer.Typer(no_args_is_help=True, help="Look at a customer, merge two, export or erase one.")
keys_app = typer.Typer(no_args_is_help=True, help="API keys (works on Redis directly).")
app.add_typer(catalog_app, name="catalog")
app.add_typer(decisions_app, name="decisions")
app.add_typer(customer_app, name="customer")
add_privacy(customer_app)
app.add_typer(keys_app, name="keys")
log_app = typer.Typer(no_args_is_help=True, help="The log of what happened, and of who changed what.")
report_app = typer.Typer(no_args_is_help=True, help="What the log says.")
app.add_typer(log_app, name="log")
add_verify(log_app)
app.add_typer(report_app, name="report")
report_app.command("roi")(report_roi)
attach(log_app, decisions_app)
app.add_typer(loadtest_app, name="loadtest")

Since = Annotated[str, typer.Option(help="Epoch ms, RFC 3339, or a time ago such as 24h; default 30 days ago.")]
Until = Annotated[str, typer.Option(help="The same; default now.")]
OfPlacement = Annotated[str, typer.Option("--placement", help="Only decisions of this placement.")]
Young = Annotated[bool, typer.Option("--young", help="Count decisions whose attention may still run: biased.")]
REPORT_S = 900.0
"""How long to wait for a report: a long log is read from one end to the other."""
SAMPLE = "examples/retail_bank.yaml"
T = TypeVar("T")


def main() -> None:
    """Run the command line; errors are told in words and end with their exit code."""
    try:
        app()
    except NbxError as error:
        sys.exit(tell(error))


def tell(error: NbxError) -> int:
    """Say what was wrong; returns the exit code."""
    setup = isinstance(error, SetupError)
    err.print(str(error) if setup else _told(error), markup=False)
    return 2 if setup else 1


def _told(error: NbxError) -> str:
    place = f"{error.field}: " if error.field else ""
    faults = getattr(error, "faults", ())
    lines = [f"{error.code}: {place}{error.message}"]
    for fault in faults:
        at = f"{fault['line']}:{fault.get('column', 0)} " if fault.get("line") else ""
        where = f"{at}{fault.get('field', '')}".strip()
        lines.append(f"  {where}: {fault['detail']}" if where else f"  {fault['detail']}")
    return "\n".join(lines)


# Processes


@app.command()
def up(
    catalog: Annotated[Path | None, typer.Option(help="Publish this catalog at the first start.")] = None,
) -> None:
    """Run everything on this machine: embedded Redis, api workers, learner, keeper."""
    from nbx.runtime.up import up as run_up

    settings = _settings()
    draft = None if catalog is None else _publishable(catalog)
    code = asyncio.run(run_up(settings, on_ready=lambda: _first_start(settings, draft)))
    raise typer.Exit(code)


async def _first_start(settings: Settings, draft: Checked | None) -> None:
    """Make the first API key and publish the given catalog, where there are none; say where everything is."""
    from redis.asyncio import Redis

    from nbx.api.auth import create_key, list_keys
    from nbx.catalog.releases import Source, current_number, publish
    from nbx.local_key import KEY_FILE, store_key

    clock = SystemClock()
    redis = Redis.from_url(settings.effective_redis_url)
    try:
        if settings.auth == "keys" and not await list_keys(redis):
            key, _ = await create_key(redis, "first", ["admin"], clock.now_ms(), by="nbx up")
            path = store_key(settings, key)
            err.print(f"API key (shown once; the command line finds it in {path}): {key}", markup=False)
        release = await current_number(redis)
        if draft is not None and release == 0:
            source = Source(text=draft.text)
            published = await publish(
                redis, draft.catalog, author="nbx up", note="first start", at_ms=clock.now_ms(), source=source
            )
            release = published.number
    finally:
        await redis.aclose()
    err.print(f"nbx runs: {settings.url} (page, HTTP), {settings.host}:{settings.grpc_port} (gRPC)", markup=False)
    if release == 0:
        err.print(f"no catalog is published yet: nbx catalog publish {SAMPLE}", markup=False)
    if settings.auth == "keys" and not (settings.data_dir / KEY_FILE).is_file():
        err.print("calls need an API key: nbx keys create NAME --scope admin", markup=False)


@app.command()
def api() -> None:
    """Run one api process (HTTP and gRPC)."""
    raise typer.Exit(run_process("api", _settings()))


@app.command()
def learner() -> None:
    """Run a learner; one is active, others wait."""
    raise typer.Exit(run_process("learner", _settings()))


@app.command()
def keeper() -> None:
    """Run a keeper; one is active, others wait."""
    raise typer.Exit(run_process("keeper", _settings()))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is wrong with this installation, in words."""
    from nbx.runtime.doctor import examine

    checks = asyncio.run(examine(_settings()))
    if as_json:
        _show(checks)
    else:
        marks = {"good": "[green]good[/]", "warning": "[yellow]warning[/]", "bad": "[red]bad[/]"}
        table = Table("", "", "", show_header=False, box=None)
        for check in checks:
            table.add_row(marks[check.status], check.name, check.words)
        out.print(table)
    raise typer.Exit(1 if any(check.status == "bad" for check in checks) else 0)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=5, max=600, help="How long customers come.")] = 40.0,
    customers: Annotated[int, typer.Option(min=50, max=100_000)] = 1000,
    seed: int = 7,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running afterwards.")] = False,
    catalog: Annotated[Path, typer.Option(help="Catalog to play with.")] = Path(SAMPLE),
) -> None:
    """Start everything, send simulated customers of a small bank, and show what nbx learned."""
    from nbx.demo.play import play

    raise typer.Exit(asyncio.run(play(_settings(), catalog, seconds, customers, seed, keep=keep, console=out)))


@app.command()
def backtest(
    data: Annotated[Path, typer.Argument(help="CSV (also .gz) or Parquet file of a randomised log.")],
    spec: Annotated[Path, typer.Option(help="How its columns map to features, actions and the outcome.")],
    url: Annotated[str, typer.Option(help="Use this service instead of starting a private one.")] = "",
    rows: Annotated[int, typer.Option(min=0, help="Use only so many rows; 0: all.")] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Shuffle the rows with this seed; default: as the specification says.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run logged, randomised data through the live decision path and compare with uniform and single actions."""
    from nbx.backtest.run import backtest as run_backtest

    result = asyncio.run(run_backtest(data, spec, url=url, rows=rows, seed=seed, console=err))
    if as_json:
        _show(result)
    else:
        out.print(result.table())


def _publishable(file: Path) -> Checked:
    from nbx.decision.publishable import check_text

    return check_text(_read_text(file), str(file)).publishable()


# Data plane


@app.command()
def decide(
    customer: str,
    placement: str,
    slots: int = 1,
    context: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, any number of times.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Leave no trace.")] = False,
    explain: Annotated[str, typer.Option(help="none, reasons or full")] = "reasons",
    url: Url = "",
) -> None:
    """Ask for a decision."""
    body = {
        "customer_id": customer,
        "placement": placement,
        "slots": slots,
        "context": dict(_assignment(text) for text in context or ()),
        "mode": "preview" if preview else "live",
        "explain": explain,
    }
    _show(_client(url).call("POST", "/v1/decisions", json=body))


@app.command()
def event(
    kind: Annotated[str, typer.Argument(metavar="TYPE")],
    decision: Annotated[str, typer.Option(help="Decision it belongs to.")] = "",
    slot: int = 0,
    customer: str = "",
    by: str = "customer",
    cause: str = "",
    reason: str = "",
    prop: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, any number of times.")] = None,
    event_id: Annotated[str, typer.Option(help="Default: a new one.")] = "",
    url: Url = "",
) -> None:
    """Record an event."""
    row = {
        "type": kind,
        "decision_id": decision,
        "slot": slot,
        "customer_id": customer,
        "by": by,
        "cause": cause,
        "reason": reason,
        "properties": dict(_assignment(text) for text in prop or ()),
    }
    _record(row, event_id, url)


def _record(row: dict[str, Any], event_id: str, url: str) -> None:
    """Send an event, under a new id when none is given, and end with what became of it."""
    import uuid

    (result,) = _client(url).call("POST", "/v1/events", json=[{"event_id": event_id or uuid.uuid4().hex, **row}])
    _show(result)
    raise typer.Exit(1 if result["status"] == "rejected" else 0)


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SetupError(f"{text!r} is not NAME=VALUE")
    try:
        decoded = msgspec.json.decode(value.encode())
    except msgspec.DecodeError:
        return name, value
    return name, decoded if isinstance(decoded, bool | int | float | str) else value


@decisions_app.command("show")
def decisions_show(decision_id: str, url: Url = "") -> None:
    """Show a decision's complete record and where its slots stand."""
    _show(_client(url).call("GET", f"/v1/decisions/{decision_id}"))


decisions_app.command("explain")(decisions_explain)


decisions_app.command("replay")(decisions_replay)


@customer_app.command("show")
def customer_show(customer_id: str, events: int = 20, url: Url = "") -> None:
    """Show what is known about a customer and what happened lately."""
    _show(_client(url).call("GET", f"/v1/customers/{customer_id}", events=events))


@customer_app.command("experience")
def customer_experience(
    customer_id: str,
    link: Annotated[bool, typer.Option("--link", help="Make a link for the customer instead.")] = False,
    lifetime: Annotated[str, typer.Option(help="How long the link lasts, up to 30d.")] = "1h",
    url: Url = "",
) -> None:
    """Show the customer's own view: why, what is remembered, what own choices unlock, what can be stopped."""
    path = f"/v1/customers/{quote(customer_id, safe='')}/experience"
    if link:
        made = _client(url).call("POST", f"{path}/link", json={"lifetime": lifetime})
        out.print(f"{(url or _settings().url).rstrip('/')}{made['path']}", markup=False)
    else:
        _show(_client(url).call("GET", path))


@customer_app.command("consent")
def customer_consent(
    customer_id: str,
    yes: Annotated[list[str] | None, typer.Option(help="Purpose agreed to, any number of times.")] = None,
    no: Annotated[list[str] | None, typer.Option(help="Purpose refused, any number of times.")] = None,
    by: Annotated[str, typer.Option(help="Who writes it down: customer or agent.")] = "agent",
    url: Url = "",
) -> None:
    """Record what a customer allows: contact, contact:CHANNEL, personalise, learn. Holds from the next decision on."""
    said = dict.fromkeys(yes or (), True)
    for purpose in no or ():
        if said.setdefault(purpose, False):
            raise SetupError(f"{purpose} is both --yes and --no")
    if not said:
        raise SetupError("nothing is said: use --yes PURPOSE or --no PURPOSE")
    _record({"type": "consent", "customer_id": customer_id, "by": by, "properties": said}, "", url)


@customer_app.command("merge")
def customer_merge(
    customer_id: str,
    alias: Annotated[str, typer.Argument(help="Cookie, device or other id that turned out to be the customer's.")],
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Merge another id into a customer: what either is known for, both are from the next decision on. For good."""
    path = f"/v1/customers/{quote(customer_id, safe='')}/aliases"
    merged = _client(url).call("POST", path, json={"alias": alias})
    if as_json:
        _show(merged)
    else:
        out.print(f"{merged['alias']} is customer {merged['customer_id']}", markup=False)


# Reports


@report_app.command("learning")
def report_learning(since: Since = "", until: Until = "", as_json: AsJson = False, url: Url = "") -> None:
    """Say whether predicted acceptance comes true, how much is explored, and what taught."""
    from nbx.audit.learning import LearningReport
    from nbx.audit.tables import show_learning

    report = _client(url, REPORT_S).call("GET", "/v1/reports/learning", since=since, until=until)
    _show(report) if as_json else out.print(show_learning(msgspec.convert(report, LearningReport)))


@report_app.command("policy")
def report_policy(
    release: Annotated[int, typer.Option(min=1, help="The release asked about.")],
    since: Since = "",
    until: Until = "",
    placement: OfPlacement = "",
    clip: Annotated[float | None, typer.Option(help="Bound on importance weights; default none.")] = None,
    young: Young = False,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Estimate from the log what a release would have earned; exit code 1 when the log cannot tell."""
    from nbx.audit.policy_report import PolicyReport
    from nbx.audit.tables import show_policy

    report = _client(url, REPORT_S).call(
        "GET",
        "/v1/reports/policy",
        release=release,
        since=since,
        until=until,
        placement=placement,
        clip=clip,
        young=young,
    )
    _show(report) if as_json else out.print(show_policy(msgspec.convert(report, PolicyReport, strict=False)))
    raise typer.Exit(0 if report["reliable"] else 1)


@report_app.command("journeys")
def report_journeys(since: Since = "", until: Until = "", as_json: AsJson = False, url: Url = "") -> None:
    """Say at which steps customer and company met in time, for whom, what came after, and how customers cluster."""
    from nbx.audit.journeys import JourneysReport
    from nbx.audit.tables_journeys import show_journeys

    report = _client(url, REPORT_S).call("GET", "/v1/reports/journeys", since=since, until=until)
    _show(report) if as_json else out.print(show_journeys(msgspec.convert(report, JourneysReport)))


@report_app.command("experience")
def report_experience(
    since: Since = "", until: Until = "", placement: OfPlacement = "", as_json: AsJson = False, url: Url = ""
) -> None:
    """Say what customers experienced, in points and money, who did, and where acceptance is bought with it."""
    from nbx.audit.experience_report import ExperienceReport
    from nbx.audit.tables_experience import show_experience

    report = _client(url, REPORT_S).call("GET", "/v1/reports/experience", since=since, until=until, placement=placement)
    _show(report) if as_json else out.print(show_experience(msgspec.convert(report, ExperienceReport)))


@report_app.command("failures")
def report_failures(
    since: Since = "", until: Until = "", placement: OfPlacement = "", as_json: AsJson = False, url: Url = ""
) -> None:
    """Say why experiences were negative, where, what it cost, and which decisions are behind it."""
    from nbx.audit.failures_report import FailuresReport
    from nbx.audit.tables_experience import show_failures

    report = _client(url, REPORT_S).call("GET", "/v1/reports/failures", since=since, until=until, placement=placement)
    _show(report) if as_json else out.print(show_failures(msgspec.convert(report, FailuresReport)))


@log_app.command("export")
def log_export(
    target: Annotated[Path, typer.Argument(metavar="OUT.npz|OUT.csv|OUT.parquet", help="File to write.")],
    kind: Annotated[
        str, typer.Option("--format", help="obp (as Open Bandit Pipeline reads it), csv or parquet.")
    ] = "obp",
    view: Annotated[str, typer.Option(help="Of csv and parquet: the view to write, see docs/query.md.")] = "",
    sql: Annotated[str, typer.Option(help="Of csv and parquet: write what this query finds.")] = "",
    directory: Annotated[Path | None, typer.Option("--dir", help="Of csv and parquet: read this archive.")] = None,
    since: Since = "",
    until: Until = "",
    release: Annotated[int | None, typer.Option(min=1, help="Release whose choices `action_dist` holds.")] = None,
    placement: Annotated[str, typer.Option(help="Only decisions of this placement.")] = "",
    reward: Annotated[str, typer.Option(help="acceptance, value, experience or utility")] = "acceptance",
    young: Young = False,
    pseudonyms: Annotated[
        bool, typer.Option("--pseudonyms", help="Of a view: customers under pseudonyms, free text left out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write logged decisions with their propensities and outcomes, or a view of the log."""
    if kind in ("csv", "parquet"):
        key = key_of_pseudonyms() if pseudonyms else b""
        export_view(target, kind, view, sql, since, until, directory, as_json=as_json, key=key)
        return
    from nbx.audit.reading import window
    from nbx.runtime.log_export import export_obp

    if kind != "obp":
        raise SetupError(f"--format must be obp, csv or parquet, found {kind!r}")
    span = window(since, until, SystemClock().now_ms())
    settings = _settings()
    done = asyncio.run(
        export_obp(
            settings, target, span, release=release, placement=placement, reward=reward, young=young, console=err
        )
    )
    if as_json:
        _show(done)
        return
    left_out = ", ".join(f"{count} {why}" for why, count in done.left_out.items()) or "none"
    out.print(f"{', '.join(done.files)}: {done.rows} rows, {len(done.actions)} actions; left out: {left_out}")


@log_app.command("changes")
def log_changes(
    count: Annotated[int, typer.Option(min=1, max=1000)] = 50, as_json: AsJson = False, url: Url = ""
) -> None:
    """List who changed what, newest first: drafts, releases, API keys, settings, acts on customers."""
    from nbx.catalog.time_words import moment

    changes = _client(url).call("GET", "/v1/audit/changes", count=count)
    if as_json:
        _show(changes)
        return
    for change in changes:
        details = ", ".join(f"{name} {value}" for name, value in change["details"].items() if value != "")
        when = moment(change["at_ms"] // 1000 * 1000)
        out.print(f"{when}  {change['who']}  {change['what']}: {details}", markup=False)


# Keys


@keys_app.command("create")
def keys_create(
    name: str,
    scope: Annotated[
        list[str], typer.Option(help="decide, events, catalog, audit or admin, any number of times; or web, for pages.")
    ],
    origin: Annotated[
        list[str] | None, typer.Option(help="Whose pages may use a web key, such as https://shop.example; repeatable.")
    ] = None,
) -> None:
    """Make an API key; it is printed once."""
    from nbx.api.auth import OPERATOR, create_key

    key, record = _on_redis(
        lambda redis: create_key(redis, name, scope, SystemClock().now_ms(), OPERATOR, origin or ())
    )
    pages = f", pages of {', '.join(record.origins) or 'the same origin'}" if record.is_publishable else ""
    err.print(
        f"key {record.id} for {name}, scopes {', '.join(record.scopes)}{pages}; it is not shown again:", markup=False
    )
    out.print(key, markup=False)


@keys_app.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """List API keys; secrets are not stored, so not shown."""
    from nbx.api.auth import list_keys

    records = _on_redis(list_keys)
    if as_json:
        _show([{name: getattr(r, name) for name in r.__struct_fields__ if name != "sha256"} for r in records])
        return
    table = Table("id", "name", "scopes", "origins", "state")
    for record in records:
        state = "revoked" if record.revoked_ms else "in force"
        table.add_row(record.id, record.name, ", ".join(record.scopes), "\n".join(record.origins), state)
    out.print(table)


@keys_app.command("revoke")
def keys_revoke(key_id: str) -> None:
    """Revoke an API key; workers refuse it within a second."""
    from nbx.api.auth import revoke_key

    _on_redis(lambda redis: revoke_key(redis, key_id, SystemClock().now_ms()))
    out.print(f"key {key_id} is revoked")


def _on_redis(work: Callable[[Any], Awaitable[T]]) -> T:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    settings = _settings()

    async def run() -> T:
        redis = Redis.from_url(settings.effective_redis_url)
        try:
            return await work(redis)
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis at {settings.redis_label}: {error}; is `nbx up` running?") from error
        finally:
            await redis.aclose()

    return asyncio.run(run())
