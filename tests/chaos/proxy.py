"""A loopback TCP proxy that cuts connections at a chosen byte, or delivers a request after its sender has gone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

Way = Literal["request", "reply"]


@dataclass
class Cut:
    """A cut to come: of the next exchange whose request holds `mark`, after `after` bytes of one way, or at its end."""

    way: Way
    after: int
    mark: bytes = b""


@dataclass
class Late:
    """The next request that holds `mark` loses its sender at once and reaches the server `seconds` later."""

    seconds: float
    mark: bytes = b""


class CuttingProxy:
    """Stands between clients and one server, in a thread of its own: who uses it may block.

    An exchange is a request as one segment on loopback and all that comes back before the next one.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._ready = threading.Event()
        self._port = 0
        self._open: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.shut = False  # whether nobody is let through
        self.armed: list[Cut | Late] = []
        self.cuts = 0
        self.lates = 0

    @property
    def port(self) -> int:
        """Where clients connect, on loopback."""
        return self._port

    def arm(self, what: Cut | Late) -> None:
        """Make an accident happen at the next exchange that it fits."""
        self._call(lambda: self.armed.append(what))

    def close_gate(self) -> None:
        """End all connections and let nobody through."""
        self._call(self._shut)

    def open_gate(self) -> None:
        """Let clients through again."""
        self.shut = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, what: Callable[[], object]) -> None:
        done = threading.Event()

        def call() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(call)
        done.wait()

    def _shut(self) -> None:
        self.shut = True
        for link in list(self._open):
            link.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._shut()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        # transports that were aborted are closed in the next turns
        self._loop.run_until_complete(self._settle())
        self._loop.close()

    async def _settle(self) -> None:
        mine = asyncio.current_task()
        await asyncio.gather(*(t for t in asyncio.all_tasks() if t is not mine), return_exceptions=True)

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.shut:
            writer.transport.abort()
            return
        try:
            answers, server = await asyncio.open_connection(*self._server)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, reader, writer, answers, server)
        self._open.add(link)
        try:
            await link.run()
        except asyncio.CancelledError:
            return  # the proxy ends; asyncio's own callback cannot bear a cancelled task
        finally:
            self._open.discard(link)


class _Link:
    """One client's connection and ours to the server."""

    def __init__(
        self,
        proxy: CuttingProxy,
        requests: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        replies: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._requests, self._client = requests, client
        self._replies, self._server = replies, server
        self._cut: Cut | None = None  # of the exchange that goes on
        self._kept = False  # whether the server's side outlives the client's

    async def run(self) -> None:
        forth = asyncio.ensure_future(self._pump_requests())
        back = asyncio.ensure_future(self._pump_replies())
        try:
            await asyncio.wait([forth, back], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in (forth, back):
                pump.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)
            self.abort()

    def abort(self) -> None:
        """End both sides."""
        self._client.transport.abort()
        if not self._kept:
            self._server.transport.abort()

    async def _pump_requests(self) -> None:
        while data := await self._read(self._requests):
            what = self._due(data)
            if isinstance(what, Late):
                await self._deliver_late(data, what.seconds)
                return
            if what is not None and what.way == "request":
                await self._cut_after(self._server, data[: what.after])
                return
            self._cut = what or self._cut
            self._server.write(data)
            with contextlib.suppress(ConnectionError):
                await self._server.drain()

    async def _pump_replies(self) -> None:
        while data := await self._read(self._replies):
            if self._cut is not None:
                await self._cut_after(self._client, data[: self._cut.after])
                return
            self._client.write(data)
            with contextlib.suppress(ConnectionError):
                await self._client.drain()

    def _due(self, data: bytes) -> Cut | Late | None:
        for what in self._proxy.armed:
            if what.mark in data:
                self._proxy.armed.remove(what)
                return what
        return None

    async def _cut_after(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Deliver the last bytes in full, then end both sides."""
        self._proxy.cuts += 1
        if data:
            writer.write(data)
        writer.close()  # what was written goes out before the end does
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _deliver_late(self, data: bytes, seconds: float) -> None:
        self._proxy.lates += 1
        self._kept = True
        self._client.transport.abort()
        task = asyncio.ensure_future(self._later(data, seconds))
        self._proxy._tasks.add(task)
        task.add_done_callback(self._proxy._tasks.discard)

    async def _later(self, data: bytes, seconds: float) -> None:
        await asyncio.sleep(seconds)
        try:
            self._server.write(data)
            await self._server.drain()
            await self._read(self._replies)
        except ConnectionError:
            return  # the server has ended meanwhile
        finally:
            self._server.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(1 << 18)
        except ConnectionError:
            return b""
