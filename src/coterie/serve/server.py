"""Runs the application under uvicorn: limits for slow clients, signals, draining, exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from coterie.config import ConfigError, CoterieError
from coterie.hosting.errors import draining
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.hosting.settings import ServeSettings
from coterie.infer.model import LanguageModel
from coterie.protocol import wire
from coterie.serve.app import create_app
from coterie.serve.middleware import is_loopback

log = logging.getLogger("coterie.serve")
_KEEP_ALIVE = 30
_AHEAD = 64 * 1024  # bytes of further requests to read while one is being answered
_LAST_WRITE = 5.0  # seconds in which open requests receive their error when the server ends
_SEND_BUFFER = 128 * 1024  # bytes per connection that a client that reads nothing can make us hold


class SlowHeaderProtocol(H11Protocol):
    """HTTP/1.1 that closes the connections of slow clients; uvicorn lacks such timeouts.

    A client is slow when it does not send its headers in time, does not finish a body that we have already
    answered, or does not read its answer.
    """

    header_timeout = 10.0
    _alarm: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        # Call `pause_writing` for every byte the client has not taken. A TLS transport pauses from `high` on
        # (others above it), so 0 would pause an empty buffer, which nothing resumes.
        transport.set_write_buffer_limits(high=1 if transport.get_extra_info("ssl_object") else 0)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived. Bytes of a header do not extend its time limit."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE:
            self._arm()
        else:
            self._disarm()
        # uvicorn stops reading while it answers, so it would not notice that a client has disconnected after
        # sending its next request ahead.
        if self.conn.their_state is h11.DONE and len(self.conn.trailing_data[0]) <= _AHEAD:
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        """The client has not taken all written bytes."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The client has taken all written bytes."""
        self._unwatch()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._disarm()
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(wire.SEND_IDLE, self._look, left)

    def _look(self, left: int) -> None:
        """Abort the connection if the client has read nothing; closing it would wait for the client too."""
        if self.transport.get_write_buffer_size() < left:
            self._watch()
        else:
            self.transport.abort()

    def _unwatch(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _arm(self) -> None:
        if self._alarm is None:
            self._alarm = self.loop.call_later(self.header_timeout, self.transport.close)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class DrainingServer(uvicorn.Server):
    """Drains on the first SIGTERM or SIGINT, cuts replies off on the second, ends when the engine died."""

    def __init__(self, config: uvicorn.Config, host: Host) -> None:
        super().__init__(config)
        self.host = host
        self.exit_code = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: Future[None] | None = None
        self._hurried = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        self._loop = asyncio.get_running_loop()
        self.host.on_failure = self._engine_died
        if self.config.is_ssl:  # before its TLS handshake a client is not yet known to the protocol
            seconds = self.host.settings.header_timeout
            create = partial(self._loop.create_server, ssl_handshake_timeout=seconds)
            self._loop.create_server = create  # type: ignore[method-assign]
        await super().startup(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """Install our own handlers, in the main thread only; uvicorn would raise the signals again later."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Handle a signal: the first drains, the second ends the draining, the third drops everything."""
        if self._loop is None or self._hurried:
            self.exit_code = self.exit_code or 1
            self.should_exit = self.force_exit = True
        elif self.host.draining:
            self.exit_code, self._hurried = self.exit_code or 1, True
        else:
            self.host.draining = True
            self._ending = asyncio.run_coroutine_threadsafe(self._finish(), self._loop)

    def stop(self) -> None:
        """Drain and end, from another thread. A second call changes nothing; only a second signal does."""
        if not self.host.draining:
            self.handle_exit(signal.SIGTERM, None)

    async def _finish(self) -> None:
        seconds = self.host.settings.drain
        self.host.refuse()
        log.info("draining: %d open requests, at most %g s", self.host.num_open, seconds)
        if not await self._all_answered(seconds, patient=False):
            self.host.abort(draining())
        await self._leave()

    async def _all_answered(self, seconds: float, patient: bool = True) -> bool:
        """Wait at most `seconds` until every answer is written; return whether all are.

        The engine may have finished replies that are not sent yet. Unless `patient`, a second signal ends the
        wait.
        """
        end = time.monotonic() + seconds
        while self.host.num_open and time.monotonic() < end and (patient or not self._hurried):
            await asyncio.sleep(0.02)
        return not self.host.num_open

    def _engine_died(self) -> None:
        self.exit_code = 1
        if self._loop is not None:
            self._ending = asyncio.run_coroutine_threadsafe(self._leave(), self._loop)

    async def _leave(self) -> None:
        await self._all_answered(_LAST_WRITE)
        self.should_exit = True


def check_binding(settings: ServeSettings) -> None:
    """Refuse an address that others can reach without a key, and half a TLS set. Errors: `ConfigError`."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError("serve: give --tls-cert and --tls-key together")
    if not settings.locked and not settings.insecure_no_auth and not is_loopback(settings.host):
        raise ConfigError(
            f"serve: {settings.host} can be reached from other machines, and there is no key; "
            "give --api-key-file, or --insecure-no-auth to let everyone in"
        )


def make_server(host: Host) -> tuple[DrainingServer, socket.socket]:
    """A server and its bound socket. Errors: `ConfigError` when the address is unsafe or in use."""
    settings = host.settings
    check_binding(settings)
    protocol = type("Protocol", (SlowHeaderProtocol,), {"header_timeout": settings.header_timeout})
    config = uvicorn.Config(
        create_app(host),
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=2,
        limit_concurrency=settings.max_connections,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    if settings.tls_cert is not None:
        _check_certificate(config)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named: asyncio sets TCP_NODELAY on no other socket, and without it every answer on a
    # connection that is kept waits 40 ms for the client's acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"serve: cannot listen on {settings.host}:{settings.port} ({error.strerror})"
        ) from None
    return DrainingServer(config, host), listener


def _check_certificate(config: uvicorn.Config) -> None:
    """Read the certificate and its key now. Errors: `ConfigError`, one line."""
    try:
        config.load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"serve: --tls-cert {config.ssl_certfile}, --tls-key {config.ssl_keyfile}: {why}"
        ) from None


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """The address of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _scheme(host: Host) -> str:
    return "http" if host.settings.tls_cert is None else "https"


def serve(host: Host, announce: Callable[[str], None] | None = None) -> int:
    """Serve until a signal or the engine's failure; return the exit code.

    `announce(url)` is called once the socket listens.
    Errors: as `make_server`.
    """
    server, listener = make_server(host)
    if announce is not None:
        announce(url_of(listener, _scheme(host)))
    asyncio.run(server.serve([listener]))
    return server.exit_code


class ServerThread:
    """A server in a thread of this process. Use it as a context manager, or call `stop`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._server, listener = make_server(host)
        self.url = url_of(listener, _scheme(host))
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._server.serve([listener]),), name="coterie-server", daemon=True
        )
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise CoterieError("serve: the server did not start")
            time.sleep(0.005)

    @property
    def service(self) -> Service:
        """The service of requests that name no model."""
        return self.host.default

    def stop(self) -> int:
        """Drain and end; return the exit code."""
        if self._thread.is_alive():
            self._server.stop()
            self._thread.join(timeout=self.host.settings.drain + 30)
        return self._server.exit_code

    def __enter__(self) -> ServerThread:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def serve_in_thread(model: LanguageModel, name: str = "model", **settings: Any) -> ServerThread:
    """Serve a model from a thread, by default on a free port of this machine.

    `settings`: fields of `ServeSettings`. Returns a handle with `url` and `stop`.
    Errors: `ConfigError` for wrong settings or an address that is in use.
    """
    given = ServeSettings.from_dict({"port": 0, **settings}, where="serve")
    return ServerThread(Host.of(Service(model, name, given)))
