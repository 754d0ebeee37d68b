"""What holds for every test: draws made in this process repeat from run to run; what is compiled is kept."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from nbx.hashing import hash64

# or each of some hundred processes that tests start would compile all of nbx anew, half a second
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(autouse=True)
def seeded_ids(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decision ids, and with them every draw, follow from the test's name alone; the ids of other processes do not."""
    rng = np.random.default_rng(hash64(request.node.nodeid, "test"))
    monkeypatch.setattr("nbx.ids.urandom", rng.bytes)
