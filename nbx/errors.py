"""One exception tree; each class has a stable `code` that callers may rely on.

No transport is known here: `nbx.api.errors` maps every code to a problem document and a gRPC status.

    NbxError
    ├── Invalid                 the request is wrong; names the field
    │   ├── TooLarge            a bound of `nbx.limits` was passed
    │   └── Unsupported         a version or feature this build does not have
    ├── Unknown                 the thing named does not exist
    │   └── Expired             it did, but its window has closed
    ├── Conflict                the thing exists already, or changed underneath
    ├── Unauthenticated         no valid API key
    ├── Forbidden               the key lacks the scope, or may not do this alone
    ├── Unavailable             a dependency is down or late
    │   └── NotReady            the service has no published release yet
    └── SetupError              settings, catalog or files are wrong: what an operator has to change
"""

from __future__ import annotations


class NbxError(Exception):
    """Root of the tree.

    Parameters
    ----------
    message
        What was wrong and what to do about it.
    field
        Path of the offending field (`context.age`, `events[3].slot`), or "" when none is to blame.
    code
        A narrower stable code than the class's own.
    """

    code = "internal"

    def __init__(self, message: str, *, field: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        if code:
            self.code = code


class Invalid(NbxError):
    """The request is wrong."""

    code = "invalid"


class TooLarge(Invalid):
    """A bound was passed."""

    code = "too_large"


class Unsupported(Invalid):
    """Right in form, but this build cannot do it."""

    code = "unsupported"


class Unknown(NbxError):
    """The thing named does not exist."""

    code = "unknown"


class Expired(Unknown):
    """The thing existed; its window has closed."""

    code = "expired"


class Conflict(NbxError):
    """The thing exists already or changed underneath."""

    code = "conflict"


class Unauthenticated(NbxError):
    """No valid API key came with the request."""

    code = "unauthenticated"


class Forbidden(NbxError):
    """The key lacks the scope, or may not do this alone."""

    code = "forbidden"


class Unavailable(NbxError):
    """A dependency is down or late; the same call may succeed later."""

    code = "unavailable"


class NotReady(Unavailable):
    """The service runs but has nothing to decide with yet."""

    code = "not_ready"


class SetupError(NbxError):
    """Settings, files or the machine are wrong; `faults` lists all of them.

    Examples
    --------
    >>> print(SetupError("two settings are wrong", faults=("NBX_PORT: 0 is not a port", "NBX_WORKERS: must be >= 1")))
    two settings are wrong
      NBX_PORT: 0 is not a port
      NBX_WORKERS: must be >= 1
    """

    code = "setup"

    def __init__(self, message: str, *, faults: tuple[str, ...] = (), field: str = "") -> None:
        super().__init__(message, field=field)
        self.faults = faults

    def __str__(self) -> str:
        return "\n  ".join((self.message, *self.faults))
