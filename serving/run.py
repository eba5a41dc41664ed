"""Running the API: one process, uvicorn with uvloop and httptools."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
import uvloop
from starlette.types import ASGIApp

from .errors import CannotListen

_DRAIN = 10  # seconds that answers in hand may take after the signal to stop


class Tls(NamedTuple):
    """The files of a server's certificate, PEM."""

    certificate: Path
    key: Path | None = None
    """Without one it stands in the file of the certificate."""


def only_here(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[str], None] | None, signals: bool) -> None:
        super().__init__(config)
        self._told = started
        self._signals = (signal.SIGTERM, signal.SIGINT) if signals else ()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        # what was loaded by now stays; without this the collector walks it again and again
        gc.collect()
        gc.freeze()
        if self._told is not None:
            host, port = (sockets or [])[0].getsockname()[:2]
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self._told(f"{'https' if self.config.is_ssl else 'http'}://{where}")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again at the end: it would end before the outbox is empty
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in self._signals:
                loop.remove_signal_handler(number)


async def serve(
    app: ASGIApp,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    started: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    drain: int = _DRAIN,
    tls: Tls | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, or until `stop` is set; answers in hand are finished first.

    Args:
        app: what `create_app` made.
        host: where to listen; the default is this machine only.
        port: 0 takes a free one.
        started: is told the URL once it answers.
        stop: ends it in place of signals, which are then left to others.
        drain: seconds that answers in hand may take.
        tls: the certificate; without one it is plain HTTP.

    Raises:
        CannotListen: the address is taken, or not this machine's; or the certificate cannot be used.
    """
    context = None if tls is None else _context(tls)
    listening = _listen(host, port)
    config = uvicorn.Config(
        app,
        loop="none",  # the loop is already there
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=drain,
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    server = _Server(config, started, signals=stop is None)
    stopping = None if stop is None else asyncio.create_task(_stop(server, stop))
    try:
        await server.serve([listening])
    finally:
        listening.close()
        if stopping is not None:
            stopping.cancel()


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # the password keeps OpenSSL from asking for one at a terminal
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except OSError as error:  # those of ssl are some
        raise CannotListen(
            "the certificate of the API cannot be used",
            where=f"{tls.certificate}, {tls.key or 'with its key in it'}",
            why=error.strerror or str(error),
            fix="give PEM files that belong together: --tls-cert with the chain, --tls-key without a password",
        ) from error
    return context


def _listen(host: str, port: int) -> socket.socket:
    # uvicorn would end the process without a word to its caller
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise CannotListen(
            f"cannot listen at {host}:{port}",
            why=str(error),
            fix="end what listens there, or give another --port (0 takes a free one)",
        ) from error


async def _stop(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True


def run(program: Coroutine[Any, Any, None]) -> None:
    """Runs a program on uvloop."""
    uvloop.run(program)
