"""The load test: its figures by hand, failures, shared prompts, and a real server."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import coterie
from coterie.agents.load_test import Load, Timed, figures, measure, percentiles, prompt_of
from coterie.config.errors import ConfigError, CoterieError
from coterie.remote.client import Endpoint
from tests.agents.fake import USAGE, FakeServer, chunk
from tests.agents.models import PLAIN, chat_model
from tests.cli.support import call, fails


def test_percentiles_by_hand() -> None:
    assert percentiles([]) is None
    assert percentiles([0.2]) == {"p50": 200.0, "p90": 200.0, "p99": 200.0, "max": 200.0}
    assert percentiles([n / 1000 for n in range(200, 0, -1)]) == {
        "p50": 100.0,
        "p90": 180.0,
        "p99": 198.0,
        "max": 200.0,
    }


def test_figures_by_hand() -> None:
    load = Load(clients=2, requests=4, ttft=1.0, tpot=0.1)
    replies = [Timed(0.5, 0.9, 10, (0.1,) * 9), Timed(2.0, 0.0, 1, ()), Timed(0.5, 1.0, 5, (0.25,) * 4)]
    found = figures(replies, Counter({"queue_full": 1}), 4.0, load)
    assert found["tokens_per_second"] == 4.0 and found["requests_per_second"] == 0.75
    assert found["good_per_second"] == 0.25 and found["good_share"] == 0.25, "late, and slow, are not good"
    assert found["per_token_ms"]["p50"] == 100.0 and found["per_token_ms"]["max"] == 250.0
    assert found["first_token_ms"] == {"p50": 500.0, "p90": 2000.0, "p99": 2000.0, "max": 2000.0}
    assert found["failures"] == {"queue_full": 1} and found["replies"] == 3


def test_prompts() -> None:
    apart = [prompt_of(Load(), number) for number in range(4)]
    assert len({prompt.split()[0] for prompt in apart}) == 4 and apart[0] == prompt_of(Load(), 0)
    alike = [prompt_of(Load(shared=True), number) for number in range(4)]
    assert len({prompt.rsplit(" ", 1)[0] for prompt in alike}) == 1 and len(set(alike)) == 4


def test_times_and_failures_of_a_slow_server() -> None:
    """Three clients at once; every fourth request is refused and every fifth breaks off; all are counted."""
    served = iter(range(-1, 100))

    def answer(path: str, body: dict[str, Any]) -> Any:
        number = next(served)
        if number >= 0 and number % 4 == 3:
            return 429, {"error": {"message": "busy", "code": "queue_full"}}

        def events() -> Iterator[Any]:
            time.sleep(0.1)
            yield chunk({"content": "a"})
            time.sleep(0.05)
            if number < 0 or number % 5 != 4:
                yield chunk({"content": "b"}, "stop")
                yield USAGE

        return events()

    with FakeServer(answer) as server:
        found = measure(Endpoint(server.url), "tiny", Load(clients=3, requests=12, ttft=5, tpot=5))
    assert found["failures"] == {"queue_full": 3, "cut off": 2} and found["replies"] == 7
    assert 100 <= found["first_token_ms"]["p50"] < 400 and 50 <= found["per_token_ms"]["p50"] < 300
    assert found["seconds"] < 12 * 0.15, "the clients work at once"
    assert len(server.seen) == 13 and server.seen[0][1]["max_tokens"] == 64


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer(lambda path, body: [chunk({"content": "a"}, "stop")]) as server:
        with pytest.raises(CoterieError, match="does not report the tokens"):
            measure(Endpoint(server.url), "tiny", Load())
        with pytest.raises(ConfigError, match="at least 1"):
            measure(Endpoint(server.url), "tiny", Load(clients=0))
    assert "give a server's address" in fails(capsys, "bench", "some/model")


def test_a_real_server(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--clients", "4", "--requests", "8", "--prompt-words", "4", "--max-tokens", "6"]
    with coterie.serve_in_thread(chat_model(PLAIN), "tiny", page=False, log_requests="off") as server:
        for form in ([], ["--json"]):
            call("bench", server.url, *sizes, *form)
    words, numbers = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert words.startswith("8 replies, 0 failed") and "first token" in words
    found = json.loads(numbers)
    assert found["replies"] == 8 and found["failures"] == {} and found["first_token_ms"]["p50"] > 0
    assert found["load"]["clients"] == 4 and found["tokens_per_second"] > 0
