"""`nbx report roi`: what nbx earns."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from nbx.cli_options import AsJson, Url, client_of, out, show

WAIT_S = 900.0
"""How long to wait: a long log is read from one end to the other."""

Since = Annotated[
    str, typer.Option(help="Epoch ms, RFC 3339, or a time ago such as 24h; default: when the shares in force began.")
]
Until = Annotated[str, typer.Option(help="Customers first met before; default now.")]
OfPlacement = Annotated[str, typer.Option("--placement", help="Only decisions of this placement.")]
Follow = Annotated[str, typer.Option(help="How long each customer is followed from its first decision.")]


def report_roi(
    since: Since = "",
    until: Until = "",
    placement: OfPlacement = "",
    follow: Follow = "7d",
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Say what nbx earns against silence and chance; look as often as you like."""
    from nbx.audit.roi_report import ReturnReport
    from nbx.audit.tables_roi import show_roi

    report = client_of(url, WAIT_S).call(
        "GET", "/v1/reports/roi", since=since, until=until, placement=placement, follow=follow
    )
    show(report) if as_json else out.print(show_roi(msgspec.convert(report, ReturnReport)))
