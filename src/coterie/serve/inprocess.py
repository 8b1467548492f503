"""The real `openai` client without a port: its requests go straight to the application in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from coterie.config import ConfigError
from coterie.serve.app import create_app
from coterie.serve.service import ServeSettings, Service

if TYPE_CHECKING:
    import openai

_ADDRESS = "http://localhost/v1"


def openai_client(model: Any, name: str = "model", **settings: Any) -> openai.OpenAI:
    """An `openai.OpenAI` that talks to a model (`coterie.load`'s) in this process; `close` ends its engine.

    Streams stream, and hanging up cancels. Requests call the model `name`; `settings`: fields of `ServeSettings`.
    Errors: `ConfigError` without the `openai` package.
    """
    _require_openai()
    import httpx2
    import openai

    transport = _sync_transport(_service(model, name, settings))
    http = httpx2.Client(transport=transport, base_url=_ADDRESS)
    return openai.OpenAI(api_key="in-process", base_url=_ADDRESS, http_client=http)


def async_openai_client(model: Any, name: str = "model", **settings: Any) -> openai.AsyncOpenAI:
    """As `openai_client`, an `openai.AsyncOpenAI` for the running event loop. Errors: `ConfigError`."""
    _require_openai()
    import httpx2
    import openai

    transport = _async_transport(_service(model, name, settings))
    http = httpx2.AsyncClient(transport=transport, base_url=_ADDRESS)
    return openai.AsyncOpenAI(api_key="in-process", base_url=_ADDRESS, http_client=http)


class Exchange:
    """One request to the application and its answer, piece by piece. Lives in the event loop it is made in."""

    def __init__(self, app: Any, request: Any, body: bytes) -> None:
        self._pieces: asyncio.Queue[Any] = asyncio.Queue(maxsize=16)
        self._gone = asyncio.Event()
        self._body: bytes | None = body
        url = request.url
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "headers": [(key.lower(), value) for key, value in request.headers.raw],
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
        }
        self._task = asyncio.ensure_future(self._run(app, scope))

    async def start(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers. Raises what the application raised."""
        head = await self._next()
        return head["status"], list(head["headers"])

    async def piece(self) -> bytes | None:
        """The next bytes of the body, None at its end. Raises what the application raised."""
        message = await self._next()
        return None if message is None else message.get("body", b"")

    async def close(self) -> None:
        """Hang up, as a client that leaves does, and wait until the application knows."""
        self._gone.set()
        while not self._task.done():
            while not self._pieces.empty():
                self._pieces.get_nowait()
            await asyncio.wait([self._task], timeout=0.01)

    async def _run(self, app: Any, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._pieces.put)
            await self._pieces.put(None)
        except Exception as error:
            await self._pieces.put(error)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _next(self) -> Any:
        message = await self._pieces.get()
        if isinstance(message, Exception):
            raise message
        return message


def _sync_transport(service: Service) -> Any:
    """A transport whose event loop runs in a thread of its own."""
    import httpx2

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="coterie-in-process", daemon=True)
    app = create_app(service)

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    class Body(httpx2.SyncByteStream):
        def __init__(self, exchange: Exchange) -> None:
            self._exchange = exchange

        def __iter__(self) -> Iterator[bytes]:
            while (piece := wait(self._exchange.piece())) is not None:
                yield piece

        def close(self) -> None:
            wait(self._exchange.close())

    class Transport(httpx2.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            body = request.read()

            async def begin() -> tuple[Exchange, int, list[tuple[bytes, bytes]]]:
                exchange = Exchange(app, request, body)
                return exchange, *(await exchange.start())

            exchange, status, headers = wait(begin())
            return httpx2.Response(status, headers=headers, stream=Body(exchange), request=request)

        def close(self) -> None:
            service.thread.stop()
            wait(loop.shutdown_default_executor())
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    service.start()
    thread.start()
    return Transport()


def _async_transport(service: Service) -> Any:
    """A transport in the caller's own event loop."""
    import httpx2

    app = create_app(service)

    class Body(httpx2.AsyncByteStream):
        def __init__(self, exchange: Exchange) -> None:
            self._exchange = exchange

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while (piece := await self._exchange.piece()) is not None:
                yield piece

        async def aclose(self) -> None:
            await self._exchange.close()

    class Transport(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any:
            exchange = Exchange(app, request, await request.aread())
            status, headers = await exchange.start()
            return httpx2.Response(status, headers=headers, stream=Body(exchange), request=request)

        async def aclose(self) -> None:
            await asyncio.to_thread(service.thread.stop)

    service.start()
    return Transport()


def _service(model: Any, name: str, settings: dict[str, Any]) -> Service:
    quiet = {"page": False, "log_requests": "off"}
    return Service(model, name, ServeSettings.from_dict(quiet | settings, where="openai_client"))


def _require_openai() -> None:
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("openai_client needs the client: pip install openai")
