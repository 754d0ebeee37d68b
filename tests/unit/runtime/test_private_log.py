"""Process logs: whatever goes wrong with a customer, no line names it."""

from __future__ import annotations

import io
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.hashing import pseudonym
from nbx.runtime.private_log import PrivateFormatter

KEY = b"k" * 32
WORDS = (
    "timers wait: customer {} is being changed by too many at once; try again",
    "unexpected error on /v1/customers/{}",
    "unexpected error on /v1/customers/{}/experience/controls",
    "unexpected error on /me/{}",
    "timer merge:{} of partition 3 is dropped: customer {} stands for nobody: its merges go in a circle",
    "timer promise:{} of partition 12 is dropped: something",
    "customer {} would have more than 64 aliases",
    "customer {} is not known here: erased, see erasure 0",
    "customer {}",
)


def logged(words: str, *arguments: object, error: Exception | None = None, key: bytes = KEY) -> str:
    """Return what goes to the file."""
    target = io.StringIO()
    handler = logging.StreamHandler(target)
    handler.setFormatter(PrivateFormatter(key))
    record = logging.LogRecord("nbx", logging.ERROR, __file__, 1, words, arguments, None)
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    handler.handle(record)
    return target.getvalue()


@pytest.mark.parametrize("words", WORDS)
@settings(max_examples=20)
@given(name=st.from_regex(r"\A[A-Z][a-z0-9.@_+-]{5,30}( [A-Z][a-z]{3,9})?\Z"))
def test_no_line_names_a_customer(words: str, name: str) -> None:
    line = logged(words.replace("{}", name))
    assert name not in line
    assert pseudonym(KEY, name) in line
    assert name not in logged(words.replace("{}", name), key=b"")


def test_an_unexpected_error_tells_where_and_what_but_no_values() -> None:
    def fails(customer: str) -> None:
        raise KeyError(customer)

    try:
        fails("anna-17".lower())
    except KeyError as caught:
        error = caught
    text = logged("unexpected error on %s", "/v1/events", error=error)
    assert "KeyError: 'anna-17'" not in text
    assert "KeyError: '…'" in text
    assert "in fails" in text


def test_other_lines_stay_as_they_are() -> None:
    for line in ("keeper ready", "no customer is waiting", "waiting for Redis at unix:///tmp/x.sock: no answer"):
        assert logged(line).rstrip().endswith(f"ERROR nbx: {line}")
