"""The log file of a child process: bounded, and read for what an operator has to see.

Children write to their file themselves (append mode), so a dying supervisor breaks no pipe of theirs. The supervisor
looks at each file twice a second: it repeats warnings and errors, and cuts a file that has grown too long. Cutting
copies and truncates; what a child writes between the two is lost.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOG_BYTES = 10 << 20
"""Size above which a log is cut; the part before is kept once, as `<name>.log.1`."""
READ_BYTES = 1 << 20
"""Most that is read per look; a child that writes more is not followed line by line."""
REPEATED_LINES = 10
"""Most lines repeated per look and child: the console is for people."""

_ALARM = re.compile(r"\b(WARNING|WARN|ERROR|CRITICAL|FATAL)\b|^\w*(Error|Exception): ")


class ChildLog:
    """Log of one child, followed from its end at construction.

    Parameters
    ----------
    path
        File, need not exist yet.
    unremarkable
        Lines that contain one of these are no alarm.
    """

    def __init__(self, path: Path, unremarkable: tuple[str, ...] = ()) -> None:
        self.path = path
        self._unremarkable = unremarkable
        self._offset = self._size()
        self._rest = b""

    def open(self) -> int:
        """Open for appending and return the descriptor, to be handed to a child and closed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def cut(self) -> None:
        """Keep the file below `LOG_BYTES`."""
        if self._size() > LOG_BYTES:
            shutil.copyfile(self.path, self.path.with_name(f"{self.path.name}.1"))
            os.truncate(self.path, 0)
            self._offset, self._rest = 0, b""

    def alarms(self) -> list[str]:
        """Take the complete lines written since the last call and return those that tell of trouble."""
        size = self._size()
        if size < self._offset:
            self._offset, self._rest = 0, b""
        if size == self._offset:
            return []
        with self.path.open("rb") as file:
            file.seek(max(self._offset, size - READ_BYTES))
            data = file.read()
            self._offset = file.tell()
        *lines, self._rest = (self._rest + data).split(b"\n")
        texts = [line.decode("utf-8", "replace").strip() for line in lines]
        found = [text for text in texts if _ALARM.search(text) and not any(u in text for u in self._unremarkable)]
        if len(found) > REPEATED_LINES:
            more = len(found) - REPEATED_LINES
            return [*found[:REPEATED_LINES], f"{more} more warnings and errors in {self.path}"]
        return found

    def last(self, count: int = 10) -> list[str]:
        """Return the last lines, oldest first."""
        size = self._size()
        if not size:
            return []
        with self.path.open("rb") as file:
            file.seek(max(0, size - 200 * count))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return [line for line in lines if line.strip()][-count:]

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0
