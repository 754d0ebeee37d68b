"""What the command line needs of a running service: HTTP calls whose errors read like the service's own.

Also the place where a service on this machine leaves its key for the command line: `<data_dir>/cli.key`, readable by
its owner only.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from nbx.errors import NbxError, SetupError, Unavailable
from nbx.settings import Settings

KEY_VARIABLE = "NBX_API_KEY"
KEY_FILE = "cli.key"
TIMEOUT_S = 30.0


class Refused(NbxError):
    """The service said no; `problem` is its problem document."""

    code = "refused"

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail", problem)), field=str(problem.get("field", "")))
        self.code = str(problem.get("code", "refused"))
        self.faults: list[dict[str, Any]] = list(problem.get("faults", ()))


class Client:
    """A key and a URL.

    Parameters
    ----------
    url
        Of the service.
    key
        An API key, or empty.
    certificate
        PEM file trusted besides the system's authorities: that of a service on this machine may be self-signed.
    timeout_s
        How long to wait for an answer.
    """

    def __init__(self, url: str, key: str, certificate: Path | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        trusted = ssl.create_default_context()
        if certificate is not None:
            trusted.load_verify_locations(certificate)
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=timeout_s,
            trust_env=False,
            verify=trusted,
            limits=httpx.Limits(max_keepalive_connections=0),  # commands make one call or two: nothing is left open
        )

    def call(self, method: str, path: str, *, json: Any = None, content: bytes | None = None, **query: Any) -> Any:
        """Call the service; returns the decoded answer, None when it is empty.

        Raises
        ------
        Refused
            The service answered with a problem.
        Unavailable
            It did not answer.
        """
        answer = self._answer(method, path, json, content, query)
        return msgspec.json.decode(answer.content) if answer.content else None

    def text(self, path: str) -> str:
        """GET something that is no JSON, as text; raises as `call`."""
        return self._answer("GET", path, None, None, {}).text

    def _answer(
        self, method: str, path: str, json: Any, content: bytes | None, query: Mapping[str, Any]
    ) -> httpx.Response:
        body = msgspec.json.encode(json) if json is not None else content
        parameters = {name: value for name, value in query.items() if value is not None}
        headers = {"content-type": "application/json" if json is not None else "application/yaml"} if body else {}
        try:
            answer = self._http.request(method, path, content=body, params=parameters, headers=headers)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"no answer from {self._http.base_url}: {error}; is `nbx up` running there? (`nbx doctor` tells more)"
            ) from error
        if answer.is_error:
            raise Refused(_problem(answer))
        return answer


def stored_key(settings: Settings) -> str:
    """Return the key to use: of the variable, else of the file in the data directory, else empty."""
    if KEY_VARIABLE in os.environ:
        return os.environ[KEY_VARIABLE]
    path = settings.data_dir / KEY_FILE
    try:
        return path.read_text().strip() if path.is_file() else ""
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}; set {KEY_VARIABLE}") from error


def store_key(settings: Settings, key: str) -> Path:
    """Leave a key for the command line on this machine."""
    path = settings.data_dir / KEY_FILE
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{key}\n")
    return path


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        decoded = None
    if isinstance(decoded, dict):
        return decoded
    return {"detail": f"HTTP {answer.status_code}: {answer.text[:200]}", "code": "refused"}
