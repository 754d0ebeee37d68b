"""The one table from error codes to HTTP and gRPC, and the problem documents (RFC 9457) made from it."""

from __future__ import annotations

import re
from typing import NamedTuple, get_args

import grpc
import msgspec

from nbx import errors
from nbx.api.messages import Fault, Problem
from nbx.decision.messages import Explain, Mode

PROBLEM_TYPE = "application/problem+json"


class Status(NamedTuple):
    """How an error class looks from outside."""

    http: int
    grpc: grpc.StatusCode
    title: str


STATUS: dict[type[errors.NbxError], Status] = {
    errors.NbxError: Status(500, grpc.StatusCode.INTERNAL, "Internal error"),
    errors.Invalid: Status(400, grpc.StatusCode.INVALID_ARGUMENT, "The request is wrong"),
    errors.TooLarge: Status(413, grpc.StatusCode.INVALID_ARGUMENT, "The request is too large"),
    errors.Unsupported: Status(422, grpc.StatusCode.FAILED_PRECONDITION, "Not supported by this version"),
    errors.Unknown: Status(404, grpc.StatusCode.NOT_FOUND, "Not found"),
    errors.Expired: Status(410, grpc.StatusCode.NOT_FOUND, "No longer kept"),
    errors.Conflict: Status(409, grpc.StatusCode.ABORTED, "Conflict"),
    errors.Unauthenticated: Status(401, grpc.StatusCode.UNAUTHENTICATED, "An API key is needed"),
    errors.Forbidden: Status(403, grpc.StatusCode.PERMISSION_DENIED, "Not allowed with this API key"),
    errors.Unavailable: Status(503, grpc.StatusCode.UNAVAILABLE, "Not available right now"),
    errors.NotReady: Status(503, grpc.StatusCode.UNAVAILABLE, "Not ready"),
    errors.SetupError: Status(422, grpc.StatusCode.FAILED_PRECONDITION, "The set-up is wrong"),
}


def status_of(error: errors.NbxError) -> Status:
    """Return the status of an error's nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(error: errors.NbxError) -> Problem:
    """Describe an error; what is not ours to tell (500) is not told."""
    status = status_of(error)
    return Problem(
        type=f"urn:nbx:problem:{error.code}",
        title=status.title,
        status=status.http,
        detail=error.message,
        code=error.code,
        field=error.field,
        faults=tuple(Fault(code=error.code, detail=text) for text in getattr(error, "faults", ())),
    )


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a codec raises for a body it cannot read."""

_ALLOWED = {"mode": get_args(Mode), "explain": get_args(Explain)}
_PATH = re.compile(r" - at `(?:key in )?\$\.?(.*?)`$")


def from_decode(error: Exception) -> errors.Invalid:
    """Turn a codec's complaint into ours, with the field it names.

    Examples
    --------
    >>> wrong = from_decode(msgspec.ValidationError("Expected `int`, got `str` - at `$.slots`"))
    >>> wrong.field, wrong.message
    ('slots', 'Expected `int`, got `str`')
    """
    text = str(error)
    if isinstance(error, RecursionError):
        return errors.Invalid("the body is nested too deeply", code="json_malformed")
    if not isinstance(error, msgspec.ValidationError):
        return errors.Invalid(f"the body is not valid JSON: {text}", code="json_malformed")
    found = _PATH.search(text)
    path = found.group(1).replace("[...]", "") if found else ""
    missing = re.search(r"missing required field `(\w+)`", text)
    if missing:
        path = f"{path}.{missing.group(1)}".lstrip(".")
    told = _PATH.sub("", text)
    if path.rpartition(".")[2] in _ALLOWED and "enum" in told:
        told += f"; it must be one of {', '.join(_ALLOWED[path.rpartition('.')[2]])}"
    return errors.Invalid(told, field=path, code="field_invalid")
