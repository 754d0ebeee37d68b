"""When a call is tried again, and when it is given up: no I/O here, time and luck come from outside.

A call is a generator (`Steps`): it yields what to send or how long to wait, is sent what came of it, and returns its
result. Whoever drives it, blocking or async, needs a few lines, and a test drives it with a clock of its own.

Tried again is what may succeed later (no answer, or 429, 502, 503, 504) and only where doing it twice does what doing
it once does. The pause before attempt n is drawn from [0, min(most, first · 2ⁿ)): "full jitter", so that callers that
failed together do not come back together (M. Brooker, "Exponential Backoff And Jitter", 2015). `Retry-After` is the
least pause; one that ends after the deadline is not waited for. Nothing outlasts the deadline of the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from nbx.clock import SystemClock
from nbx.errors import NbxError, Unavailable
from nbx.hashing import uniform

TEMPORARY = frozenset({429, 502, 503, 504})
"""HTTP statuses after which the same call may succeed."""
TEMPORARY_CODES = frozenset({"unavailable", "state_contended"})
"""Codes of single events in a batch of which the same holds."""


class Refused(NbxError):
    """The service said no; `problem` is its problem document, `code` and `field` are as it says."""

    code = "refused"

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail", problem)), field=str(problem.get("field", "")))
        self.code = str(problem.get("code", "refused"))
        self.faults: list[dict[str, Any]] = list(problem.get("faults", ()))


class DeadlineExceeded(Unavailable):
    """The call's time is over. What it asked for may have been done; asking again with the same ids does no harm."""

    code = "deadline_exceeded"


class Send(NamedTuple):
    """What to send, and how long its answer may take."""

    method: str
    path: str
    body: bytes | None
    timeout_s: float
    query: Mapping[str, Any] = {}
    content_type: str = "application/json"


class Wait(NamedTuple):
    """How long to wait."""

    seconds: float


class Answer(NamedTuple):
    """What came back."""

    status: int
    retry_after: str
    """Header `Retry-After`, or empty."""
    body: bytes


class Lost(NamedTuple):
    """Nothing came back, or not all of it."""

    error: Exception
    in_time: bool
    """False: the time of the attempt ran out."""


T = TypeVar("T")
Steps = Generator[Send | Wait, Answer | Lost | None, T]
"""Yields `Send`, to be sent an `Answer` or `Lost`; or `Wait`, to be sent None."""


class Retry(NamedTuple):
    """How often and how soon a call is tried again.

    Examples
    --------
    >>> [Retry(first_s=0.1, most_s=0.5).longest_s(n) for n in range(4)]
    [0.1, 0.2, 0.4, 0.5]
    """

    attempts: int = 6
    """At most, the first one included; 1: never again."""
    first_s: float = 0.05
    """Longest pause after the first attempt; doubles with each one."""
    most_s: float = 2.0
    """Longest pause of all."""
    attempt_s: float = math.inf
    """How long one attempt may take. Below the deadline it leaves time to ask again when an answer is lost."""

    def longest_s(self, attempt: int) -> float:
        """Longest pause after attempt `attempt`, counted from 0."""
        return min(self.most_s, self.first_s * 2.0**attempt)


class Patience:
    """What one call may still spend.

    Parameters
    ----------
    url
        Of the service, for errors.
    retry
        How often and how soon.
    deadline_s
        How long the call may take in all.
    monotonic
        Tells seconds that only ever grow.
    luck
        Separates this call's pauses from those of others.
    """

    def __init__(self, url: str, retry: Retry, deadline_s: float, monotonic: Callable[[], float], luck: str) -> None:
        self._url = url
        self._retry = retry
        self._monotonic = monotonic
        self._luck = luck
        self._deadline_s = deadline_s
        self._until_s = monotonic() + deadline_s
        self._attempts = 0

    def attempt_s(self) -> float:
        """How long the next attempt may take."""
        left_s = self._until_s - self._monotonic()
        if left_s <= 0.0:
            raise self._over()
        return min(left_s, self._retry.attempt_s)

    def send(self, make: Callable[[float], Send], *, again: bool) -> Steps[bytes]:
        """Have something answered; returns the body.

        Parameters
        ----------
        make
            Lays out an attempt of at most so many seconds.
        again
            Doing it twice does what doing it once does.

        Raises
        ------
        Refused
            The service said no.
        Unavailable
            It did not answer, or said "not now", and enough was tried.
        DeadlineExceeded
            Time ran out.
        """
        while True:
            ask = make(self.attempt_s())
            answer = yield ask
            assert answer is not None
            if isinstance(answer, Answer) and answer.status < 400:
                return answer.body
            if isinstance(answer, Answer) and answer.status not in TEMPORARY:
                raise Refused(problem_of(answer))
            yield self.pause(self._failure(answer), answer, again=again)

    def pause(self, failure: Unavailable, answer: Answer | Lost | None = None, *, again: bool = True) -> Wait:
        """Return the pause before the next attempt, or raise what ends the call."""
        cause = answer.error if isinstance(answer, Lost) else None
        self._attempts += 1
        left_s = self._until_s - self._monotonic()
        if left_s <= 0.0 or (isinstance(answer, Lost) and not answer.in_time and not again):
            raise self._over() from cause or failure
        if not again or self._attempts >= self._retry.attempts:
            raise failure from cause
        longest_s = self._retry.longest_s(self._attempts - 1)
        pause_s = longest_s * uniform(f"{self._luck}/{self._attempts}")
        if isinstance(answer, Answer):
            pause_s = max(pause_s, _asked_s(answer.retry_after))
        if pause_s >= left_s:
            raise self._over() from failure
        return Wait(pause_s)

    def _over(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"{self._url}: not done within {self._deadline_s:g} s, attempts: {self._attempts}")

    def _failure(self, answer: Answer | Lost) -> Unavailable:
        if isinstance(answer, Lost):
            reason = str(answer.error) or type(answer.error).__name__
            told = f"no answer from {self._url}: {reason}; is `nbx up` running there? (`nbx doctor` tells more)"
            return Unavailable(told)
        problem = problem_of(answer)
        return Unavailable(str(problem.get("detail", problem)), code=str(problem.get("code", "")))


def problem_of(answer: Answer) -> dict[str, Any]:
    """Return the problem document of an answer, made up where something in between gave another one."""
    try:
        decoded = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        decoded = None
    if isinstance(decoded, dict):
        return decoded
    return {"detail": f"HTTP {answer.status}: {answer.body[:200].decode(errors='replace')}"}


def _asked_s(retry_after: str) -> float:
    """Seconds that `Retry-After` asks for: a number of seconds or a date (RFC 9110, 10.2.3); what is neither, 0."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - _now()).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _now() -> datetime:
    return datetime.fromtimestamp(SystemClock().now_ms() / 1000, UTC)
