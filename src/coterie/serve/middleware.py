"""Middleware around all endpoints: request ids, key, Host and Origin checks, safe headers, errors, log."""

from __future__ import annotations

import logging
import re
import secrets
import time
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coterie.hosting.errors import ApiError, explain
from coterie.hosting.host import Host
from coterie.hosting.keys import HOLDER, Holder
from coterie.protocol.dialects import dialect_of
from coterie.protocol.wire import Disconnected, JsonAnswer

log = logging.getLogger("coterie.serve")
OPEN_PATHS = ("/health", "/ready")
PAGE = Path(__file__).parent / "page"
# The page contains no secret and a browser requests it without a key; the page's own requests need the key.
PAGE_PATHS = frozenset({"/", *(f"/{file.name}" for file in PAGE.iterdir())})
CSP = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
_SAFE_HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_ID = re.compile(r"[\w.:-]{1,128}")
# What a page of an allowed origin may read and send (CORS, https://fetch.spec.whatwg.org).
_EXPOSED = "x-request-id, request-id, x-coterie-ignored, retry-after"
_METHODS = "GET, POST, PUT, DELETE"
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, -]{0,4096}", re.ASCII)
_PREFLIGHT_SECONDS = "600"


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, host: Host, state: SimpleNamespace) -> None:
        self.app = app
        self.host = host
        self._owner = SimpleNamespace(state=state)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check and answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["app"] = self._owner  # endpoints find the host as `request.app.state.host`
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else "req-" + secrets.token_hex(12)
        begun, status = time.monotonic(), 0
        shared = self._cross_origin(headers)
        dialect = dialect_of(scope["path"], headers)

        async def finish(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = out[dialect.id_header] = request_id
                for name, value in {**_SAFE_HEADERS, **shared}.items():
                    out.setdefault(name, value)
            await send(message)

        self.host.num_open += 1
        try:
            self._check_source(headers)
            if shared and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await Response(status_code=204, headers=_preflight(headers))(scope, receive, finish)
                return
            holder = self._holder(scope["path"], headers)
            HOLDER.set(holder)
            if holder is None or scope["method"] == "GET":
                await self.app(scope, receive, finish)
            else:
                with holder.request():
                    shared |= holder.headers()
                    await self.app(scope, receive, finish)
        except Disconnected:
            status = status or 499
        except Exception as error:
            answer = _of_routing(error) if isinstance(error, HTTPException) else explain(error)
            if answer.status in (429, 503):
                self.host.metrics.add("coterie_rejected_total", reason=answer.code)
            if status:  # the answer has started: break the connection, so that it does not look complete
                raise
            body, code = dialect.body(answer, request_id), dialect.statuses.get(answer.status, answer.status)
            await JsonAnswer(body, code, answer.headers())(scope, receive, finish)
        finally:
            self.host.release(scope)
            self.host.num_open -= 1
            self._note(scope, status, request_id, time.monotonic() - begun)

    async def unguarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the server itself."""
        scope["app"] = self._owner
        await self.app(scope, receive, send)

    def _cross_origin(self, headers: Headers) -> dict[str, str]:
        """The headers without which a browser keeps an answer from a page of an allowed origin."""
        allowed, origin = self.host.settings.allowed_origins, headers.get("origin")
        if not allowed:
            return {}
        if origin is None or not (origin in allowed or "*" in allowed):
            return {"vary": "Origin"}
        return {
            "vary": "Origin",
            "access-control-allow-origin": origin,
            "access-control-expose-headers": _EXPOSED,
            "cross-origin-resource-policy": "cross-origin",
        }

    def _check_source(self, headers: Headers) -> None:
        """Refuse other names of this machine, and pages of origins that are not allowed."""
        settings = self.host.settings
        host = _split("//" + headers.get("host", "")).hostname or ""
        if is_loopback(settings.host) and not is_loopback(host) and host not in settings.allowed_hosts:
            raise ApiError(
                403, "this name is not one of the server's; see --allowed-host", "host_not_allowed"
            )
        origin = headers.get("origin")
        allowed = settings.allowed_origins
        if "*" in allowed or origin in allowed:
            return
        foreign = _is_part_of_foreign_page(headers)
        if origin is not None:
            foreign = _split(origin).netloc != headers.get("host")
        if foreign:
            raise ApiError(
                403, "pages of this origin may not use this server; see --allowed-origin",
                "origin_not_allowed",
            )  # fmt: skip

    def _holder(self, path: str, headers: Headers) -> Holder | None:
        """The key that a request sends, None where it needs none. Errors: `ApiError` 401."""
        if not self.host.keys or path in OPEN_PATHS or (self.host.settings.page and path in PAGE_PATHS):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if not scheme:  # as clients of Anthropic's API send it
            scheme, key = "bearer", headers.get("x-api-key", "")
        return self.host.keys.holder(key if scheme.lower() == "bearer" else "")

    def _note(self, scope: Scope, status: int, request_id: str, seconds: float) -> None:
        route = scope.get("route")
        endpoint = getattr(route, "path", "other")
        self.host.metrics.add("coterie_requests_total", endpoint=endpoint, status=str(status or 500))
        if self.host.settings.log_requests != "off":
            log.info("%s %s %s %d %.3fs", request_id, scope["method"], endpoint, status, seconds)


def _preflight(headers: Headers) -> dict[str, str]:
    """The answer to a browser's question whether a page may send a request; it comes without the key.

    The names that the page wants to send are allowed as they are: "*" would not cover `authorization`.
    """
    names = headers.get("access-control-request-headers", "")
    answer = {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": names if _NAMES.fullmatch(names) else "",
        "access-control-max-age": _PREFLIGHT_SECONDS,
    }
    # Chromium asks this before a public page may reach a private address.
    if headers.get("access-control-request-private-network") == "true":
        answer["access-control-allow-private-network"] = "true"
    return answer


def _is_part_of_foreign_page(headers: Headers) -> bool:
    """Whether a page elsewhere loads this as a picture or script, for which browsers send no `origin`.

    A link that a user follows is none of it (https://www.w3.org/TR/fetch-metadata).
    """
    foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return foreign and headers.get("sec-fetch-mode") != "navigate"


def _split(address: str) -> SplitResult:
    """The parts of an address; empty parts for text that is not an address."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _of_routing(error: HTTPException) -> ApiError:
    """The API error for Starlette's own: unknown path or wrong method."""
    if error.status_code == 405:
        return ApiError(405, "this method is not possible here", "method_not_allowed")
    return ApiError(error.status_code, "there is nothing at this path", "not_found")
