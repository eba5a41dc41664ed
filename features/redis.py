"""The store in Redis (6.2 or newer, or Valkey, or a cluster of them).

One script for each commit, one pipelined trip for each read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha1
from string import ascii_lowercase
from typing import Any, cast
from urllib.parse import urlsplit

from redis.exceptions import (
    AskError,
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
from .cluster import Servers
from .errors import StoreError, StoreUnavailable
from .memory import partitions_changed, topic_changed
from .store import Adoption, Answer, Group, Position, Read, Status, Writes
from .wire import Command

_CONNECTIONS = 1 << 32  # a process opens fewer

# What passes when somebody mends the server. redis-py makes errors of their own of some; within a script Redis 6.2
# wraps the others: "ERR Error running script (...): @user_script:22: -OOM command not allowed ...".
_FOR_NOW = (OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError, AskError)
_FOR_NOW_CODES = re.compile(
    r"(^|-)(OOM|LOADING|MASTERDOWN|READONLY|BUSY|MISCONF|NOREPLICAS|CLUSTERDOWN|TRYAGAIN) "
)


class Script:
    """A script and the digest by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


# Position: topic id 1-16, next 17-24, clock 25-32, previous 33-40, first 41-48, token 49-64 (1-based, inclusive).
# SET and DEL cannot meet a wrong type; the hash and what is patched are checked before the first write, so a script
# that has begun to write runs to its end.
_COMMIT = Script("""
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
""")

_CLAIM = Script("""
local stored = redis.call('GET', KEYS[1])
if not stored then redis.call('SET', KEYS[1], ARGV[1]); return ARGV[1] end
if string.sub(stored, 1, 16) ~= string.sub(ARGV[1], 1, 16) then return stored end
local taken = string.sub(stored, 1, 48) .. string.sub(ARGV[1], 49, 64)
redis.call('SET', KEYS[1], taken)
return taken
""")

# what comes next is given to names that have nothing, unless somebody else was given it meanwhile
_GIVE = Script("""
if redis.call('HLEN', KEYS[1]) == tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], unpack(ARGV, 2)) end
""")

# one decision a field, numbered in the order in which they were made
_ADOPT = Script("""
return redis.call('HSETNX', KEYS[1], ARGV[1], redis.call('HLEN', KEYS[1]) .. ' ' .. ARGV[2])
""")


class RedisStore:
    """States and positions in one Redis, or in a Redis Cluster.

    Args:
        url: `redis://host:port/db`; of a cluster any of its nodes, or several: `redis://host:port,host:port`.
        timeout: seconds that a command may take before the store counts as unavailable.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self._where = urlsplit(url).netloc.rpartition("@")[2]
        # reads and what is as short have a connection of their own: no prediction waits behind a snapshot
        self._quick = Servers(url, timeout)
        self._bulk = Servers(url, timeout)
        self.trips = 0  # round trips so far, for the test that counts them

    async def groups(self, project: str, topic: str, plans: str, partitions: int) -> list[Group]:
        """Returns the groups of a topic."""
        name = f"{project}/{topic}"
        (pinned,) = await self._ask(
            ("HGET", keys.TOPICS, name)
        )  # first, so that the API need not be let write
        if pinned is None:
            _, pinned = await self._ask(
                ("HSETNX", keys.TOPICS, name, partitions), ("HGET", keys.TOPICS, name)
            )
        known = int(pinned)
        if known != partitions:
            raise partitions_changed(topic, known, partitions)
        names = [f"{name}/{p}/{plans}" for p in range(partitions)]
        given = await self._given(keys.GROUPS, names, keys.spread)
        return [Group(topic, p, keys.tag(named)) for p, named in enumerate(given)]

    async def codes(self, fingerprints: Sequence[str]) -> dict[str, str]:
        """Returns the code of each plan."""
        given = await self._given(keys.PLANS, fingerprints, str)
        return {f: keys.code(int(number)) for f, number in zip(fingerprints, given, strict=True)}

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
        await self._run(_ADOPT, [keys.layouts(project, topic)], adoption.needed, value)

    async def claim(self, group: Group, initial: Position, reader: str = "") -> Position:
        """Takes the group over."""
        stored = await self._run(_CLAIM, [keys.position(group.tag, reader)], initial.pack())
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
        args = (start.pack(), end.pack(), counts, *writes.sets.values(), *patches, *fields, *gone)
        status, stored = await self._run(_COMMIT, names, *args)
        position = Position.unpack(stored) if stored else Position.start(start.topic_id)
        return Answer(Status(status), position)

    async def read(self, wanted: Mapping[Group, Sequence[str]]) -> dict[Group, Read]:
        """Returns values and positions, in one round trip."""
        commands = [("MGET", keys.position(group.tag), *names) for group, names in wanted.items()]
        replies = await self._do(self._quick.ask(*commands))
        self.trips += 1
        return {
            group: Read(None if reply[0] is None else Position.unpack(reply[0]), reply[1:])
            for group, reply in zip(wanted, replies, strict=True)
        }

    async def get(self, key: str) -> bytes | None:
        """Returns one value."""
        (value,) = await self._ask(("GET", key))
        return cast("bytes | None", value)

    async def heads(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        """Returns the first bytes of values."""
        heads = await self._do(self._quick.ask(*[("GETRANGE", key, 0, size - 1) for key in keys]))
        return [head or None for head in heads]

    async def tell(self, key: str, field: str, value: bytes) -> None:
        """Sets a field of a hash that nothing depends on."""
        await self._ask(("HSET", key, field, value))

    async def note(self, values: Mapping[str, bytes]) -> None:
        """Sets values that no state depends on."""
        await self._ask(*[("SET", key, value) for key, value in values.items()])

    async def scan(self, prefix: str, cursor: int) -> tuple[int, list[str]]:
        """Returns some keys that begin with a prefix."""
        pattern = "".join(f"\\{c}" if c in "*?[]\\" else c for c in prefix) + "*"
        following, found = await self._do(self._stepped(prefix, pattern, cursor))
        return following, [key.decode() for key in found]

    async def fields(self, key: str) -> list[tuple[bytes, bytes]]:
        """Returns everything in a hash, a part at a time so that others are served in between."""
        return list((await self._do(self._walked(key))).items())

    async def facts(self) -> dict[str, dict[str, str]]:
        """Returns what INFO tells of each server, by its address: one, or every master of a cluster."""
        return cast("dict[str, dict[str, str]]", await self._do(self._told()))

    async def owners(self) -> list[str | None]:
        """Returns the address of the master of each slot, None where there is none; empty where there is no cluster."""
        return [owner and owner.where for owner in await self._do(self._bulk.owners())]

    async def close(self) -> None:
        """Gives the connections back."""
        await self._quick.close()
        await self._bulk.close()

    async def _ask(self, *commands: Command) -> list[Any]:
        return cast("list[Any]", await self._do(self._bulk.ask(*commands)))

    async def _told(self) -> dict[str, dict[str, str]]:
        told = {}
        for master in await self._bulk.masters():
            (info,) = await master.ask(("INFO",))
            if isinstance(info, RedisError):
                raise info
            lines = info.decode().splitlines()
            told[master.where] = dict(line.split(":", 1) for line in lines if ":" in line)
        return told

    async def _given(self, key: str, names: Sequence[str], word: Callable[[int], str]) -> list[str]:
        """Returns what each name has in a hash; one that has nothing is given the word of the next number."""
        while names:
            found, given = await self._ask(("HMGET", key, *names), ("HVALS", key))
            if None not in found:
                return [value.decode() for value in found]
            new = dict.fromkeys(name for name, value in zip(names, found, strict=True) if value is None)
            # beyond all that are there, not their count: groups of old definitions may have been removed by hand
            following = 1 + max((int(value.rstrip(ascii_lowercase.encode())) for value in given), default=-1)
            pairs = [part for k, name in enumerate(new) for part in (name, word(following + k))]
            await self._run(_GIVE, [key], len(given), *pairs)
        return []

    async def _run(self, script: Script, names: Sequence[str], *args: str | bytes | int) -> Any:
        return await self._do(self._evaluated(script, len(names), *names, *args))

    async def _evaluated(self, script: Script, *rest: str | bytes | int) -> Any:
        try:
            (reply,) = await self._bulk.ask(("EVALSHA", script.sha, *rest))
        except NoScriptError:  # so nothing was done; the text makes it known
            (reply,) = await self._bulk.ask(("EVAL", script.text, *rest))
        return reply

    async def _stepped(self, prefix: str, pattern: str, cursor: int) -> tuple[int, list[bytes]]:
        wire = await self._bulk.to(prefix)
        step, number = divmod(cursor, _CONNECTIONS)
        # what another connection gave may be the cursor of another server: then the walk begins again
        begun = step if number == wire.number else 0
        (reply,) = await wire.ask(("SCAN", begun, "MATCH", pattern, "COUNT", 500))
        if isinstance(reply, RedisError):
            raise reply
        following = int(reply[0])
        return following and following * _CONNECTIONS + wire.number, reply[1]

    async def _walked(self, key: str) -> dict[bytes, bytes]:
        # all on one connection: a server that was started since puts the fields into another order, and the cursor of
        # the one before leaves some of them out
        wire = await self._bulk.to(key)
        found: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            (reply,) = await wire.ask(("HSCAN", key, cursor, "COUNT", 1000))
            if isinstance(reply, RedisError):
                raise reply
            cursor, part = reply
            found.update(zip(part[::2], part[1::2], strict=True))
            if cursor == b"0":
                return found

    async def _do(self, command: Awaitable[Any]) -> Any:
        task = asyncio.current_task()
        asked_to_end = 0 if task is None else task.cancelling()
        try:
            answer = await command
        except AuthenticationError as error:
            raise StoreUnavailable(
                f"Redis does not let us in: {error}",
                where=self._where,
                fix="put the right user and password into the URL of Redis, in HEADRACE_REDIS or .env",
            ) from error
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise StoreUnavailable(
                f"Redis does not answer: {error}",
                where=self._where,
                fix="start Redis, or give its address with --redis or HEADRACE_REDIS",
            ) from error
        except ResponseError as error:
            if isinstance(error, _FOR_NOW) or _FOR_NOW_CODES.search(str(error)):
                raise StoreUnavailable(f"Redis refuses for now: {error}", where=self._where) from error
            raise StoreError(f"Redis refused a command: {error}", where=self._where) from error
        except RedisError as error:
            raise StoreError(f"Redis failed: {error}", where=self._where) from error
        if task is not None and task.cancelling() > asked_to_end:
            # redis-py opens connections with wait_for, which in Python 3.11 swallows a cancellation that comes with the
            # result: the loops that call us would go on for ever.
            raise asyncio.CancelledError
        return answer
