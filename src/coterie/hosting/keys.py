"""The keys of a server: their names, what each may use, and what each has used.

A key's limits hold for windows of the last 60 seconds. Tokens are counted as they are read and generated, so
a request is refused once the window is full, and a running reply is never cut off.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from coterie.config import ConfigError, Settings
from coterie.hosting.errors import ApiError
from coterie.hosting.metrics import Metrics

SHORTEST = 8  # characters of a key
_WINDOW = 60.0
Count = Annotated[int, Field(ge=1)]


class KeySettings(Settings):
    """One key of a key file."""

    name: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    key: SecretStr
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrency: Count | None = None
    models: tuple[str, ...] | None = None  # names that its requests may use; None: every model
    admin: bool = False  # may add and remove adapters

    @field_validator("key")
    @classmethod
    def _long_enough(cls, key: SecretStr) -> SecretStr:
        secret = key.get_secret_value()
        if len(secret) < SHORTEST or not secret.isascii() or len(secret.split()) != 1:
            raise ValueError(f"take at least {SHORTEST} ASCII characters without spaces")
        return key


class KeyFile(Settings):
    """A YAML file with the keys of a server."""

    keys: Annotated[tuple[KeySettings, ...], Field(min_length=1, max_length=10_000)]


def read_keys(path: str | Path) -> tuple[KeySettings, ...]:
    """The keys of a file. Errors: `ConfigError`, one line; two keys with one name or one secret too."""
    keys = KeyFile.from_yaml(path).keys
    for what, values in (
        ("name", [key.name for key in keys]),
        ("key", [key.key.get_secret_value() for key in keys]),
    ):
        if len(set(values)) != len(values):
            first = next(key.name for key, value in zip(keys, values, strict=True) if values.count(value) > 1)
            raise ConfigError(f"{path}: keys: two entries have one {what} (see '{first}')")
    return keys


class Holder:
    """A key and what its requests use. Belongs to the event loop."""

    def __init__(self, settings: KeySettings, metrics: Metrics) -> None:
        self.settings = settings
        self.name = settings.name
        self.num_running = 0
        self._metrics = metrics
        self._requests: deque[float] = deque()
        self._tokens: deque[tuple[float, int]] = deque()
        self._sum = 0

    def spend(self, kind: str, tokens: int) -> None:
        """Count tokens. `kind`: `prompt` or `completion`."""
        if tokens:
            self._tokens.append((time.monotonic(), tokens))
            self._sum += tokens
            self._metrics.add("coterie_key_tokens_total", tokens, key=self.name, kind=kind)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request while it runs. Errors: `ApiError` 429 where a limit is reached."""
        self._check()
        self._requests.append(time.monotonic())
        self.num_running += 1
        self._metrics.add("coterie_key_requests_total", key=self.name)
        try:
            yield
        finally:
            self.num_running -= 1

    def check_model(self, name: str | None, served: Sequence[str]) -> None:
        """Refuse a model that the key may not use; `served`: all names of it. Errors: `ApiError` 403."""
        allowed = self.settings.models
        if allowed is not None and not set(served) & set(allowed):
            given = "the server's first model" if name is None else f"the model '{name[:80]}'"
            raise ApiError(403, f"this key may not use {given}", "model_not_allowed", "/model")

    def headers(self) -> dict[str, str]:
        """What is left in the window, as OpenAI's `x-ratelimit-*` headers say it."""
        self._forget()
        found: dict[str, str] = {}
        for what, limit, used, since in (
            ("requests", self.settings.requests_per_minute, len(self._requests), self._requests),
            ("tokens", self.settings.tokens_per_minute, self._sum, [at for at, _ in self._tokens]),
        ):
            if limit is not None:
                reset = since[0] + _WINDOW - time.monotonic() if since else 0.0
                found[f"x-ratelimit-limit-{what}"] = str(limit)
                found[f"x-ratelimit-remaining-{what}"] = str(max(0, limit - used))
                found[f"x-ratelimit-reset-{what}"] = f"{max(0.0, reset):.3f}s"
        return found

    def _check(self) -> None:
        self._forget()
        s, now = self.settings, time.monotonic()
        if s.concurrency is not None and self.num_running >= s.concurrency:
            raise _limited(f"{s.concurrency} requests at once", 1.0)
        if s.requests_per_minute is not None and len(self._requests) >= s.requests_per_minute:
            raise _limited(f"{s.requests_per_minute} requests a minute", self._requests[0] + _WINDOW - now)
        if s.tokens_per_minute is not None and self._sum >= s.tokens_per_minute:
            raise _limited(f"{s.tokens_per_minute} tokens a minute", self._tokens[0][0] + _WINDOW - now)

    def _forget(self) -> None:
        start = time.monotonic() - _WINDOW
        while self._requests and self._requests[0] <= start:
            self._requests.popleft()
        while self._tokens and self._tokens[0][0] <= start:
            self._sum -= self._tokens.popleft()[1]


class KeyRing:
    """The keys of a server, found by their secret; without keys every request is let in.

    `single`: a key without limits that may do everything.
    """

    def __init__(self, keys: Sequence[KeySettings], single: SecretStr | None, metrics: Metrics) -> None:
        if single is not None:
            # Its length is the concern of whoever chose it.
            keys = (*keys, KeySettings.model_construct(name="default", key=single, admin=True))
        # Found by hash: a comparison of secrets would tell by its time how much of one is right.
        self._holders = {_digest(key.key.get_secret_value()): Holder(key, metrics) for key in keys}

    def __bool__(self) -> bool:
        return bool(self._holders)

    def named(self, name: str) -> Holder | None:
        """The key of this name, None where there is none."""
        return next((one for one in self._holders.values() if one.name == name), None)

    def holder(self, secret: str) -> Holder:
        """The key of a secret. Errors: `ApiError` 401."""
        found = self._holders.get(_digest(secret))
        if found is None:
            raise ApiError(
                401,
                "send the header 'authorization: Bearer KEY' with a key of this server",
                "invalid_api_key",
            )
        return found


# The key of the request that the running coroutine answers.
HOLDER: ContextVar[Holder | None] = ContextVar("coterie_key", default=None)


def spend(kind: str, tokens: int) -> None:
    """Count tokens for the key of the current request, if it has one. `kind`: `prompt` or `completion`."""
    holder = HOLDER.get()
    if holder is not None:
        holder.spend(kind, tokens)


def owner() -> str:
    """The name of the current request's key; "" on a server that asks for none."""
    holder = HOLDER.get()
    return "" if holder is None else holder.name


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.strip().encode("utf-8", "replace")).digest()


def _limited(limit: str, seconds: float) -> ApiError:
    message = f"this key is limited to {limit}; try again later"
    return ApiError(429, message, "rate_limit_exceeded", retry_after=max(1.0, seconds))
