"""The one client of the OpenAI HTTP API: requests, streams of events, errors as one line."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from coterie.config.errors import ConfigError, CoterieError
from coterie.config.files import read_bytes
from coterie.config.json_text import JsonError, JsonLimits, parse_json

KEY_VARIABLE = "COTERIE_API_KEY"
MAX_ANSWER = 64 * 2**20  # bytes of one answer or one event; a server that sends more is broken


# A server may repeat keys and cut characters in two; nesting beyond this depth is an attack.
_RECEIVED = JsonLimits(size=MAX_ANSWER, depth=200, repeated_keys=True, not_finite=True, half_surrogates=True)


class EndpointError(CoterieError):
    """A server was unreachable, refused, or broke off. `status`: None without an answer."""

    def __init__(self, message: str, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. `data`: its JSON, or None if it is not JSON."""

    status: int
    headers: Mapping[str, str]
    text: str
    data: Any


def is_url(target: str) -> bool:
    """Whether a MODEL argument names a server."""
    return target.startswith(("http://", "https://"))


def read_key(path: str | None) -> str | None:
    """The key to send: the first line of the file, else the environment's COTERIE_API_KEY, else none.

    No other variable is read, so that a key for one service never reaches another. Errors: `ConfigError` for
    a file that cannot be read, or whose first line is not a key.
    """
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = read_bytes(path, 2**16).decode().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key file {path}: {getattr(error, 'strerror', None) or 'not text'}") from None
    if not key:
        raise ConfigError(f"key file {path}: its first line is empty; write the key on it")
    if len(key.split()) > 1:
        raise ConfigError(f"key file {path}: its first line holds spaces; write the key alone on it")
    return key


class Endpoint:
    """A server's address and key. Nothing is sent before the first call. Usable from several threads.

    `url` may end in `/v1` or not. `timeout`: seconds of silence before giving up; a slow machine needs long
    to read a long prompt. `label`: the name of the server in errors, instead of its address. `transport`: an
    `httpx2` transport that answers in place of the network (`serve.inprocess`).
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 600.0,
        label: str | None = None,
        transport: Any = None,
    ) -> None:
        import httpx2

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"address '{url}': give http://HOST:PORT or https://HOST")
        if parts.query or parts.fragment or parts.username:
            raise ConfigError(f"address '{url}': leave out what follows '?' or '#', and user names")
        self.root = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        self.label = label or self.root
        headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {})
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        waits = httpx2.Timeout(timeout, connect=min(timeout, 10.0))
        # A proxy from the environment cannot reach a server on this machine.
        here = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        self._http = httpx2.Client(
            headers=headers,
            timeout=waits,
            limits=limits,
            follow_redirects=False,
            trust_env=not here,
            transport=transport,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call, whatever its status. `body` is sent as JSON, `content` unchanged, labelled as JSON.

        `headers` are sent too, and may label the content otherwise. Errors: `EndpointError` when there is no
        answer or it is too long.
        """
        sent = content if content is not None else (None if body is None else json.dumps(body).encode())
        with self._open(method, path, sent, headers) as response:
            text = self._read(response, path)
            return Answer(response.status_code, dict(response.headers), text, _json(text))

    def get(self, path: str) -> Any:
        """The JSON of a GET. Errors: `EndpointError` for a status other than 2xx, or without JSON."""
        return self._checked(self.request("GET", path), path)

    def post(self, path: str, body: Any) -> Any:
        """The JSON of a POST. Errors: as for `get`."""
        return self._checked(self.request("POST", path, body), path)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """The JSON of each server-sent event up to `[DONE]`.

        Closing the iterator hangs up, which cancels the reply. Errors: `EndpointError` for a status other
        than 2xx, an error event, an event that is not JSON, a lost connection.
        """
        with self.streaming(path, body) as (status, _, data):
            if status >= 300:
                text = "".join(data)
                raise self._error(path, status, _json(text), text)
            for item in data:
                if item == "[DONE]":
                    return
                event = _json(item)
                if event is None:
                    raise EndpointError(
                        f"{self._where(path)}: an event of the stream is not JSON: {_short(item)}"
                    )
                if isinstance(event, Mapping) and event.get("error"):
                    raise self._error(path, None, event, item)
                yield event

    @contextlib.contextmanager
    def streaming(self, path: str, body: Any) -> Iterator[tuple[int, Mapping[str, str], Iterator[str]]]:
        """A POST answered by a stream: status, headers, and the data of each event as text.

        `[DONE]` is included. With a status other than 2xx the data is the whole text. Leaving the block hangs
        up. Errors: `EndpointError`.
        """
        with self._open("POST", path, json.dumps(body).encode()) as response:
            good = response.is_success
            data = sse_data(self._chunks(response, path)) if good else iter([self._read(response, path)])
            yield response.status_code, dict(response.headers), data

    def models(self) -> list[str]:
        """Names of the models served, in the server's order. Errors: `EndpointError`."""
        listed = self.get("/v1/models")
        data = listed.get("data") if isinstance(listed, Mapping) else None
        names = [m["id"] for m in data or () if isinstance(m, Mapping) and isinstance(m.get("id"), str)]
        if not names:
            raise EndpointError(f"{self._where('/v1/models')}: lists no model")
        return names

    def _where(self, path: str) -> str:
        return self.root + path if self.label == self.root else self.label

    def _open(
        self, method: str, path: str, sent: bytes | None, headers: Mapping[str, str] | None = None
    ) -> Any:
        return _Opened(self, method, path, sent, headers or {})

    def _chunks(self, response: Any, path: str) -> Iterator[bytes]:
        import httpx2

        try:
            yield from response.iter_bytes()
        except httpx2.HTTPError as error:
            raise self._unreachable(path, error) from None

    def _read(self, response: Any, path: str) -> str:
        parts, size = [], 0
        for chunk in self._chunks(response, path):
            size += len(chunk)
            if size > MAX_ANSWER:
                raise EndpointError(f"{self._where(path)}: the answer is longer than {MAX_ANSWER >> 20} MiB")
            parts.append(chunk)
        return b"".join(parts).decode("utf-8", "replace")

    def _checked(self, answer: Answer, path: str) -> Any:
        if not 200 <= answer.status < 300:
            raise self._error(path, answer.status, answer.data, answer.text)
        if answer.data is None:
            raise EndpointError(
                f"{self._where(path)}: the answer is not JSON: {_short(answer.text)}", answer.status
            )
        return answer.data

    def _error(self, path: str, status: int | None, data: Any, text: str) -> EndpointError:
        error = data.get("error") if isinstance(data, Mapping) else None
        fields = error if isinstance(error, Mapping) else {"message": error} if error else {}
        message, code = fields.get("message") or _short(text) or "no reason given", fields.get("code")
        said = " ".join(str(part) for part in (status, code) if part)
        return EndpointError(
            f"{self._where(path)}: {said}: {message}" if said else f"{self._where(path)}: {message}",
            status,
            code,
        )

    def _unreachable(self, path: str, error: Exception) -> EndpointError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return EndpointError(f"{self._where(path)}: {reason}; is the server running, and the address right?")


class _Opened:
    """A context manager for a response that is read as it comes. Errors: `EndpointError` without one."""

    def __init__(
        self, endpoint: Endpoint, method: str, path: str, sent: bytes | None, headers: Mapping[str, str]
    ) -> None:
        self._endpoint, self._path = endpoint, path
        label = {"content-type": "application/json"} if sent is not None else {}
        self._stream = endpoint._http.stream(
            method, endpoint.root + path, content=sent, headers={**label, **headers}
        )

    def __enter__(self) -> Any:
        import httpx2

        try:
            return self._stream.__enter__()
        except httpx2.HTTPError as error:
            raise self._endpoint._unreachable(self._path, error) from None

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)


def sse_data(chunks: Iterator[bytes]) -> Iterator[str]:
    """The `data` of each server-sent event; comments and other fields are skipped.

    Lines are split on line feeds alone, because JSON may contain other characters that Python counts as line
    ends. An event that the end cuts off is dropped. Errors: `EndpointError` for an event longer than
    `MAX_ANSWER` bytes.
    """
    buffer, data = b"", []
    for chunk in chunks:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data).decode("utf-8", "replace")
                data = []
        if len(buffer) + sum(map(len, data)) > MAX_ANSWER:
            raise EndpointError(f"an event of the stream is longer than {MAX_ANSWER >> 20} MiB")


def _json(text: str) -> Any:
    try:
        return parse_json(text, _RECEIVED)
    except JsonError:
        return None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:200] + "..."
