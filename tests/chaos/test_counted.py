"""Zombies and rewinds, counted: no stale write is accepted, and every rewind is told."""

from __future__ import annotations

import random
from pathlib import Path

import redis as blocking

from features.embedded import EmbeddedRedis
from features.redis import RedisStore
from features.store import Group, Position, Status
from tests.chaos.redis_files import RedisFiles
from tests.features.test_commit_protocol import TOPIC, agrees, batch

STALE = 1_000
RESTARTS = 40
GROUPS = 4


def everything(client: blocking.Redis) -> dict[bytes, bytes]:
    """All that is stored, by key."""
    names: list[bytes] = sorted(client.keys("*"))  # type: ignore[arg-type]  # bytes without decode_responses
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.dump(name)
    return dict(zip(names, pipeline.execute(), strict=True))


async def test_of_a_thousand_writes_of_former_owners_none_is_accepted(redis_url: str) -> None:
    chance = random.Random(1)
    store = RedisStore(redis_url)
    groups = await store.groups("shop", "shop.sales.v1", "p", GROUPS)
    accepted = fenced = 0
    with blocking.Redis.from_url(redis_url) as client:
        for k in range(STALE):
            group = chance.choice(groups)
            zombie = await store.claim(group, Position.start(TOPIC)._replace(token=b"%016d" % (2 * k)))
            sent = batch(group, zombie, 1 + chance.randrange(5))
            heir = await store.claim(group, Position.start(TOPIC)._replace(token=b"%016d" % (2 * k + 1)))
            for _ in range(chance.randrange(3)):
                end, writes = batch(group, heir, chance.randrange(1, 7))
                answer = await store.commit(group, heir, end, writes)
                assert answer.status is Status.APPLIED
                heir = end
            before = everything(client)
            answer = await store.commit(group, zombie, *sent)
            # at the end of the same batch the heir has written the same: that is said, and nothing is written
            same = heir.next == sent[0].next
            assert answer == (Status.DUPLICATE if same else Status.FENCED, heir)
            accepted += everything(client) != before
            fenced += answer.status is Status.FENCED
    assert accepted == 0
    assert fenced > STALE / 2
    await store.close()


async def test_every_rewind_of_a_torn_file_or_an_older_backup_is_told_and_mended(tmp_path: Path) -> None:
    chance = random.Random(2)
    folder = tmp_path / "redis"
    with EmbeddedRedis.start(folder) as server:
        files = RedisFiles(server, folder)
        store = RedisStore(server.url)
        groups = await store.groups("shop", "shop.sales.v1", "p", GROUPS)
        initial = Position.start(TOPIC)._replace(token=b"w" * 16)
        stands = {group: await store.claim(group, initial) for group in groups}
        await grow(store, stands, chance, 20)
        files.back_up()
        rewinds = told = kept = 0
        for restart in range(RESTARTS):
            await grow(store, stands, chance, 30)
            tail = files.tail()
            older = restart % 4 == 3
            server.kill()
            if older:
                files.restore()
            else:
                files.tear(min(tail, round(4_000 * chance.random())))
            server.restart()
            if not older:
                files.rewrite()
            await store.close()
            store = RedisStore(server.url)
            for group, believed in stands.items():
                stored = await agrees(store, group)  # a torn file gives a whole prefix of the commits
                answer = await store.commit(group, believed, *batch(group, believed, 3))
                if stored.next < believed.next:
                    rewinds += 1
                    told += answer == (Status.MISMATCH, stored)
                    stands[group] = stored
                else:
                    kept += 1
                    assert answer.status is Status.APPLIED
                    stands[group] = answer.position
                await agrees(store, group)
            if older:
                files.back_up()
        await store.close()
    assert told == rewinds
    assert rewinds > RESTARTS
    assert kept > 0


async def grow(store: RedisStore, stands: dict[Group, Position], chance: random.Random, commits: int) -> None:
    """Commits to groups as they come."""
    for _ in range(commits):
        group = chance.choice(list(stands))
        end, writes = batch(group, stands[group], 1 + chance.randrange(5))
        assert (await store.commit(group, stands[group], end, writes)).status is Status.APPLIED
        stands[group] = end
