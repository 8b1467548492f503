"""Keys with names and limits: who is let in, what each may use, and what is counted."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.hosting import keys
from coterie.hosting.host import Host
from coterie.hosting.keys import KeySettings, read_keys
from tests.serve.support import (
    ASK,
    call,
    eventually,
    hang_up,
    language_model,
    open_request,
    service,
    serving,
    slowed,
)

ANNA, BERT, CARA = "anna-secret-1", "bert-secret-2", "cara-secret-3"
EVERY = {"tiny", "small", "x", "y", "tiny:x"}
LIMITED: list[dict[str, Any]] = [
    {"name": "anna", "key": ANNA},
    {"name": "bert", "key": BERT, "requests_per_minute": 2, "models": ["small"]},
    {"name": "cara", "key": CARA, "tokens_per_minute": 18},
]


def ask(url: str, key: str, model: str = "tiny", **more: Any) -> tuple[int, dict[str, str], Any]:
    body = {"model": model, "messages": ASK, "max_tokens": 2, **more}
    return call(url, "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})


def test_limits_hold_per_key_and_use_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(language_model(), keys=LIMITED) as server:
        assert ask(server.url, "wrong")[2]["error"]["code"] == "invalid_api_key"
        status, _, body = ask(server.url, BERT, "nothing")
        assert status == 404
        status, headers, body = ask(server.url, BERT, "small")
        assert status == 200 and headers["x-ratelimit-remaining-requests"] == "0"
        status, headers, body = ask(server.url, BERT, "small")
        assert status == 429 and body["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(headers["retry-after"]) <= 60
        status, headers, body = ask(server.url, CARA)
        assert status == 200 and headers["x-ratelimit-limit-tokens"] == "18"
        used = body["usage"]["total_tokens"]
        assert used >= 18  # a running reply is not cut off
        assert ask(server.url, CARA)[0] == 429
        assert [ask(server.url, ANNA)[0] for _ in range(3)] == [200] * 3
        # Reading what is served costs nothing.
        for _ in range(3):
            assert call(server.url, "GET", "/v1/models", headers={"x-api-key": BERT})[0] == 200
        page = call(server.url, "GET", "/metrics", headers={"x-api-key": ANNA})[2]
        assert 'coterie_key_requests_total{key="anna"} 3' in page
        assert f'coterie_key_tokens_total{{key="cara",kind="prompt"}} {used - 2}' in page
        assert 'coterie_key_tokens_total{key="cara",kind="completion"} 2' in page
        assert not any(secret in page for secret in (ANNA, BERT, CARA))
        # A minute later the window is empty again.
        monkeypatch.setattr(keys, "_WINDOW", 0.0)
        assert ask(server.url, BERT, "small")[0] == 200


def test_a_key_names_the_models_it_may_use() -> None:
    only = [{"name": "bert", "key": BERT, "models": ["other"]}]
    with serving(language_model(), keys=only) as server:
        status, _, body = ask(server.url, BERT)
        assert status == 403 and body["error"]["code"] == "model_not_allowed"
        status, _, body = call(server.url, "PUT", "/v1/adapters/x", headers={"x-api-key": BERT})
        assert status == 403 and "may not add" in body["error"]["message"]


def test_keys_share_no_prompts_and_a_key_pays_for_what_was_read() -> None:
    """Row 20 of the faults: nobody learns from `cached_tokens` or the time what another key has asked."""
    body = {"model": "tiny", "prompt": [7] * 64, "max_tokens": 1}
    both = [{"name": "anna", "key": ANNA}, {"name": "bert", "key": BERT}]
    with serving(language_model(max_positions=4096), keys=both, prefill_chunk=16) as server:

        def cached(key: str, **more: Any) -> int:
            head = {"authorization": f"Bearer {key}"}
            usage = call(server.url, "POST", "/v1/completions", {**body, **more}, head)[2]["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert cached(ANNA) == 0 < cached(ANNA)
        assert cached(BERT) == 0 < cached(BERT)
        assert cached(ANNA, cache_salt="own") == 0 < cached(ANNA, cache_salt="own")
        slowed(server.service)
        long = {**body, "prompt": [9] * 3000}
        connection = open_request(server.url, long, "/v1/completions", key=BERT)
        eventually(lambda: server.service.engine.num_running and server.service.engine.cache_bytes)
        time.sleep(0.05)
        hang_up(connection)
        eventually(lambda: not server.host.num_open)
        page = call(server.url, "GET", "/metrics", headers={"x-api-key": ANNA})[2]
        read = int(page.split('coterie_key_tokens_total{key="bert",kind="prompt"} ')[1].split()[0])
        assert 128 < read < 128 + 3000


@pytest.mark.parametrize(
    ("allowed", "open_to"),
    [("x", {"x", "tiny:x"}), ("tiny", EVERY), ("small", EVERY)],
)
def test_a_key_for_an_adapter_may_use_no_other_variant(allowed: str, open_to: set[str]) -> None:
    host = Host.of(service())
    host.default.adapter_paths = {"x": Path("x"), "y": Path("y")}
    holder = keys.Holder(KeySettings(name="a", key=ANNA, models=(allowed,)), keys.Metrics())  # type: ignore[arg-type]

    def may(name: str | None) -> bool:
        before = keys.HOLDER.set(holder)
        try:
            asyncio.run(host.find(name, {}))
        except keys.ApiError as error:
            assert error.code == "model_not_allowed"
            return False
        finally:
            keys.HOLDER.reset(before)
        return True

    assert {name for name in EVERY if may(name)} == open_to
    assert may(None) == ("tiny" in open_to)


def test_requests_at_once_are_limited() -> None:
    holder = keys.Holder(KeySettings(name="a", key=ANNA, concurrency=1), keys.Metrics())  # type: ignore[arg-type]
    with holder.request(), pytest.raises(keys.ApiError, match="1 requests at once"), holder.request():
        pass
    with holder.request():
        pass
    assert holder.num_running == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keys: []", "at least 1"),
        ("keys: [{name: a, key: short}]", "take at least 8"),
        ("keys: [{name: a, key: long-enough}, {name: a, key: long-other}]", "two entries have one name"),
        ("keys: [{name: a, key: long-enough}, {name: b, key: long-enough}]", "two entries have one key"),
        ("keys: [{name: a, key: long-enough, requests_per_minut: 3}]", "requests_per_minut"),
        ("keys: [{name: 'a b', key: long-enough}]", "name"),
    ],
)
def test_key_files_with_mistakes_are_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_keys(file)
    assert "\n" not in str(caught.value) and "long-enough" not in str(caught.value)
