"""One server for the tests of graders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import coterie
from tests.agents.models import chat_model


@pytest.fixture(scope="package")
def url() -> Iterator[str]:
    """Our server with a random model that closes what it opens (others think or write for ever)."""
    with coterie.serve_in_thread(chat_model(None, 1024, 4), "tiny", page=False, log_requests="off") as server:
        yield server.url
