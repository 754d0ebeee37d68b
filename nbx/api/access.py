"""Who may call a Litestar route: the guard that reads the scopes a handler asks for, and the key that came with it."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from nbx.api.auth import KeyRecord, Scope
from nbx.api.console_routes import trusted_browser
from nbx.api.wiring import Services
from nbx.errors import Forbidden
from nbx.features.trail import Author

READERS: tuple[Scope, ...] = ("catalog", "audit")
"""Either of them opens what may be read of the catalog's history."""


def scope_guard(services: Services) -> Any:
    """Return a guard that checks the key for the scope in a handler's `opt`; of several, one is enough."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        wanted: Scope | tuple[Scope, ...] | None = handler.opt.get("scope")
        if wanted is None:
            return
        scopes = (wanted,) if isinstance(wanted, str) else wanted
        if "audit" in scopes and trusted_browser(connection, services):
            return
        header = connection.headers.get("authorization")
        for scope in scopes:
            try:
                connection.scope["nbx_key"] = services.keys.check(header, scope)  # type: ignore[typeddict-unknown-key]
            except Forbidden:
                if scope == scopes[-1]:
                    raise
            else:
                return

    return guard


def author_of(request: Request[Any, Any, Any]) -> Author:
    """Return whose API key a guarded request came with."""
    key: KeyRecord = request.scope["nbx_key"]  # type: ignore[typeddict-item]
    return Author(key.id, key.name)


def caller(request: Request[Any, Any, Any]) -> str:
    """Name and id of the API key a request came with."""
    return str(author_of(request))


def is_admin(request: Request[Any, Any, Any]) -> bool:
    """Tell whether a guarded request came with an admin's key; never when authentication is off."""
    key: KeyRecord | None = request.scope.get("nbx_key")  # type: ignore[assignment]
    return key is not None and "admin" in key.scopes and not key.is_anyone
