"""Wakes an event loop at a time, to some ten microseconds.

Event loops keep their timers in whole milliseconds, which would be most of a fast answer. Linux has timers that are
files (`timerfd_create(2)`), and a loop can wait for a file. Where they do not exist the loop's own timer has to do; the
report tells how late requests were sent either way.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Pacer:
    """Calls back at times of `time.perf_counter_ns`, one time at a time.

    Parameters
    ----------
    loop
        To wake.
    wake
        Called when the time has come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._handle: asyncio.TimerHandle | None = None
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._file = -1
        if self._libc is not None:
            self._file = int(self._libc.timerfd_create(_MONOTONIC, _FLAGS))
        if self._file >= 0:
            loop.add_reader(self._file, self._fired)

    def at(self, time_ns: int) -> None:
        """Wake at this time, at once when it is over; replaces the time before."""
        if self._file >= 0:
            assert self._libc is not None
            seconds, nanoseconds = divmod(max(time_ns, 1), 1_000_000_000)
            spec = _Itimerspec(_Timespec(0, 0), _Timespec(seconds, nanoseconds))
            self._libc.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(spec), None)
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0, time_ns - time.perf_counter_ns()) / 1e9, self._wake)

    def close(self) -> None:
        """Wake nobody any more."""
        if self._handle is not None:
            self._handle.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _fired(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # armed anew in between
            return
        self._wake()
