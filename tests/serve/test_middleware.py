"""Who may call: keys, hosts, origins, addresses; and what is logged."""

from __future__ import annotations

import json
import logging
from urllib.parse import quote

import pytest
from starlette.routing import Route

from coterie.cli.messages import show_messages
from coterie.config import ConfigError
from coterie.hosting.settings import ServeSettings
from coterie.serve.app import routes
from coterie.serve.server import check_binding
from tests.serve.support import ASK, call, error_of, serving

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
                assert status == 401 and "authorization: Bearer" in error_of(path, body), path
                assert KEY not in str(headers) + str(body)
            checked += 1
    assert checked >= 60
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
    # Browsers send no origin for pictures and scripts; a link may be followed.
    for site in ("cross-site", "same-site"):
        part = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert status(**part) == 403 and status(**{**part, "sec-fetch-mode": "navigate"}) == 200
    assert status(**{"sec-fetch-site": "same-origin", "sec-fetch-mode": "no-cors"}) == 200
    assert status(host="[") == status(origin="http://[") == 403
    with serving(allowed_hosts=("box.lan",)) as named:
        answer = call(named.url, "GET", "/v1/models", headers={"host": "box.lan"})
        assert answer[0] == 200 and "vary" not in answer[1]


GOOD = "https://good.example"
ASKS = {
    "origin": GOOD,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os,x-stainless-retry-count",
}


@pytest.mark.parametrize("key", [None, KEY])
def test_pages_of_an_allowed_origin_may_read_every_answer(key):
    """As the fetch standard asks: a preflight without the key, then headers on answers of any status."""
    sent = {"origin": GOOD} | ({"authorization": f"Bearer {key}"} if key else {})
    body = {"model": "tiny", "messages": ASK, "max_tokens": 2}
    with serving(allowed_origins=(GOOD + "/",), api_key=key) as running:
        ask = lambda *given, headers=sent: call(running.url, *given, headers=headers)[:2]  # noqa: E731
        answers = [
            (200, ask("GET", "/v1/models")), (200, ask("POST", CHAT, body)), (404, ask("GET", "/nope")),
            (200, ask("POST", CHAT, {**body, "stream": True})), (400, ask("POST", CHAT, {"model": "tiny"})),
            (405, ask("GET", CHAT)), (204, ask("OPTIONS", CHAT, headers=ASKS)),
            (401 if key else 200, ask("GET", "/v1/models", headers={"origin": GOOD})),
        ]  # fmt: skip
        for wanted, (status, headers) in answers:
            assert status == wanted and headers["access-control-allow-origin"] == GOOD, wanted
            assert (
                headers["vary"] == "Origin"
                and "x-coterie-ignored" in headers["access-control-expose-headers"]
            )
        status, preflight = ask("OPTIONS", "/v1/adapters/x", headers=ASKS)
        assert preflight["access-control-allow-headers"] == ASKS["access-control-request-headers"]
        assert "PUT" in preflight["access-control-allow-methods"] and preflight["access-control-max-age"]
        for other in ("https://evil.example", "null", GOOD + ".evil.example", "http://good.example"):
            for method in ("OPTIONS", "GET"):
                status, headers = ask(method, "/v1/models", headers={**ASKS, "origin": other})
                assert status == 403 and "access-control-allow-origin" not in headers
                assert headers["vary"] == "Origin"
        assert "access-control-allow-origin" not in ask("GET", "/health", headers={})[1]


def test_origins_that_no_browser_sends_are_refused():
    given = ("https://a.example:443/", "HTTP://Box:8080", "app://obsidian.md", "*", "null")
    wanted = ("https://a.example", "http://box:8080", "app://obsidian.md", "*", "null")
    assert ServeSettings(allowed_origins=given).allowed_origins == wanted
    for wrong in ("a.example", "https://a.example/page", "https://", "https://*.example/x y", ""):
        with pytest.raises(ValueError, match="origin"):
            ServeSettings(allowed_origins=(wrong,))


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


def test_no_request_adds_a_line_to_the_log(caplog, capsys):
    show_messages("wall", quiet=False)
    forged = "\n2026-11-28 07:00:00,000 req-0 POST /v1/forged 200\r\x1b[2J\u2028"
    body = {"model": "tiny" + forged, "messages": [{"role": "user", "content": forged}], "max_tokens": 3}
    try:
        with serving(log_requests="full", store=False) as running:
            text = json.dumps(body, ensure_ascii=False).encode()
            for path in (CHAT, CHAT + "?" + quote(forged), "/v1/models/" + quote(forged)):
                call(running.url, "POST", path, text, {"x-request-id": "req-0 forged"})
    finally:
        logging.getLogger("coterie").handlers.clear()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and all(line.startswith("20") and line.isprintable() for line in lines), lines
    assert not any("/v1/forged" in line and "body: [" not in line for line in lines)


def test_metrics_name_what_happened(server):
    call(server.url, "POST", CHAT, {"model": "tiny", "messages": ASK, "max_tokens": 3})
    text = call(server.url, "GET", "/metrics")[2]
    for name in (f'coterie_requests_total{{endpoint="{CHAT}",status="200"}}', "coterie_ttft_seconds_bucket",
                 "coterie_generation_tokens_total", "coterie_queue_depth 0", "coterie_running 0",
                 'coterie_expert_load_imbalance{layer="0"}'):  # fmt: skip
        assert name in text, name
