"""A real Redis Cluster: slots that move in the middle of everything, a master that is killed, one trip to each."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import redis

from features import keys
from features.errors import StoreError, StoreUnavailable
from features.redis import RedisStore
from features.store import Group, Position, Status, Writes
from tests.parts.cluster import WAIT, Cluster, Node, started

T = TypeVar("T")
TOPIC, TOKEN = b"t" * 16, b"a" * 16


async def groups_of(store: RedisStore, count: int = 12) -> list[Group]:
    """Groups of one topic, claimed, with a state each."""
    groups = await store.groups("shop", "shop.sales.v1", "p", count)
    for group in groups:
        start = await store.claim(group, Position.start(TOPIC)._replace(token=TOKEN))
        end, writes = batch(group, start, 1)
        assert (await store.commit(group, start, end, writes)).status is Status.APPLIED
    return groups


def slot_of(group: Group) -> int:
    return keys.slot(group.tag.encode())


def batch(group: Group, start: Position, size: int) -> tuple[Position, Writes]:
    """The sum of all offsets, so that a batch applied twice or left out shows; and a key that was not there."""
    end = start._replace(next=start.next + size)
    prefix = keys.state_prefix(group.tag, "a")
    total = b"%d" % sum(range(end.next))
    return end, Writes(
        {f"{prefix}total": total, f"{prefix}{start.next}": b"x"}, (), keys.join(group.tag), {b"t": total}
    )


class Driver:
    """Commits and reads as a worker and an API do, for as long as it is told to."""

    def __init__(self, cluster: Cluster, group: Group, position: Position) -> None:
        self.group = group
        self.position = position
        self.begun = position.next
        self._worker, self._api = RedisStore(cluster.url), RedisStore(cluster.url)
        self.seen: Counter[str] = Counter()
        self._ending = False

    async def commits(self) -> None:
        while not self._ending:
            end, writes = batch(self.group, self.position, 1 + self.position.next % 3)
            try:
                answer = await self._worker.commit(self.group, self.position, end, writes)
            except StoreUnavailable:
                self.seen["no commit"] += 1
                await asyncio.sleep(0)
                continue
            assert answer.status in (Status.APPLIED, Status.DUPLICATE)
            assert answer.position == end
            self.position = end
            self.seen["commit"] += 1

    async def reads(self) -> None:
        name = keys.state_prefix(self.group.tag, "a") + "total"
        before = self.begun
        while not self._ending:
            try:
                (found,) = (await self._api.read({self.group: [name]})).values()
            except StoreUnavailable:
                self.seen["no read"] += 1
                await asyncio.sleep(0)
                continue
            assert found.position is not None
            assert found.values == [b"%d" % sum(range(found.position.next))]
            assert found.position.next >= before, "what was committed went back"
            before = found.position.next
            self.seen["read"] += 1

    async def more(self, *words: str, of: int = 3) -> None:
        """Waits until both have come on, or each of some words was seen more often."""
        since = self.seen.copy()

        def enough() -> bool:
            seen = self.seen - since
            if words:
                return all(seen[word] >= of for word in words)
            return seen["commit"] + seen["no commit"] >= of and seen["read"] + seen["no read"] >= of

        while not enough():
            for task in self.tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.001)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.tasks = [asyncio.create_task(self.commits()), asyncio.create_task(self.reads())]
        try:
            yield
        finally:
            self._ending = True
            await asyncio.gather(*self.tasks)
            await self._worker.close()
            await self._api.close()


@pytest.fixture
async def store(redis_cluster: Cluster) -> AsyncIterator[RedisStore]:
    made = RedisStore(redis_cluster.url)
    yield made
    await made.close()


async def whole(store: RedisStore, group: Group, position: Position) -> None:
    """Everything up to a position is there, once."""
    prefix = keys.state_prefix(group.tag, "a")
    total = b"%d" % sum(range(position.next))
    (found,) = (await store.read({group: [f"{prefix}total"]})).values()
    assert (found.position, found.values) == (position, [total])
    assert await store.fields(keys.join(group.tag)) == [(b"t", total)]


async def test_a_slot_that_moves_between_commits_and_reads_loses_and_doubles_nothing(
    redis_cluster: Cluster, store: RedisStore
) -> None:
    group = (await groups_of(store))[0]
    (found,) = (await store.read({group: []})).values()
    assert found.position is not None
    source = redis_cluster.owner(slot_of(group))
    driver = Driver(redis_cluster, group, found.position)
    steps = redis_cluster.moving(slot_of(group))
    done: list[str] = []
    async with driver.running():
        await driver.more("commit", "read")
        while step := await asyncio.to_thread(next, steps, None):
            done.append(step)
            if len(done) < 6:
                await driver.more()
        await driver.more("commit", "read")

    assert done[0] == "begun"
    assert done.count("moved keys") > 3
    assert driver.seen["no commit"] > 0  # its keys were here and there
    assert redis_cluster.owner(slot_of(group)) is not source
    assert source.say("CLUSTER", "GETKEYSINSLOT", slot_of(group), 10) == []
    await whole(store, group, driver.position)


async def test_a_commit_to_the_master_of_before_goes_to_the_one_of_now(
    redis_cluster: Cluster, store: RedisStore
) -> None:
    groups = await groups_of(store, 3)
    stale = RedisStore(redis_cluster.url)
    before = await stale.read({group: [] for group in groups})
    for group in groups:
        for _ in redis_cluster.moving(slot_of(group)):
            pass

    read = await stale.read({group: [] for group in groups})
    for group in groups:
        position = read[group].position
        assert position is not None
        end, writes = batch(group, position, 5)
        assert await stale.commit(group, position, end, writes) == (Status.APPLIED, end)
        assert await stale.commit(group, position, end, writes) == (Status.DUPLICATE, end)
        await whole(store, group, end)

    assert read == before
    await stale.close()


async def test_a_key_that_has_gone_ahead_of_its_slot_is_asked_for_where_it_is(
    redis_cluster: Cluster, store: RedisStore
) -> None:
    """While a slot moves, the master that still has it says ASK for a key that it has given away."""
    group = (await groups_of(store, 1))[0]
    await store.note({keys.mark(group.tag): b"mine"})
    steps = redis_cluster.moving(slot_of(group))
    seen = []
    for _ in steps:
        seen.append(await store.get(keys.mark(group.tag)))
        await store.note({keys.mark(group.tag): b"mine"})

    assert len(seen) > 5
    assert set(seen) == {b"mine"}


async def test_a_master_killed_without_a_replica_is_unavailable_until_it_is_back(
    redis_cluster: Cluster, store: RedisStore
) -> None:
    group = (await groups_of(store))[1]
    (found,) = (await store.read({group: []})).values()
    assert found.position is not None
    node = redis_cluster.owner(slot_of(group))
    driver = Driver(redis_cluster, group, found.position)
    async with driver.running():
        await driver.more("commit", "read")
        node.kill()
        await driver.more("no commit", "no read")
        stood = driver.position
        node.restart()
        await driver.more("commit", "read")
    await asyncio.to_thread(redis_cluster.until_well)

    assert driver.position.next > stood.next
    await whole(store, group, driver.position)


async def at_last(attempt: Callable[[], Awaitable[T]]) -> T:
    """What an attempt gives, once the cluster is there again: each of the store's connections hears of it by itself."""
    async with asyncio.timeout(WAIT):
        while True:
            try:
                return await attempt()
            except StoreUnavailable:
                await asyncio.sleep(0)


async def test_a_replica_that_takes_over_is_found(tmp_path: Path) -> None:
    with started(tmp_path) as cluster, Node.start(tmp_path / "replica") as replica:
        store = RedisStore(cluster.url)
        group = (await groups_of(store))[0]
        (found,) = (await store.read({group: []})).values()
        assert found.position is not None
        end, writes = batch(group, found.position, 5)
        master = cluster.owner(slot_of(group))
        cluster.replicate(master, replica)
        await store.commit(group, found.position, end, writes)
        cluster.until_same(master, replica)
        master.kill()

        following, more = batch(group, end, 5)
        answer = await at_last(lambda: store.commit(group, end, following, more))
        assert answer == (Status.APPLIED, following)
        await at_last(lambda: whole(store, group, following))
        assert int(replica.say("CLUSTER", "COUNTKEYSINSLOT", slot_of(group))) == 6
        await store.close()


@pytest.fixture
def trips(redis_cluster: Cluster) -> Iterator[Callable[[Node], int]]:
    """How often a node has received something, without what asks for it."""
    asked: Counter[int] = Counter()
    with ExitStack() as stack:
        clients = {
            node.port: stack.enter_context(redis.Redis(port=node.port)) for node in redis_cluster.nodes
        }

        def received(node: Node) -> int:
            asked[node.port] += 1
            told = clients[node.port].info("stats")
            assert isinstance(told, dict)
            return int(told["total_reads_processed"]) - asked[node.port]

        yield received


async def test_a_read_is_one_trip_to_each_master_that_has_a_part_in_it(
    redis_cluster: Cluster, store: RedisStore, trips: Callable[[Node], int]
) -> None:
    groups = await groups_of(store)
    wanted = {group: [keys.state_prefix(group.tag, "a") + f"{k}" for k in range(20)] for group in groups}
    await store.read(wanted)  # the connections are open from here on
    for node in redis_cluster.nodes:
        trips(node)  # as are those of the counter
    before = [trips(node) for node in redis_cluster.nodes]

    found = await store.read(wanted)

    assert [trips(node) - was for node, was in zip(redis_cluster.nodes, before, strict=True)] == [1, 1, 1]
    assert [read.position is not None for read in found.values()] == [True] * 12


async def test_the_masters_are_asked_at_the_same_time(
    redis_cluster: Cluster, store: RedisStore, trips: Callable[[Node], int]
) -> None:
    groups = await groups_of(store)
    await store.read({group: [] for group in groups})
    first = redis_cluster.owner(slot_of(groups[0]))
    others = [node for node in redis_cluster.nodes if node is not first]
    for node in others:
        trips(node)
    before = [trips(node) for node in others]
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    reading = asyncio.create_task(store.read({group: [] for group in groups}))
    try:
        async with asyncio.timeout(WAIT):
            while [trips(node) - was for node, was in zip(others, before, strict=True)] != [1, 1]:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert not reading.done()
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert len(await reading) == 12


async def test_groups_and_their_keys_lie_on_all_masters(redis_cluster: Cluster, store: RedisStore) -> None:
    groups = await groups_of(store)

    owners = Counter(redis_cluster.owner(slot_of(group)).port for group in groups)

    assert len(owners) == 3
    assert max(owners.values()) <= 6  # 4, but for the slots that other tests have moved
    for node in redis_cluster.nodes:
        there = node.say("KEYS", "{*")
        assert len(there) == owners[node.port] * 4
        for name in there:
            assert node.say("CLUSTER", "KEYSLOT", name) == keys.slot(name)


async def test_a_hash_is_read_whole_while_its_slot_moves(redis_cluster: Cluster, store: RedisStore) -> None:
    """Each server has an order of its own: the cursor of one would leave out fields of the other."""
    group = (await groups_of(store, 1))[0]
    name, fields = keys.join(group.tag), {b"%d" % k: b"v" for k in range(3_000)}
    (found,) = (await store.read({group: []})).values()
    assert found.position is not None
    end = found.position._replace(next=2)
    await store.commit(group, found.position, end, Writes({}, (), name, {b"t": None, **fields}))
    steps = redis_cluster.moving(slot_of(group))
    walked, refused = 0, 0
    ending = False

    async def walk() -> None:
        nonlocal walked, refused
        while not ending:
            try:
                assert dict(await store.fields(name)) == fields
                walked += 1
            except StoreUnavailable:
                refused += 1

    walking = asyncio.create_task(walk())
    while await asyncio.to_thread(next, steps, None):
        seen = walked + refused
        while walked + refused < seen + 2 and not walking.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
    ending = True
    await walking

    assert walked > 2
    assert dict(await store.fields(name)) == fields


async def test_a_walk_through_keys_begins_again_on_another_master(
    redis_cluster: Cluster, store: RedisStore
) -> None:
    group = (await groups_of(store, 1))[0]
    prefix = keys.state_prefix(group.tag, "b")
    names = {f"{prefix}{k}" for k in range(2_000)}
    await store.note(dict.fromkeys(names, b"x"))
    cursor, found = await store.scan(prefix, 0)
    assert cursor != 0
    assert len(found) < 2_000
    source = redis_cluster.owner(slot_of(group))
    for _ in redis_cluster.moving(slot_of(group), 500):
        pass
    assert redis_cluster.owner(slot_of(group)) is not source

    seen: set[str] = set()
    while cursor != 0:
        cursor, some = await store.scan(prefix, cursor)
        seen |= set(some)

    assert seen == names


async def test_any_node_that_is_named_will_do(redis_cluster: Cluster) -> None:
    url = redis_cluster.urls.replace("redis://", "redis://127.0.0.1:1,")
    store = RedisStore(url)

    assert len(await groups_of(store)) == 12
    await store.close()


async def test_a_cluster_without_slots_is_unavailable_and_a_database_in_it_refused(
    redis_cluster: Cluster,
) -> None:
    store = RedisStore(redis_cluster.url.replace("/0", "/5"))
    with pytest.raises(StoreError, match="SELECT is not allowed in cluster mode"):
        await store.get("x")
    await store.close()
