"""The commit under failures: whatever is lost, repeated or rewound, the states are the fold of the named prefix."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from features import keys
from features.errors import StoreUnavailable
from features.memory import MemoryStore
from features.redis import RedisStore
from features.store import Group, Position, Status, Store, Writes
from features.wire import Command, Wire

TOPIC = b"t" * 16
TOKENS = [bytes([letter]) * 16 for letter in b"abc"]


class Proxy:
    """Stands between a client and Redis. Cuts the connection after a request was answered, when told to."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._server = (address.hostname, address.port)
        self.cut_next = False
        self.cuts = 0
        self.trips = 0  # how often the client spoke after it was answered
        self.url = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            self.url = f"redis://127.0.0.1:{port}/0"
            yield self

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(*self._server)
        try:
            while request := await client.read(1 << 20):
                self.trips += 1
                server.write(request)
                await asyncio.gather(self._forward(client, server, back, answers))
                if back.is_closing():
                    return
        finally:
            for writer in (server, back):
                writer.close()

    async def _forward(
        self,
        client: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
    ) -> None:
        # Our commands fit one segment on loopback, and so do their answers.
        answer = await answers.read(1 << 20)
        if self.cut_next:
            self.cut_next = False
            self.cuts += 1
            back.close()
        else:
            back.write(answer)


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


async def claimed(store: Store, token: bytes = TOKENS[0]) -> tuple[Group, Position]:
    group = (await store.groups("shop", "shop.sales.v1", "p", 1))[0]
    return group, await store.claim(group, Position.start(TOPIC)._replace(token=token))


def total(group: Group) -> str:
    return keys.state_prefix(group.tag, "a") + "total"


def batch(group: Group, start: Position, size: int) -> tuple[Position, Writes]:
    """The fold of the test: the sum of all offsets, so a batch applied twice or left out shows."""
    end = start._replace(next=start.next + size)
    value = b"%d" % sum(range(end.next))
    return end, Writes({total(group): value}, (), keys.join(group.tag), {b"total": value})


async def agrees(store: Store, group: Group) -> Position:
    """Where the group stands; what it holds is the fold of that prefix."""
    found = (await store.read({group: [total(group)]}))[group]
    assert found.position is not None
    wanted = b"%d" % sum(range(found.position.next)) if found.position.next else None
    assert found.values == [wanted]
    assert dict(await store.fields(keys.join(group.tag))).get(b"total") == wanted
    return found.position


async def test_a_lost_reply_is_answered_as_a_duplicate_and_the_batch_counts_once(redis_url: str) -> None:
    async with Proxy(redis_url).listening() as proxy:
        store = RedisStore(proxy.url)
        group, start = await claimed(store)
        end, writes = batch(group, start, 10)
        await store.commit(group, start, end, writes)  # loads the script
        following, more = batch(group, end, 5)
        proxy.cut_next = True

        with pytest.raises(StoreUnavailable):
            await store.commit(group, end, following, more)
        answer = await store.commit(group, end, following, more)

        assert proxy.cuts == 1
        assert answer == (Status.DUPLICATE, following)
        assert (await agrees(store, group)).next == 15
        await store.close()


async def test_every_reply_can_be_lost(redis_url: str) -> None:
    """Each second reply is cut; a driver that only repeats gets through."""
    async with Proxy(redis_url).listening() as proxy:
        store = RedisStore(proxy.url)
        group, position = await claimed(store)
        statuses = []
        for k in range(40):
            end, writes = batch(group, position, 3)
            proxy.cut_next = k % 2 == 1
            while True:
                try:
                    answer = await store.commit(group, position, end, writes)
                except StoreUnavailable:
                    continue
                break
            statuses.append(answer.status)
            position = answer.position
        assert statuses == [Status.APPLIED, Status.DUPLICATE] * 20
        assert (await agrees(store, group)).next == 120
        await store.close()


async def test_a_read_is_one_round_trip_whatever_it_asks_for(redis_url: str) -> None:
    async with Proxy(redis_url).listening() as proxy:
        store = RedisStore(proxy.url)
        groups = await store.groups("shop", "shop.sales.v1", "p", 8)
        await store.read({groups[0]: []})  # the connection is open from here on
        before, counted = proxy.trips, store.trips

        await store.read(
            {group: [keys.state_prefix(group.tag, "a") + str(k) for k in range(20)] for group in groups}
        )
        await store.read({groups[0]: [keys.state_prefix(groups[0].tag, "a") + "x"]})

        assert proxy.trips - before == 2
        assert store.trips - counted == 2
        await store.close()


async def test_a_commit_is_one_round_trip(redis_url: str) -> None:
    async with Proxy(redis_url).listening() as proxy:
        store = RedisStore(proxy.url)
        group, start = await claimed(store)
        end, writes = batch(group, start, 10)
        await store.commit(group, start, end, writes)
        before = proxy.trips

        await store.commit(group, end, *batch(group, end, 10))

        assert proxy.trips - before == 1
        await store.close()


async def test_a_hash_is_never_read_on_with_the_cursor_of_another_connection(
    redis_url: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was started in between has another order: fields would be missing, and nobody would know."""
    store = RedisStore(redis_url)
    group, start = await claimed(store)
    name, fields = keys.join(group.tag), {b"%d" % k: b"v" for k in range(1_200)}
    await store.commit(group, start, start._replace(next=1), Writes({}, (), name, dict(fields)))
    ask = Wire.ask

    async def lost_behind_the_reply(wire: Wire, *commands: Command) -> list[Any]:
        replies = await ask(wire, *commands)
        raw.client_kill_filter(_type="normal", skipme=True)
        await wire._gone.wait()
        return replies

    with monkeypatch.context() as patch:
        patch.setattr(Wire, "ask", lost_behind_the_reply)
        with pytest.raises(StoreUnavailable):
            await store.fields(name)

    assert dict(await store.fields(name)) == fields
    await store.close()


async def test_a_redis_without_memory_is_unavailable_and_has_written_nothing(
    redis_url: str, raw: redis.Redis
) -> None:
    store = RedisStore(redis_url)
    group, start = await claimed(store)
    end, writes = batch(group, start, 10)
    await store.commit(group, start, end, writes)
    following, more = batch(group, end, 5)
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="memory"):
            await store.commit(group, end, following, more)
        assert await agrees(store, group) == end
    finally:
        raw.config_set("maxmemory", 0)

    assert (await store.commit(group, end, following, more)).status is Status.APPLIED
    assert await agrees(store, group) == following
    await store.close()


async def test_a_restored_redis_says_where_to_go_on(redis_url: str, raw: redis.Redis) -> None:
    store = RedisStore(redis_url)
    group, start = await claimed(store)
    end, writes = batch(group, start, 10)
    await store.commit(group, start, end, writes)
    backup = {key: raw.dump(key) for key in raw.keys(f"{group.tag}*")}
    later, more = batch(group, end, 10)
    await store.commit(group, end, later, more)
    for key, data in backup.items():
        assert isinstance(data, bytes)
        raw.restore(key, 0, data, replace=True)

    answer = await store.commit(group, later, *batch(group, later, 10))

    assert answer == (Status.MISMATCH, end)
    assert await agrees(store, group) == end
    assert (await store.commit(group, end, later, more)).status is Status.APPLIED
    await store.close()


async def test_a_redis_that_lost_its_scripts_gets_them_again(redis_url: str, raw: redis.Redis) -> None:
    store = RedisStore(redis_url)
    group, start = await claimed(store)
    end, writes = batch(group, start, 10)
    await store.commit(group, start, end, writes)
    raw.script_flush()

    assert (await store.commit(group, end, *batch(group, end, 1))).status is Status.APPLIED
    await store.close()


async def test_a_redis_that_is_away_is_told_from_one_that_refuses() -> None:
    store = RedisStore("redis://127.0.0.1:1/0")

    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.get("x")
    await store.close()


async def test_a_cancellation_that_the_client_swallows_still_ends_the_caller() -> None:
    """`asyncio.wait_for` of Python 3.11, which the client uses, returns the result if both come at once."""
    store = RedisStore("redis://127.0.0.1:1/0")
    begun = asyncio.Event()

    async def swallowing() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "answer"
        raise AssertionError("nobody sets that event")

    task = asyncio.create_task(store._do(swallowing()))
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await store.close()


class Worker:
    """One owner: it folds on from where it believes to stand, and believes what the store answers."""

    def __init__(self, token: bytes) -> None:
        self.token = token
        self.position: Position | None = None
        self.unsure: tuple[Position, Position, Writes] | None = None  # sent, and the reply was lost


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_any_history_of_owners_and_losses_leaves_the_fold_of_the_prefix(
    kind: str, seed: int, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(seed)
    if kind == "memory":
        store, snapshot = _memory()
    else:
        store, snapshot = _redis(request.getfixturevalue("redis_url"), request.getfixturevalue("raw"))
    workers = [Worker(token) for token in TOKENS]
    group = (await store.groups("shop", "shop.sales.v1", "p", 1))[0]
    restore = snapshot()
    for _ in range(150):
        worker = chance.choice(workers)
        move = chance.random()
        if worker.position is None or move < 0.05:
            initial = Position.start(TOPIC)._replace(token=worker.token)
            worker.position, worker.unsure = await store.claim(group, initial), None
        elif move < 0.10:
            restore = snapshot()
        elif move < 0.13:
            restore()
        else:
            sent = worker.unsure or (worker.position, *batch(group, worker.position, chance.randrange(4)))
            answer = await store.commit(group, *sent)
            if chance.random() < 0.3:
                worker.unsure = sent
                continue
            worker.unsure = None
            worker.position = answer.position
            if answer.status is Status.FENCED or answer.position.token != worker.token:
                worker.position = None  # claims again some time
        if await store.get(keys.position(group.tag)) is not None:
            await agrees(store, group)
    await store.close()


def _memory() -> tuple[Store, Callable[[], Callable[[], None]]]:
    store = MemoryStore()

    def snapshot() -> Callable[[], None]:
        values = dict(store.values)
        hashes = {name: dict(fields) for name, fields in store.hashes.items()}

        def restore() -> None:
            store.values = dict(values)
            store.hashes = {name: dict(fields) for name, fields in hashes.items()}

        return restore

    return store, snapshot


def _redis(url: str, raw: redis.Redis) -> tuple[Store, Callable[[], Callable[[], None]]]:
    def snapshot() -> Callable[[], None]:
        kept = {key: raw.dump(key) for key in raw.keys("{*")}

        def restore() -> None:
            for key in raw.keys("{*"):
                raw.delete(key)
            for key, data in kept.items():
                assert isinstance(data, bytes)
                raw.restore(key, 0, data, replace=True)

        return restore

    return RedisStore(url), snapshot
