"""`nbx catalog`: what the company may do, from a file on the desk to the release in force and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from nbx.cli_options import AsJson, Url, client_of, err, out, read_text, show
from nbx.errors import SetupError

catalog_app = typer.Typer(no_args_is_help=True, help="Check, publish and take back what the company may do.")

Note = Annotated[str, typer.Option(help="What changed and why.")]
Base = Annotated[int | None, typer.Option(help="Release the draft started from; refused when it is not in force.")]
PUBLISH_S = 120.0
"""How long to wait for a catalog to be checked: a full one takes a second, on a busy machine more."""
SHADOW_S = 600.0
"""How long to wait for a shadow run: 10,000 decisions take some seconds, and runs wait for each other."""
DRAFT_ID_LENGTH = 16


@catalog_app.command("check")
def catalog_check(file: Path, as_json: AsJson = False) -> None:
    """Check a catalog file: every fault with line, column and field."""
    from nbx.catalog.lint import lint_catalog
    from nbx.catalog.parse import CatalogFaults, parse_catalog
    from nbx.catalog.plan import Plan

    try:
        catalog = parse_catalog(read_text(file), source=str(file))
    except CatalogFaults as error:
        if as_json:
            show({"faults": error.findings})
        else:
            err.print(str(error), markup=False)
        raise typer.Exit(1) from None
    warnings = lint_catalog(catalog)
    if as_json:
        show({"faults": [], "warnings": warnings})
        return
    for warning in warnings:
        out.print(f"warning: {warning}", markup=False)
    out.print(
        f"{file}: good. {len(catalog.actions)} actions, {len(catalog.placements)} placements, "
        f"{len(catalog.features)} features in {len(Plan(catalog, 0).layout.columns)} columns"
    )


@catalog_app.command("test")
def catalog_test(file: Path, as_json: AsJson = False) -> None:
    """Run the examples in a catalog file; exit code 1 when one does not hold."""
    from nbx.catalog.parse import CatalogFaults
    from nbx.decision.publishable import check_text

    try:
        checked = check_text(read_text(file), str(file))
    except CatalogFaults as error:
        if as_json:
            show({"passed": False, "faults": error.findings, "examples": []})
        else:
            err.print(str(error), markup=False)
        raise typer.Exit(1) from None
    failing = checked.failing
    if as_json:
        show({"passed": not failing, "faults": [], "examples": checked.examples})
    else:
        for words in failing:
            out.print(f"fails: {words}", markup=False)
        out.print(
            f"{file}: {len(checked.examples) - len(failing)} of {len(checked.examples)} examples hold", markup=False
        )
    raise typer.Exit(1 if failing else 0)


@catalog_app.command("diff")
def catalog_diff(
    file: Path,
    against: Annotated[int | None, typer.Option(min=0, help="Release; default the one in force.")] = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Say in words what a catalog file would change."""
    found = _send(url, "/v1/catalog/diff", file, against=against)
    if as_json:
        show(found)
    else:
        _changes(found["changes"], f"nothing: it says what release {found['against']} says")


@catalog_app.command("shadow")
def catalog_shadow(
    draft: Annotated[str, typer.Argument(metavar="FILE|DRAFT", help="A catalog file, or the id of a draft.")],
    last: Annotated[int, typer.Option(min=1, help="Latest live decisions to replay.")] = 10_000,
    placement: Annotated[str, typer.Option(help="Only these decisions; default all.")] = "",
    by: Annotated[list[str] | None, typer.Option(metavar="FEATURE", help="Tell its values apart, repeatable.")] = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Replay the latest decisions through a draft: who would get what, why not, and what it would earn."""
    import msgspec

    from nbx.audit.shadow_report import ShadowReport
    from nbx.audit.tables import show_shadow

    content = read_text(Path(draft)).encode() if Path(draft).exists() else None
    query = {"draft": None if content else draft, "last": last, "placement": placement or None, "by": by}
    found = client_of(url, SHADOW_S).call("POST", "/v1/catalog/shadow", content=content, **query)
    show(found) if as_json else out.print(show_shadow(msgspec.convert(found, ShadowReport)))


@catalog_app.command("draft")
def catalog_draft(file: Path, note: Note = "", base: Base = None, as_json: AsJson = False, url: Url = "") -> None:
    """Keep a catalog as a draft that others can look at, approve and publish."""
    made = _send(url, "/v1/catalog/drafts", file, note=note, base=base)
    if as_json:
        show(made)
        return
    _told(made["check"]["warnings"], made["check"]["failing"])
    out.print(f"draft {made['id']} of {made['catalog']}, on release {made['base']}:", markup=False)
    _changes(made["diff"], "nothing changes")


@catalog_app.command("drafts")
def catalog_drafts(
    delete: Annotated[str, typer.Option(metavar="ID", help="Delete this draft.")] = "",
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """List drafts, newest first, or delete one."""
    client = client_of(url)
    if delete:
        client.call("DELETE", f"/v1/catalog/drafts/{quote(delete, safe='')}")
        show({"deleted": delete}) if as_json else out.print(f"draft {delete} is deleted", markup=False)
        return
    found = client.call("GET", "/v1/catalog/drafts")
    if as_json:
        show(found)
        return
    for draft in found:
        approved = ", ".join(each["by"]["name"] for each in draft["approvals"]) or "nobody"
        words = f"{len(draft['diff'])} changes on release {draft['base']}, approved by {approved}"
        out.print(f"{draft['id']}  {_when(draft)}  {draft['author']['name']}: {draft['note']} ({words})", markup=False)


@catalog_app.command("approve")
def catalog_approve(
    draft: str,
    sha256: Annotated[str, typer.Option(help="Hash of the text that was looked at; refused when it is another.")] = "",
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Approve a draft that was made with another API key."""
    path = f"/v1/catalog/drafts/{quote(draft, safe='')}/approve"
    approved = client_of(url).call("POST", path, sha256=sha256 or None)
    show(approved) if as_json else out.print(f"draft {draft} is approved; text {approved['sha256']}", markup=False)


@catalog_app.command("publish")
def catalog_publish(
    file: Annotated[Path | None, typer.Argument(help="Catalog file.")] = None,
    draft: Annotated[str, typer.Option(metavar="ID", help="Publish this draft instead of a file.")] = "",
    note: Note = "",
    base: Base = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Check a catalog, run its examples and put it in force."""
    if (file is None) == (not draft):
        raise SetupError("give either a catalog file or --draft ID")
    query = {"note": note, "base": base, "draft": draft or None}
    _in_force(_send(url, "/v1/catalog/releases", file, **query), as_json)


@catalog_app.command("rollback")
def catalog_rollback(
    release: Annotated[int, typer.Argument(min=1, help="The release to bring back.")],
    note: Note = "",
    base: Annotated[int | None, typer.Option(help="Release in force; refused when it is another.")] = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Put an older release's catalog in force again, as a new release."""
    path = f"/v1/catalog/releases/{release}/rollback"
    _in_force(client_of(url, PUBLISH_S).call("POST", path, note=note, base=base), as_json)


@catalog_app.command("history")
def catalog_history(
    count: Annotated[int, typer.Option(min=1, max=1000)] = 20, as_json: AsJson = False, url: Url = ""
) -> None:
    """List releases, newest first: who, when, why and what changed."""
    found = client_of(url).call("GET", "/v1/catalog/releases", count=count)
    if as_json:
        show(found)
        return
    for head in found:
        _head(head)


@catalog_app.command("budgets")
def catalog_budgets(as_json: AsJson = False, url: Url = "") -> None:
    """Tell what is spent of each budget in the window that runs."""
    from nbx.catalog.time_words import moment

    found = client_of(url).call("GET", "/v1/budgets")
    if as_json:
        show(found)
        return
    for each in found:
        out.print(
            f"{each['budget']}: {each['spent']:g} of {each['total']:g} {each['resource']} spent, "
            f"{each['held']:g} in workers' hands; until {moment(each['ends_ms'])}",
            markup=False,
        )


@catalog_app.command("show")
def catalog_show(
    what: Annotated[str, typer.Argument(metavar="RELEASE|DRAFT", help="Number of a release, or id of a draft.")],
    text: Annotated[bool, typer.Option("--text", help="Print the catalog as it was written.")] = False,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Show a release or a draft: what it changed, or its text."""
    kind = "drafts" if len(what) == DRAFT_ID_LENGTH else "releases"
    client, path = client_of(url), f"/v1/catalog/{kind}/{quote(what, safe='')}"
    if text:
        typer.echo(client.text(f"{path}/text"), nl=False)  # as it is, line ends too
        return
    found = client.call("GET", path)
    show(found) if as_json else _head(found)


def _send(url: str, path: str, file: Path | None, **query: Any) -> Any:
    content = None if file is None else read_text(file).encode()
    return client_of(url, PUBLISH_S).call("POST", path, content=content, **query)


def _in_force(published: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show(published)
        return
    _told(published["warnings"])
    out.print(f"release {published['release']} of {published['catalog']} is in force", markup=False)
    _changes(published["changes"], "nothing changes")


def _told(warnings: list[str], failing: list[str] | tuple[str, ...] = ()) -> None:
    for warning in warnings:
        err.print(f"warning: {warning}", markup=False)
    for words in failing:
        err.print(f"fails: {words}", markup=False)


def _head(head: dict[str, Any]) -> None:
    author = head["author"]["name"] if isinstance(head["author"], dict) else head["author"]
    parts = [f"{head.get('number') or head.get('id')}  {_when(head)}  {author}: {head['note'] or 'no note'}"]
    if head.get("approved_by"):
        parts.append(f"approved by {head['approved_by']}")
    if head.get("approvals"):
        parts.append(f"approved by {', '.join(each['by']['name'] for each in head['approvals'])}")
    if head.get("rollback_of"):
        parts.append(f"brought back release {head['rollback_of']}")
    out.print("; ".join(parts), markup=False)
    _changes(head.get("diff", ()), "nothing changed")


def _changes(changes: list[str] | tuple[str, ...], nothing: str) -> None:
    for sentence in changes or [nothing]:
        out.print(f"  {sentence}", markup=False)


def _when(head: dict[str, Any]) -> str:
    from nbx.catalog.time_words import moment

    return moment(head["at_ms"] // 60_000 * 60_000)
