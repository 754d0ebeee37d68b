"""`nbx catalog`: what the company may do, from a file on the desk to the release in force."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbx.cli_options import AsJson, Url, client_of, err, out, read_text, show

catalog_app = typer.Typer(no_args_is_help=True, help="Check, publish and take back what the company may do.")


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


@catalog_app.command("publish")
def catalog_publish(
    file: Path,
    note: Annotated[str, typer.Option(help="What changed and why.")] = "",
    base: Annotated[
        int | None, typer.Option(help="Release the draft started from; refused when it is not in force.")
    ] = None,
    url: Url = "",
) -> None:
    """Check a catalog and put it in force."""
    published = client_of(url).call(
        "POST", "/v1/catalog/releases", content=read_text(file).encode(), note=note, base=base
    )
    for warning in published["warnings"]:
        err.print(f"warning: {warning}", markup=False)
    out.print(f"release {published['release']} of {published['catalog']} is in force")
