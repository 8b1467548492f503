"""Clients of a model in this process: requests go to the ASGI application directly, without a port or a key.

`endpoint` is for our own commands, `openai_client` and `async_openai_client` are the real `openai` clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from coterie.config.extras import require_extra
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.hosting.settings import ServeSettings
from coterie.infer.model import LanguageModel
from coterie.remote.client import Endpoint
from coterie.serve.app import create_app

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
_ADDRESS = "http://localhost/v1"
_LAST_READ = 1.0  # seconds that readers have for final messages when a client is closed


def endpoint(
    model: LanguageModel, name: str = "model", label: str | None = None, **settings: Any
) -> Endpoint:
    """A client of the HTTP API for a model in this process; `close` ends its engine.

    Requests call the model `name`; error messages call it `label` (default: `name`). `settings`: fields of
    `ServeSettings`.
    Errors: `ConfigError` for wrong settings.
    """
    transport = _sync_transport(_host(model, name, settings, "endpoint"))
    return Endpoint(_ADDRESS, label=label or name, transport=transport)


def openai_client(model: LanguageModel, name: str = "model", **settings: Any) -> openai.OpenAI:
    """An `openai.OpenAI` that talks to a model in this process; `close` ends its engine.

    Streams arrive piece by piece, and closing one cancels the reply. Requests call the model `name`;
    `settings`: fields of `ServeSettings`.
    Errors: `ConfigError` without the `openai` package.
    """
    require_extra("openai", "openai_client needs the client", "openai")
    import httpx2
    import openai

    transport = _sync_transport(_host(model, name, settings, "openai_client"))
    http = httpx2.Client(transport=transport, base_url=_ADDRESS)
    return openai.OpenAI(api_key="in-process", base_url=_ADDRESS, http_client=http)


def async_openai_client(model: LanguageModel, name: str = "model", **settings: Any) -> openai.AsyncOpenAI:
    """As `openai_client`, an `openai.AsyncOpenAI` for the running event loop. Errors: `ConfigError`."""
    require_extra("openai", "openai_client needs the client", "openai")
    import httpx2
    import openai

    transport = _async_transport(_host(model, name, settings, "openai_client"))
    http = httpx2.AsyncClient(transport=transport, base_url=_ADDRESS)
    return openai.AsyncOpenAI(api_key="in-process", base_url=_ADDRESS, http_client=http)


class Exchange:
    """One request to the application and its answer, piece by piece. Belongs to the running event loop."""

    def __init__(self, app: Any, request: Any, body: bytes) -> None:
        self._request = request
        self._silence: float | None = request.extensions.get("timeout", {}).get("read")
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
        """Status and headers. When they do not arrive, hangs up.

        Errors: any exception of the application; `ReadTimeout`.
        """
        try:
            head = await self._next()
        except BaseException:  # cancelled or failed: nobody reads the answer
            await self.close()
            raise
        return head["status"], list(head["headers"])

    async def piece(self) -> bytes | None:
        """The next bytes of the body, None at its end. Errors: as `start`."""
        message = await self._next()
        return None if message is None else message.get("body", b"")

    async def close(self) -> None:
        """Hang up as a client that disconnects, and wait until the application has noticed."""
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
        import httpx2

        try:
            async with asyncio.timeout(self._silence):
                message = await self._pieces.get()
        except TimeoutError:
            raise httpx2.ReadTimeout(
                f"no data arrived for {self._silence:g} seconds", request=self._request
            ) from None
        if isinstance(message, Exception):
            raise message
        return message


class LoopThread:
    """An event loop in its own thread, for callers in any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="coterie-in-process", daemon=True)
        self._lock = threading.Lock()
        self.reading: WeakSet[Exchange] = WeakSet()  # answers that are not closed; used in the loop only
        self._ending = self._closed = False
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when the caller is interrupted.

        Errors: `ReadError` after `close`.
        """
        import httpx2

        with self._lock:
            if self._closed:
                work.close()
                raise httpx2.ReadError("the client has been closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise httpx2.ReadError("the client has been closed") from None
        finally:
            future.cancel()  # Ctrl-C

    def close(self) -> None:
        """Stop the loop and cancel its tasks, leaving readers a moment to receive final messages."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        ending.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        end = time.monotonic() + _LAST_READ
        while (self.reading or self._others()) and time.monotonic() < end:
            await asyncio.sleep(0.005)
        with self._lock:
            self._closed = True
        await asyncio.sleep(0)  # let work that was submitted just before become a task
        for task in (left := self._others()):
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def _others(self) -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


def _sync_transport(host: Host) -> Any:
    """A transport whose event loop runs in its own thread."""
    import httpx2

    loop = LoopThread()
    app = create_app(host)

    class Body(httpx2.SyncByteStream):
        def __init__(self, exchange: Exchange) -> None:
            self._exchange = exchange

        def __iter__(self) -> Iterator[bytes]:
            while (piece := loop.wait(self._exchange.piece())) is not None:
                yield piece

        def close(self) -> None:
            async def end() -> None:
                await self._exchange.close()
                loop.reading.discard(self._exchange)

            with contextlib.suppress(httpx2.ReadError):
                loop.wait(end())

    class Transport(httpx2.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            body = request.read()

            async def begin() -> tuple[Exchange, int, list[tuple[bytes, bytes]]]:
                exchange = Exchange(app, request, body)
                head = await exchange.start()
                loop.reading.add(exchange)
                return exchange, *head

            exchange, status, headers = loop.wait(begin())
            return httpx2.Response(status, headers=headers, stream=Body(exchange), request=request)

        def close(self) -> None:
            host.stop()
            loop.close()

    host.start()
    return Transport()


def _async_transport(host: Host) -> Any:
    """A transport in the caller's own event loop."""
    import httpx2

    app = create_app(host)

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
            await asyncio.to_thread(host.stop)

    host.start()
    return Transport()


def _host(model: LanguageModel, name: str, settings: dict[str, Any], where: str) -> Host:
    quiet = {"page": False, "log_requests": "off", "store": False, "kernels": model.kernels}
    return Host.of(Service(model, name, ServeSettings.from_dict(quiet | settings, where=where)))
