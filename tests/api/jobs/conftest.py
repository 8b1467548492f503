"""One server that keeps files and jobs."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from coterie.serve.server import ServerThread
from tests.serve.support import serving


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    with serving(state_dir=str(tmp_path_factory.mktemp("jobs")), files_mb=2) as running:
        yield running


@pytest.fixture(scope="package")
def client(server: ServerThread) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
