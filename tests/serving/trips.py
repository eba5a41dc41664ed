"""A wire with a counter: round trips are what crosses it, not what a client says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Wire:
    """A relay to a server that counts how often a client spoke after the server had."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 6379
        self._tasks: set[asyncio.Task[None]] = set()
        self.trips = 0
        self.url = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        answered = [True]

        async def ask() -> None:
            while data := await reader.read(1 << 16):
                self.trips += answered[0]
                answered[0] = False
                back.write(data)
                await back.drain()
            back.close()

        async def tell() -> None:
            while data := await there.read(1 << 16):
                answered[0] = True
                writer.write(data)
                await writer.drain()
            writer.close()

        for way in (ask(), tell()):
            task = asyncio.create_task(way)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def ended(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def counted(url: str) -> AsyncIterator[Wire]:
    """Gives a wire to the server at a URL."""
    wire = Wire(url)
    server = await asyncio.start_server(wire.connected, "127.0.0.1", 0)
    wire.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()
        await server.wait_closed()
        await wire.ended()
