"""The store in Redis (6.2 or newer, or Valkey): one script for each commit, one pipelined trip for each read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, cast

import redis.asyncio as aio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from . import keys
from .errors import StoreError, StoreUnavailable
from .memory import partitions_changed, topic_changed
from .store import Adoption, Answer, Group, Position, Read, Status, Writes
from .wire import Wires

# What passes when somebody mends the server. The client makes errors of their own of some; within a script Redis 6.2
# wraps the others: "ERR Error running script (...): @user_script:22: -OOM command not allowed ...".
_FOR_NOW = (OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError)
_FOR_NOW_CODES = re.compile(
    r"(^|-)(OOM|LOADING|MASTERDOWN|READONLY|BUSY|MISCONF|NOREPLICAS|CLUSTERDOWN|TRYAGAIN) "
)

# Position: topic id 1-16, next 17-24, clock 25-32, previous 33-40, first 41-48, token 49-64 (1-based, inclusive).
# SET and DEL cannot meet a wrong type; the hash and what is patched are checked before the first write, so a script
# that has begun to write runs to its end.
_COMMIT = """
local stored = redis.call('GET', KEYS[1])
if not stored then return {2, ''} end
local start, finish, counts = ARGV[1], ARGV[2], cmsgpack.unpack(ARGV[3])
if string.sub(stored, 1, 16) ~= string.sub(start, 1, 16) then return {2, stored} end
local next = string.sub(stored, 17, 24)
if next == string.sub(finish, 17, 24) then return {1, stored} end
if string.sub(stored, 49, 64) ~= string.sub(start, 49, 64) then return {3, stored} end
if next ~= string.sub(start, 17, 24) then return {2, stored} end
local sets, patches, deletes, fields, gone = counts[1], counts[2], counts[3], counts[4], counts[5]
local a, k = 3, 1
local hash
if fields + gone > 0 then
  hash = KEYS[#KEYS]
  local kind = redis.call('TYPE', hash)['ok']
  if kind ~= 'hash' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. hash .. ' is a ' .. kind) end
end
for i = 1, patches do
  local size = redis.call('STRLEN', KEYS[k + sets + i])
  if size ~= tonumber(ARGV[a + sets + 4 * i - 3]) then return {2, stored} end
end
while sets > 0 do
  local n = math.min(sets, 500)
  local pairs = {}
  for i = 1, n do pairs[2 * i - 1] = KEYS[k + i]; pairs[2 * i] = ARGV[a + i] end
  redis.call('MSET', unpack(pairs))
  k = k + n; a = a + n; sets = sets - n
end
for i = 1, patches do
  redis.call('SETRANGE', KEYS[k + i], 0, ARGV[a + 2])
  redis.call('SETRANGE', KEYS[k + i], ARGV[a + 3], ARGV[a + 4])
  a = a + 4
end
k = k + patches
for i = 1, deletes do redis.call('UNLINK', KEYS[k + i]) end
while fields > 0 do
  local n = math.min(fields, 500)
  redis.call('HSET', hash, unpack(ARGV, a + 1, a + 2 * n))
  a = a + 2 * n; fields = fields - n
end
while gone > 0 do
  local n = math.min(gone, 1000)
  redis.call('HDEL', hash, unpack(ARGV, a + 1, a + n))
  a = a + n; gone = gone - n
end
redis.call('SET', KEYS[1], finish)
return {0, finish}
"""

_CLAIM = """
local stored = redis.call('GET', KEYS[1])
if not stored then redis.call('SET', KEYS[1], ARGV[1]); return ARGV[1] end
if string.sub(stored, 1, 16) ~= string.sub(ARGV[1], 1, 16) then return stored end
local taken = string.sub(stored, 1, 48) .. string.sub(ARGV[1], 49, 64)
redis.call('SET', KEYS[1], taken)
return taken
"""

_NUMBER = """
local n = redis.call('HGET', KEYS[1], ARGV[1])
if not n then
  n = redis.call('HLEN', KEYS[1])
  redis.call('HSET', KEYS[1], ARGV[1], n)
end
return tonumber(n)
"""

# one decision a field, numbered in the order in which they were made
_ADOPT = """
return redis.call('HSETNX', KEYS[1], ARGV[1], redis.call('HLEN', KEYS[1]) .. ' ' .. ARGV[2])
"""


class _PacksInC:
    """A connection that packs commands as redis-py's blocking one does; the asyncio one takes three times as long."""

    _serializer = HiredisRespSerializer()

    def pack_command(self, *args: Any) -> list[bytes]:
        """Returns a command in the protocol of Redis."""
        return cast("list[bytes]", self._serializer.pack(*args))


class RedisStore:
    """States and positions in one Redis.

    Args:
        url: `redis://host:port/db`.
        timeout: seconds that a command may take before the store counts as unavailable.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        # a lost reply must reach the caller: the position tells whether the write was applied, a retry would guess
        self._client = aio.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._wires = Wires(self._client, timeout)
        pool = self._client.connection_pool
        pool.connection_class = type("Connection", (_PacksInC, pool.connection_class), {})
        self._commit = self._client.register_script(_COMMIT)
        self._claim = self._client.register_script(_CLAIM)
        self._adopt = self._client.register_script(_ADOPT)
        self._number = self._client.register_script(_NUMBER)
        self.trips = 0  # round trips so far, for the test that counts them

    async def groups(self, project: str, topic: str, plans: str, partitions: int) -> list[Group]:
        """Returns the groups of a topic."""
        name = f"{project}/{topic}"
        await self._do(self._client.hsetnx(keys.TOPICS, name, str(partitions)))
        known = int(await self._do(self._client.hget(keys.TOPICS, name)))
        if known != partitions:
            raise partitions_changed(topic, known, partitions)
        groups = []
        for p in range(partitions):
            number = await self._do(self._number(keys=[keys.GROUPS], args=[f"{name}/{p}/{plans}"]))
            groups.append(Group(topic, p, keys.tag(int(number))))
        return groups

    async def codes(self, fingerprints: Sequence[str]) -> dict[str, str]:
        """Returns the code of each plan."""
        return {
            f: keys.code(int(await self._do(self._number(keys=[keys.PLANS], args=[f])))) for f in fingerprints
        }

    async def layouts(self, project: str, topic: str) -> list[Adoption]:
        """Returns what was decided for a topic, oldest first."""
        found = []
        for needed, value in await self.fields(keys.layouts(project, topic)):
            number, layout, states = value.split(b" ", 2)
            found.append((int(number), Adoption(needed.decode(), layout.decode(), states)))
        return [adoption for _, adoption in sorted(found)]

    async def adopt(self, project: str, topic: str, adoption: Adoption) -> None:
        """Remembers a decision, unless there is one."""
        value = b" ".join((adoption.layout.encode(), adoption.states))
        await self._do(self._adopt(keys=[keys.layouts(project, topic)], args=[adoption.needed, value]))

    async def claim(self, group: Group, initial: Position, reader: str = "") -> Position:
        """Takes the group over."""
        stored = await self._do(self._claim(keys=[keys.position(group.tag, reader)], args=[initial.pack()]))
        position = Position.unpack(stored)
        if position.topic_id != initial.topic_id:
            raise topic_changed(group)
        return position

    async def commit(
        self, group: Group, start: Position, end: Position, writes: Writes, reader: str = ""
    ) -> Answer:
        """Writes all or nothing."""
        names: list[str] = [
            keys.position(group.tag, reader),
            *writes.sets,
            *writes.patches,
            *writes.deletes,
        ]
        patches = [part for patch in writes.patches.values() for part in patch]
        fields = [
            item for field, value in writes.fields.items() if value is not None for item in (field, value)
        ]
        gone = [field for field, value in writes.fields.items() if value is None]
        if writes.fields:
            names.append(writes.hash_key)
        counts = bytes((0x95,)) + b"".join(
            b"\xce" + n.to_bytes(4, "big")
            for n in (
                len(writes.sets),
                len(writes.patches),
                len(writes.deletes),
                len(fields) // 2,
                len(gone),
            )
        )
        args = [start.pack(), end.pack(), counts, *writes.sets.values(), *patches, *fields, *gone]
        status, stored = await self._do(self._commit(keys=names, args=args))
        position = Position.unpack(stored) if stored else Position.start(start.topic_id)
        return Answer(Status(status), position)

    async def read(self, wanted: Mapping[Group, Sequence[str]]) -> dict[Group, Read]:
        """Returns values and positions, in one round trip."""
        commands = [("MGET", keys.position(group.tag), *names) for group, names in wanted.items()]
        replies = await self._do(self._wires.ask(*commands))
        self.trips += 1
        return {
            group: Read(None if reply[0] is None else Position.unpack(reply[0]), reply[1:])
            for group, reply in zip(wanted, replies, strict=True)
        }

    async def get(self, key: str) -> bytes | None:
        """Returns one value."""
        return cast("bytes | None", await self._do(self._client.get(key)))

    async def heads(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        """Returns the first bytes of values."""
        heads = await self._do(self._wires.ask(*[("GETRANGE", key, 0, size - 1) for key in keys]))
        return [head or None for head in heads]

    async def tell(self, key: str, field: str, value: bytes) -> None:
        """Sets a field of a hash that nothing depends on."""
        await self._do(cast("Awaitable[Any]", self._client.hset(key, field, value)))

    async def note(self, values: Mapping[str, bytes]) -> None:
        """Sets values that no state depends on."""
        pipeline = self._client.pipeline(transaction=False)
        for key, value in values.items():
            pipeline.set(key, value)
        await self._do(pipeline.execute())

    async def scan(self, prefix: str, cursor: int) -> tuple[int, list[str]]:
        """Returns some keys that begin with a prefix."""
        pattern = "".join(f"\\{c}" if c in "*?[]\\" else c for c in prefix) + "*"
        following, found = await self._do(self._client.scan(cursor, match=pattern, count=500))
        return int(following), [key.decode() for key in found]

    async def fields(self, key: str) -> list[tuple[bytes, bytes]]:
        """Returns everything in a hash, a part at a time so that others are served in between."""
        found: dict[bytes, bytes] = {}
        cursor = 0
        while True:
            cursor, part = await self._do(self._client.hscan(key, cursor, count=1000))
            found.update(part)
            if cursor == 0:
                return list(found.items())

    async def ping(self) -> None:
        """Asks whether Redis answers.

        Raises:
            StoreUnavailable: it does not.
        """
        await self._do(cast("Awaitable[Any]", self._client.ping()))

    async def close(self) -> None:
        """Gives the connections back."""
        await self._wires.close()
        await self._client.aclose()

    async def _do(self, command: Awaitable[Any]) -> Any:
        task = asyncio.current_task()
        asked_to_end = 0 if task is None else task.cancelling()
        try:
            answer = await command
        except AuthenticationError as error:
            raise StoreUnavailable(
                f"Redis does not let us in: {error}",
                where=_address(self._client),
                fix="put the right user and password into the URL of Redis, in HEADRACE_REDIS or .env",
            ) from error
        except (RedisConnectionError, RedisTimeoutError, NoScriptError) as error:
            raise StoreUnavailable(
                f"Redis does not answer: {error}",
                where=_address(self._client),
                fix="start Redis, or give its address with --redis or HEADRACE_REDIS",
            ) from error
        except ResponseError as error:
            if isinstance(error, _FOR_NOW) or _FOR_NOW_CODES.search(str(error)):
                raise StoreUnavailable(
                    f"Redis refuses for now: {error}", where=_address(self._client)
                ) from error
            raise StoreError(f"Redis refused a command: {error}", where=_address(self._client)) from error
        except RedisError as error:
            raise StoreError(f"Redis failed: {error}", where=_address(self._client)) from error
        if task is not None and task.cancelling() > asked_to_end:
            # The client uses wait_for, which in Python 3.11 swallows a cancellation that comes with the result: the
            # loops that call us would go on for ever.
            raise asyncio.CancelledError
        return answer


def _address(client: aio.Redis) -> str:
    options = client.connection_pool.connection_kwargs
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
