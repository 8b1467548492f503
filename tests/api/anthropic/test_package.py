"""The released `anthropic` package: lists, errors, betas, retries (slow); `tests/serve` talks with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients import environment, run
from tests.serve.support import serving

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "package_calls.py"


def test_what_the_package_makes_of_the_answers(tmp_path):
    python = environment("anthropic-2.14.0", "anthropic==2.14.0")
    with serving(drain=1) as server:
        found = json.loads(run(python, [str(SCRIPT), server.url, "answers"], tmp_path))
        server.host.refuse()
        refused = json.loads(run(python, [str(SCRIPT), server.url, "refusals"], tmp_path))
    assert found == {
        "models": ["tiny", "small"],
        "model": "small",
        "created": True,
        "errors": [
            ["NotFoundError", 404, "not_found_error", True],
            ["BadRequestError", 400, "invalid_request_error", True],
            ["BadRequestError", 400, "invalid_request_error", True],
        ],
        "beta": ["max_tokens", 8, "/messages"],
        "request id": True,
        "stream": ["message_start", "message_stop", 8],
        "together": [True, True, True],
    }
    assert refused == ["OverloadedError", 529, "overloaded_error", 2]
