"""A tiny served model, and raw HTTP requests in addition to the real client."""

from __future__ import annotations

import http.client
import json
import socket
import time
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.hosting.settings import ServeSettings
from coterie.infer.model import LanguageModel
from coterie.serve.server import ServerThread
from coterie.text.tokenizer import Tokenizer
from tests.infer.models import tiny_model

TEXTS = ['Once upon a time there was a little fox. {"name": "add", "arguments": {"a": 12}} Hello, user!'] * 4
ASK = [{"role": "user", "content": "Hello"}]


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 330)


def language_model(kind: str = "moe", seed: int = 0, max_positions: int = 512) -> LanguageModel:
    model = tiny_model(kind, seed=seed, vocab_size=tokenizer().vocab_size, max_positions=max_positions)
    return LanguageModel(model, tokenizer())


def service(model: LanguageModel | None = None, name: str = "tiny", **settings: Any) -> Service:
    given = ServeSettings.from_dict({"port": 0, "page": False, "drain": 2, **settings})
    return Service(model or language_model(), name, given, aliases=("small",))


def serving(model: LanguageModel | None = None, **settings: Any) -> ServerThread:
    return ServerThread(Host.of(service(model, **settings)))


def call(
    url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    """(status, headers, JSON or text)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, sent, {"content-type": "application/json", **(headers or {})})
    response = connection.getresponse()
    raw = response.read()
    connection.close()
    found = {name.lower(): value for name, value in response.getheaders()}
    data = json.loads(raw) if found.get("content-type", "").startswith("application/json") else raw.decode()
    return response.status, found, data


def error_of(path: str, data: Any) -> str:
    """The message of an error, which must come in the form of the path's protocol."""
    if path.startswith("/v1/messages"):
        assert set(data) == {"type", "error", "request_id"} and data["type"] == "error", data
        assert set(data["error"]) == {"type", "message"}, data
        message = data["error"]["message"]
    elif path.startswith("/api/"):
        assert set(data) == {"error"}, data
        message = data["error"]
    else:
        assert set(data) == {"error"} and set(data["error"]) == {"message", "type", "param", "code"}, data
        assert isinstance(data["error"]["code"], str), data
        message = data["error"]["message"]
    assert isinstance(message, str) and message and "\n" not in message, data
    assert not any(sign in str(data) for sign in ("Traceback", ".py", "coterie/", "/private")), data
    return str(message)


def eventually(check: Any, seconds: float = 10.0) -> None:
    """Wait until `check()` is true."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.01)


def open_request(
    url: str,
    body: dict[str, Any],
    path: str = "/v1/chat/completions",
    buffer: int | None = None,
    key: str = "",
) -> socket.socket:
    """A connection that has sent a request and not read anything."""
    parts = urlsplit(url)
    connection = socket.socket()
    connection.settimeout(20)
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.connect((parts.hostname, parts.port))
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {key}\r\n" if key else ""
    head += f"content-length: {len(sent)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + sent)
    return connection


def hang_up(connection: socket.socket) -> None:
    """Leave without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def slowed(service: Service, seconds: float = 0.02) -> Service:
    """Make every step take at least this long, so that requests are still running when the test looks."""
    step = service.engine.step
    service.engine.step = lambda: (time.sleep(seconds), step())[1]  # type: ignore[method-assign]
    return service


def idle(host: Host) -> bool:
    """Whether nothing is left of any request."""
    engine, thread = host.default.engine, host.default.thread
    nothing = not (engine.busy or engine.cache_bytes or host.num_open)
    return nothing and not (thread.num_waiting or thread._calls or thread._started or thread.listening)
