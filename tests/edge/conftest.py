"""One running service with two workers, shared by all tests here that leave it running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.service import Running, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service"), workers=2) as started:
        yield started
