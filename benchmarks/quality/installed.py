"""Which version of a peer is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def version_of(package: str, adapter: int) -> str | None:
    """Name the package's version and the adapter's; None when the package is not installed.

    Examples
    --------
    >>> version_of("no-such-package", 1) is None
    True
    """
    try:
        return f"{version(package)}/{adapter}"
    except PackageNotFoundError:
        return None
