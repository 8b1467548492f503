"""One server for the tests that only send requests."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from coterie.serve.server import ServerThread
from tests.serve.scripted import for_clients, scripted
from tests.serve.support import serving


@pytest.fixture(scope="package")
def server() -> Iterator[ServerThread]:
    with serving() as running:
        yield running


@pytest.fixture(scope="package")
def client(server: ServerThread) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="package")
def scripted_server() -> Iterator[ServerThread]:
    """A model that calls tools when a client offers them, for released clients (slow tests)."""
    with scripted(for_clients) as running:
        yield running
