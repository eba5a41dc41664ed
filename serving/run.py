"""Running the API: one process, uvicorn with uvloop and httptools."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from .errors import CannotListen

_DRAIN = 10  # seconds that answers in hand may take after the signal to stop


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
            self._told(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

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
) -> None:
    """Serves until SIGTERM or SIGINT, or until `stop` is set; answers in hand are finished first.

    Args:
        app: what `create_app` made.
        host: where to listen; the default is this machine only.
        port: 0 takes a free one.
        started: is told the URL once it answers.
        stop: ends it in place of signals, which are then left to others.
        drain: seconds that answers in hand may take.

    Raises:
        CannotListen: the address is taken, or not this machine's.
    """
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
    )
    server = _Server(config, started, signals=stop is None)
    stopping = None if stop is None else asyncio.create_task(_stop(server, stop))
    try:
        await server.serve([listening])
    finally:
        listening.close()
        if stopping is not None:
            stopping.cancel()


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
