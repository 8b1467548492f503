"""Who may call: keys, hosts, origins, addresses; and what is logged."""

from __future__ import annotations

import logging

import pytest
from starlette.routing import Route

from coterie.config import ConfigError
from coterie.serve.app import routes
from coterie.serve.core.settings import ServeSettings
from coterie.serve.server import check_binding
from tests.serve.support import ASK, call, serving

KEY = "a-long-enough-key"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def guarded():
    with serving(api_key=KEY) as running:
        yield running


def test_every_route_but_two_wants_the_key(guarded):
    checked = 0
    for route in routes():
        if not isinstance(route, Route):
            continue
        path = route.path.replace("{name:path}", "tiny")
        for method in route.methods - {"HEAD"}:
            status, headers, body = call(guarded.url, method, path, {} if method == "POST" else None)
            if path in ("/health", "/ready"):
                assert status == 200
            else:
                assert status == 401 and body["error"]["code"] == "invalid_api_key", path
                assert KEY not in str(headers) + str(body)
            checked += 1
    assert checked >= 14
    assert call(guarded.url, "GET", "/")[0] == 401


@pytest.mark.parametrize(
    "given",
    [
        "",
        KEY,
        f"Basic {KEY}",
        f"Bearer {KEY}x",
        "Bearer",
        f"Bearer {KEY[:-1]}",
        "Bearer \u00e9".encode("latin-1"),
    ],
)
def test_wrong_keys(guarded, given):
    headers = {"authorization": given.decode("latin-1") if isinstance(given, bytes) else given}
    assert call(guarded.url, "GET", "/v1/models", headers=headers)[0] == 401


@pytest.mark.parametrize("given", [f"Bearer {KEY}", f"bearer {KEY}"])
def test_the_right_key(guarded, given):
    assert call(guarded.url, "GET", "/v1/models", headers={"authorization": given})[0] == 200


def test_hosts_and_origins(server):
    status = lambda **headers: call(server.url, "GET", "/v1/models", headers=headers)[0]  # noqa: E731
    assert status(host="localhost:1") == status(host="127.0.0.1") == status(host="[::1]:3") == 200
    assert status(host="evil.example") == status(host="127.0.0.1.evil.example") == 403
    own = server.url.removeprefix("http://")
    assert status(host=own, origin=f"http://{own}") == 200
    assert status(origin="https://evil.example") == status(origin="null") == 403
    assert status(host="[") == status(origin="http://[") == 403
    with serving(allowed_origins=("https://good.example",), allowed_hosts=("box.lan",)) as open_server:
        answer = call(
            open_server.url,
            "GET",
            "/v1/models",
            headers={"origin": "https://good.example", "host": "box.lan"},
        )
        assert answer[0] == 200 and "access-control-allow-origin" not in answer[1]


def test_other_addresses_need_a_key():
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ConfigError, match="api-key-file"):
            check_binding(ServeSettings(host=host))
        check_binding(ServeSettings(host=host, api_key=KEY))
        check_binding(ServeSettings(host=host, insecure_no_auth=True))
    for host in ("127.0.0.1", "localhost", "::1"):
        check_binding(ServeSettings(host=host))


@pytest.mark.parametrize("level", ["off", "meta", "full"])
def test_logs(level, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "Zanzibar"
    body = {"model": "tiny", "messages": [{"role": "user", "content": secret}], "max_tokens": 3}
    with serving(log_requests=level, api_key=KEY) as running:
        headers = {"authorization": f"Bearer {KEY}"}
        assert call(running.url, "POST", CHAT, body, headers)[0] == 200
        assert call(running.url, "POST", CHAT, {**body, "messages": secret}, headers)[0] == 400
        metrics = call(running.url, "GET", "/metrics", headers=headers)[2]
    assert KEY not in caplog.text and secret not in metrics and KEY not in metrics
    assert (secret in caplog.text) == (level == "full")
    assert (CHAT in caplog.text) == (level != "off")


def test_metrics_name_what_happened(server):
    call(server.url, "POST", CHAT, {"model": "tiny", "messages": ASK, "max_tokens": 3})
    text = call(server.url, "GET", "/metrics")[2]
    for name in (f'coterie_requests_total{{endpoint="{CHAT}",status="200"}}', "coterie_ttft_seconds_bucket",
                 "coterie_generation_tokens_total", "coterie_queue_depth 0", "coterie_running 0",
                 'coterie_expert_load_imbalance{layer="0"}'):  # fmt: skip
        assert name in text, name
