"""A tiny served model, and raw HTTP requests in addition to the real client."""

from __future__ import annotations

import http.client
import json
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


def eventually(check: Any, seconds: float = 10.0) -> None:
    """Wait until `check()` is true."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.01)
