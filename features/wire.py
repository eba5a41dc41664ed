"""One connection to Redis that many callers share.

Commands are written as they come and answered in order, so whoever asks next never waits for whoever asked before. It
costs a fifth of the time of a connection that is taken from a pool, used and given back; redis-py opens it (address,
TLS, login) and names the errors, and hiredis speaks the protocol.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import hiredis
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

Command = tuple[str | bytes | int, ...]
_NUMBERS = count(1)


class _Asked:
    """Commands written together, and what of their replies has come."""

    __slots__ = ("count", "done", "replies", "until")

    def __init__(self, count: int, done: asyncio.Future[list[Any]], until: float) -> None:
        self.count = count
        self.done = done
        self.until = until
        self.replies: list[Any] = []


class Wire(asyncio.Protocol):
    """An open connection; once closed, for whatever reason, it stays closed.

    Args:
        timeout: seconds that a reply may take; then everything that waits fails, and the connection is closed.
        lost: called when the connection is closed.
    """

    def __init__(self, timeout: float, lost: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._lost = lost
        self.number = next(_NUMBERS)  # no other connection of this process has it
        self._waiting: deque[_Asked] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._reader = hiredis.Reader(replyError=DefaultParser.parse_error)
        self._writer: Any = None  # asyncio's: it would close the transport when it dies
        self._transport: asyncio.Transport
        self.closed = False
        self._gone = asyncio.Event()

    @classmethod
    async def open(cls, url: str, patience: float, lost: Callable[[], None] = lambda: None) -> Wire:
        """Returns a new connection to a server; `patience` is its timeout.

        Raises:
            RedisError: it cannot be opened.
        """
        given: dict[str, Any] = {
            "socket_timeout": patience,
            "socket_connect_timeout": patience,
            **parse_url(url),
        }
        given.pop("max_connections", None)  # of a pool, which this is not
        made: Any = given.pop("connection_class", Connection)
        connection = made(**given | {"retry": Retry(NoBackoff(), 0), "protocol": 2, "driver_info": None})
        leave = connection.disconnect

        async def leave_at_once(*args: Any, **more: Any) -> None:
            # who was refused has nothing to say: a farewell of TLS would outlive the loop that ends for the error
            if connection._writer is not None:  # noqa: SLF001
                connection._writer.transport.abort()  # noqa: SLF001
            await leave(*args, **more)

        connection.disconnect = leave_at_once
        await connection.connect()  # disconnects if it fails or is given up
        wire = cls(patience, lost)
        # redis-py has no public way to hand an open connection over
        wire._writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001
        wire._transport = wire._writer.transport
        wire._transport.set_protocol(wire)
        return wire

    def ask(self, *commands: Command) -> asyncio.Future[list[Any]]:
        """Writes commands and returns the future of their replies, in their order; a refusal is a reply as well.

        Who gives up waiting changes nothing for the others.

        Raises:
            RedisConnectionError: the connection is closed; the commands may have taken effect if it was open before.
            RedisTimeoutError: there was no reply in time; the same holds.
        """
        done: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.closed:
            done.set_exception(RedisConnectionError("the connection is closed"))
            return done
        if not commands:
            done.set_result([])
            return done
        self._waiting.append(_Asked(len(commands), done, self._loop.time() + self._timeout))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._look)
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]  # its stub has one item
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))
        return done

    async def close(self) -> None:
        """Closes the connection, its socket included; whoever waits gets an error."""
        self._fail(RedisConnectionError("the connection was closed"))
        await self._gone.wait()

    # asyncio's side

    def data_received(self, data: bytes) -> None:
        """Gives replies to those who wait for them."""
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                asked = waiting[0]
                asked.replies.append(reply)
                if len(asked.replies) == asked.count:
                    waiting.popleft()
                    if not asked.done.done():  # else given up
                        asked.done.set_result(asked.replies)
        except (hiredis.ProtocolError, IndexError) as error:
            self._fail(RedisConnectionError(f"what came was no reply: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails those who wait."""
        self._gone.set()
        self._fail(RedisConnectionError(f"the connection was lost: {exc or 'closed by the server'}"))

    def _look(self) -> None:
        """Fails everything when the oldest has waited too long; comes again while anything waits."""
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0].until - self._loop.time()
        if left <= 0:
            self._fail(RedisTimeoutError(f"no reply within {self._timeout:g} s"))
        else:
            self._watch = self._loop.call_later(left, self._look)

    def _fail(self, error: Exception) -> None:
        if self.closed:
            return
        self.closed = True
        self._lost()
        if self._watch is not None:
            self._watch.cancel()
        self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            if not asked.done.done():
                asked.done.set_exception(error)


class Wires:
    """The way to one open connection at a time: opened when it is first needed, and again when it was lost.

    Args:
        url: of the server.
        timeout: seconds that a reply may take.
        lost: called when a connection is closed.
    """

    def __init__(self, url: str, timeout: float, lost: Callable[[], None] = lambda: None) -> None:
        self._url = url
        self._timeout = timeout
        self._lost = lost
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()
        self.host = urlsplit(url).hostname or ""
        self.where = urlsplit(url).netloc.rpartition("@")[2]

    async def wire(self) -> Wire:
        """Returns the open connection.

        Raises:
            RedisError: it cannot be opened.
        """
        wire = self._wire
        return await self._open() if wire is None or wire.closed else wire

    async def ask(self, *commands: Command) -> list[Any]:
        """Returns the replies to commands; raises what `wire` and `Wire.ask` do."""
        return await (await self.wire()).ask(*commands)

    async def _open(self) -> Wire:
        async with self._opening:
            if self._wire is None or self._wire.closed:
                self._wire = await Wire.open(self._url, self._timeout, self._lost)
            return self._wire

    async def close(self) -> None:
        """Closes the connection, if there is one or one is being opened."""
        async with self._opening:
            if self._wire is not None:
                await self._wire.close()
