"""What computes here, as one short hash: nbx's own code, and the libraries and the processor that bits depend on.

Decisions and steps of the learner carry the hash of the build that made them, so that a replay that comes out otherwise
can say whether other code computed it. Every source file of the package counts, also one that no decision runs through:
the same hash proves the same code, another one proves nothing, and is told only where something differs.
"""

from __future__ import annotations

import platform
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import msgspec
from llvmlite import binding
from msgspec import Struct

LIBRARIES = ("numpy", "numba", "llvmlite", "scipy", "river", "msgspec", "common-expression-language", "tzdata")
"""Distributions whose arithmetic, encoding or tables a decision may depend on."""
SOURCES = (".py", ".lua")
DIGEST_BYTES = 8

Changed = Literal["", "code_changed", "library_changed"]


class Build(Struct, frozen=True, kw_only=True):
    """A build in its parts.

    Examples
    --------
    >>> old = Build(version="1", code="ab", libraries={"numpy": "2.2"})
    >>> new = Build(version="1", code="ab", libraries={"numpy": "2.3"})
    >>> old.changed_to(new), old.changes_to(new)
    ('library_changed', ('numpy 2.2 → 2.3',))
    """

    version: str
    """Of nbx."""
    code: str
    """Digest of the package's source files."""
    libraries: dict[str, str]
    """Python, processor and distributions → version."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits: the same for the same parts, in every process."""
        return blake2b(msgspec.json.encode(self, order="sorted"), digest_size=DIGEST_BYTES).hexdigest()

    def changed_to(self, other: Build) -> Changed:
        """Say what changed; code goes before libraries, as whoever changes both has to look there first."""
        if (self.version, self.code) != (other.version, other.code):
            return "code_changed"
        return "library_changed" if self.libraries != other.libraries else ""

    def changes_to(self, other: Build) -> tuple[str, ...]:
        """Say each change in words."""
        words = []
        if (self.version, self.code) != (other.version, other.code):
            words.append(f"nbx {self.version} ({self.code}) → {other.version} ({other.code})")
        for name in sorted(self.libraries.keys() | other.libraries.keys()):
            before, after = self.libraries.get(name, "none"), other.libraries.get(name, "none")
            if before != after:
                words.append(f"{name} {before} → {after}")
        return tuple(words)


@cache
def current_build() -> Build:
    """Return the build that runs here. The first call reads the package's files, some 20 ms."""
    from nbx import __version__

    libraries = {"python": platform.python_version(), "cpu": f"{platform.machine()} {binding.get_host_cpu_name()}"}
    for name in LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            libraries[name] = "none"
    return Build(version=__version__, code=digest_of(Path(__file__).parent), libraries=libraries)


def digest_of(package: Path) -> str:
    """Digest the source files under a folder, names and contents, in the order of their names."""
    hasher = blake2b(digest_size=DIGEST_BYTES)
    for path in sorted(path for path in package.rglob("*") if path.suffix in SOURCES):
        hasher.update(f"{path.relative_to(package).as_posix()}\0".encode())
        hasher.update(blake2b(path.read_bytes(), digest_size=16).digest())
    return hasher.hexdigest()
