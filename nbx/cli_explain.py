"""`nbx decisions explain`: why this, and why not that, in words."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nbx.cli_options import AsJson, Url, client_of, out, show

EXPLAIN_S = 120.0
"""How long to wait: explanations take turns, and one about an action reads the customer's past."""
WhyNot = Annotated[str, typer.Option("--why-not", metavar="ACTION", help="Why not this action, and what it takes.")]


def decisions_explain(decision_id: str, why_not: WhyNot = "", as_json: AsJson = False, url: Url = "") -> None:
    """Say why this, and why not that."""
    query: dict[str, Any] = {"action": why_not} if why_not else {}
    explanation = client_of(url, EXPLAIN_S).call("GET", f"/v1/decisions/{decision_id}/explanation", **query)
    if as_json:
        show(explanation)
        return
    for line in explanation["told"]:
        out.print(line, markup=False)
