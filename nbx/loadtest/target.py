"""Where a load may go: this machine, unless another one was allowed by name; and whether it can be served there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

import httpx
from msgspec import Struct

from nbx.client import Client, NbxError, Retry
from nbx.errors import NotReady, SetupError, Unavailable
from nbx.loadtest.scenario import BatchCall, Call, EventsCall
from nbx.settings import Settings

LOOK_S = 10.0
"""Seconds a single call before the load may take."""


class Target(Struct, frozen=True, kw_only=True):
    """The service that gets the load."""

    url: str
    grpc: str
    """`host:port`."""
    key: str
    settings: Settings


def target_of(url: str, grpc: str, key: str, settings: Settings, *, allow_remote: bool) -> Target:
    """Check where the load is to go.

    Parameters
    ----------
    url, grpc
        Empty: those of the settings.
    key
        API key.
    settings
        Of the service on this machine.
    allow_remote
        Whether another machine may get the load.

    Raises
    ------
    SetupError
        It is no address, or another machine's and that was not allowed.

    Examples
    --------
    >>> target_of("", "", "", Settings(port=9000), allow_remote=False).url
    'http://127.0.0.1:9000'
    """
    url = (url or settings.url).rstrip("/")
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise SetupError(f"{url!r} is no URL of a service: {error}", field="url") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        raise SetupError(f"{url!r} is no URL of a service: it looks like http://127.0.0.1:8080", field="url")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    grpc = grpc or f"{host}:{settings.grpc_port}"
    for address, where in ((parts.hostname, url), (urlsplit(f"//{grpc}").hostname or "", grpc)):
        if not allow_remote and not is_loopback(address):
            raise SetupError(
                f"{where} is not this machine: a load test can take a service down, so another machine has to be "
                "allowed with --allow-remote, and its owner asked"
            )
    return Target(
        url=url if port else f"{url}:{443 if parts.scheme == 'https' else 80}", grpc=grpc, key=key, settings=settings
    )


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is this machine's own; names are not looked up.

    Examples
    --------
    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "10.0.0.1", "example.org", "127.0.0.1.nip.io")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def release_in_force(target: Target, *, is_start: bool = False) -> int:
    """Return the number of the release in force there; 0 when it cannot tell.

    Raises
    ------
    NbxError
        `is_start`: nobody answers there, or it is not ready.
    """
    try:
        with httpx.Client(verify=_verify(target), trust_env=False, timeout=LOOK_S) as client:
            answer = client.get(f"{target.url}/health/ready")
            state = answer.json()
            release = int(state.get("release", 0))
    except httpx.HTTPError as error:
        if is_start:
            raise Unavailable(f"{target.url} cannot be reached: {error}; is `nbx up` running?") from error
        return 0
    except (ValueError, AttributeError) as error:
        if is_start:
            raise Unavailable(f"what answers on {target.url} is not nbx") from error
        return 0
    if is_start and answer.is_error:
        raise NotReady(f"{target.url} is not ready: {state.get('reason', answer.status_code)}")
    return release


def try_calls(target: Target, mix: Iterable[Call]) -> None:
    """Preview one decision of each placement, so that a wrong key or a wrong name is told before the load.

    Raises
    ------
    NbxError
        As the service said it.
    """
    placements = {c.placement: c for c in mix if not isinstance(c, EventsCall)}
    once = Retry(attempts=1)
    with Client(target.url, target.key, target.settings.tls_cert, deadline_s=LOOK_S, retry=once) as client:
        for placement, call in placements.items():
            body = {"customer_id": "load-preview", "placement": placement, "slots": call.slots, "mode": "preview"}
            try:
                client.call("POST", "/v1/decisions", json=body)
            except NbxError as error:
                kind = "batch" if isinstance(call, BatchCall) else "decision"
                raise SetupError(
                    f"{target.url} refuses a {kind} of the mix ({placement}, {call.slots} slots): {error.message} "
                    f"({error.code})"
                ) from error


def _verify(target: Target) -> bool | str:
    certificate = target.settings.tls_cert
    return str(certificate) if certificate is not None else True
