"""The way to Redis, whatever it is: one server, or the masters of a Redis Cluster.

Redis itself says which, to `CLUSTER SLOTS`. In a cluster each command goes to the master of its key's slot: what is
asked together is one pipelined trip to each master that has a part in it, to all of them at the same time.

Who answers MOVED, ASK, TRYAGAIN or CLUSTERDOWN has done nothing, so such a command is sent again, a commit as well.
What is in doubt, a command on a connection that was lost, never is.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .keys import SLOTS, slot
from .wire import Command, Wire, Wires

_AGAIN = (MovedError, TryAgainError, ClusterDownError)
_PAUSES = (0.0, 0.01, 0.02, 0.04, 0.08)  # seconds before a command is sent again
_LOST = (RedisConnectionError, RedisTimeoutError)
_SCRIPTS = (
    "EVALSHA",
    "EVAL",
)  # their first key stands behind text and number of keys; that of other commands comes first

Address = tuple[str, int]


class Servers:
    """One server, or the masters of a cluster, with a connection to each that is opened when it is first needed.

    Args:
        url: `redis://host:port/db`; of a cluster any nodes: `redis://host:port,host:port`.
        timeout: seconds that a reply may take.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = urlsplit(url)
        self._timeout = timeout
        user, at, hosts = self._url.netloc.rpartition("@")
        self._user = user + at
        self._seeds = [self._wires(host) for host in hosts.split(",")]
        self._nodes: dict[Address, Wires] = {}  # everyone who was a master once
        self._owners: list[Wires | None] = []  # of the slots of a cluster
        self._alone: Wires | None = None  # where there is no cluster
        self._stale = True  # a connection was lost: its node may not be the master any more
        self._looking = asyncio.Lock()
        self._looks = 0

    async def ask(self, *commands: Command) -> list[Any]:
        """Returns the replies to commands.

        Raises:
            RedisError: a command was refused (the first of them is told), or a connection cannot be opened.
            RedisConnectionError, RedisTimeoutError: the commands may have taken effect.
        """
        if self._stale:
            await self._look()
        replies = await (
            self._scattered(commands) if self._alone is None else self._at(self._alone, commands)
        )
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    async def to(self, key: str) -> Wire:
        """Returns the connection to who has a key, for those who walk along a cursor, which is good on it alone."""
        if self._alone is None:
            await self.ask(("EXISTS", key))  # whoever has taken it over is known then
        owner = self._alone or self._owners[slot(key.encode())]
        assert owner is not None, "it has just answered"
        return await owner.wire()

    async def masters(self) -> list[Wires]:
        """Returns the masters of the cluster in the order of their slots; the server itself where there is none."""
        if self._stale:
            await self._look()
        return [self._alone] if self._alone else list(dict.fromkeys(filter(None, self._owners)))

    async def owners(self) -> list[Wires | None]:
        """Returns the master of each slot, None where there is none; nothing where there is no cluster."""
        await self._look()
        return list(self._owners)

    async def close(self) -> None:
        """Closes the connections."""
        for wires in (*self._seeds, *self._nodes.values()):
            await wires.close()

    async def _at(self, wires: Wires, commands: tuple[Command, ...]) -> list[Any]:
        try:
            return await wires.ask(*commands)
        except _LOST:
            self._stale = self._alone is None
            raise

    async def _scattered(self, commands: tuple[Command, ...]) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        for pause in (*_PAUSES, None):
            parts = defaultdict(list)
            for k in left:
                parts[self._owners[_slot(commands[k])]].append(k)
            asked = [self._part(at, commands, ks, replies) for at, ks in parts.items()]
            await (asked[0] if len(asked) == 1 else asyncio.gather(*asked))
            left = [k for k in left if isinstance(replies[k], _AGAIN)]
            if not left or pause is None:
                break
            if not all(isinstance(replies[k], MovedError) for k in left):
                await asyncio.sleep(pause)
                self._stale = True
                await self._look()
        return replies

    async def _part(
        self, at: Wires | None, commands: tuple[Command, ...], ks: list[int], replies: list[Any]
    ) -> None:
        """Asks one master, and who it names instead."""
        if at is None:
            for k in ks:
                replies[k] = ClusterDownError("no master serves this slot")
            return
        answers = await self._at(at, tuple(commands[k] for k in ks))
        for k, reply in zip(ks, answers, strict=True):
            if isinstance(reply, AskError):
                there = self._node(reply.host or at.host, reply.port)
                if isinstance(reply, MovedError):
                    self._owners[reply.slot_id] = there
                else:
                    _, reply = await self._at(there, (("ASKING",), commands[k]))
            replies[k] = reply

    async def _look(self) -> None:
        """Learns who has which slots, unless somebody else just does."""
        async with self._looking:
            if not self._stale:
                return
            known = [*dict.fromkeys(filter(None, self._owners)), *self._seeds]
            self._looks += 1  # a node that is cut off has old news: it is not always asked first
            failed: RedisError | None = None
            for k in range(len(known)):
                one = known[(self._looks + k) % len(known)]
                try:
                    (table,) = await one.ask(("CLUSTER", "SLOTS"))
                except _LOST as error:
                    failed = failed or error
                    continue
                if isinstance(table, ResponseError) and not self._owners:
                    self._alone, self._stale = one, False  # it has no cluster support, or we may not ask
                    return
                if isinstance(table, list) and table:
                    self._owners = self._read(table, one.host)
                    self._stale = False
                    return
                failed = (
                    table if isinstance(table, RedisError) else ClusterDownError("no master serves any slot")
                )
            assert failed is not None, "somebody was asked"
            raise failed

    def _read(self, table: list[Any], host: str) -> list[Wires | None]:
        owners: list[Wires | None] = [None] * SLOTS
        for first, last, (named, port, *_), *_ in table:
            # a node that does not know its own address leaves it out
            owners[first : last + 1] = [self._node((named or b"").decode() or host, port)] * (
                last + 1 - first
            )
        return owners

    def _node(self, host: str, port: int) -> Wires:
        if (host, port) not in self._nodes:
            self._nodes[host, port] = self._wires(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return self._nodes[host, port]

    def _wires(self, place: str) -> Wires:
        url = self._url._replace(netloc=self._user + place).geturl()
        return Wires(url, self._timeout, self._lost)

    def _lost(self) -> None:
        self._stale = self._alone is None


def _slot(command: Command) -> int:
    key = command[3 if command[0] in _SCRIPTS else 1]
    return slot(key if isinstance(key, bytes) else str(key).encode())
