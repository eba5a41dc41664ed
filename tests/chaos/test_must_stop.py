"""A log that is another one, or no longer reaches back: a worker ends, says so, and writes nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis as blocking
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from features import keys
from streams.transport import _GENUINE
from tests.chaos.test_counted import everything
from tests.parts.broker import Broker
from tests.parts.kafka import KafkaServer
from tests.streams.rig import Process, Rig, rig
from tests.streams.shop import Payment, build, business, sent
from tests.streams.test_end_to_end import builder

OWNER = slice(48, 64)  # the token in a position: a claim changes it, and nothing else
BEFORE, AFTER = 200, 400  # payments


@pytest.fixture
def server(kafka: Broker) -> KafkaServer:
    if not isinstance(kafka, KafkaServer):
        pytest.skip("the embedded broker can neither delete topics nor records")
    return kafka


def stored(shop: Rig) -> dict[bytes, bytes]:
    """All that is stored, but for who owns it and what processes say of themselves."""
    with blocking.Redis.from_url(shop.redis) as client:
        found = everything(client)
        for name in list(found):
            if b"}@" in name:
                value = bytearray(client.get(name) or b"")
                value[OWNER] = bytes(16)
                found[name] = bytes(value)
            elif name.endswith(b"}mark"):
                del found[name]
    found.pop(keys.STATUS.encode(), None)
    return found


async def ended(worker: Process, shop: Rig) -> str:
    """What a worker said that ended by itself, in error."""

    async def gone() -> bool:
        return worker.code is not None

    await shop.until(gone)
    assert worker.code, worker.said()
    return worker.said()


def payments(shop: Rig) -> str:
    return shop.project.sources[0].topic


def again(shop: Rig, server: KafkaServer) -> None:
    """Makes the topic of payments anew."""
    topic = payments(shop)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    count = shop.log.partitions(topic)
    admin.delete_topics([topic], operation_timeout=30)[topic].result(30)
    while topic in admin.list_topics(timeout=10).topics:
        pass
    server.create_topic(topic, count, {"retention.ms": "-1"})


def forget(shop: Rig, server: KafkaServer) -> None:
    """Deletes all records of payments, as retention does."""
    topic = payments(shop)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    ends = shop.log.bounds(topic)
    asked = admin.delete_records([TopicPartition(topic, n, b.highwater) for n, b in ends.items()])
    for answer in asked.values():
        answer.result(30)


Meanwhile = Callable[[Rig, KafkaServer, list[Payment]], Awaitable[None]]


async def recreated_and_empty(shop: Rig, server: KafkaServer, more: list[Payment]) -> None:
    again(shop, server)


async def recreated_and_longer(shop: Rig, server: KafkaServer, more: list[Payment]) -> None:
    again(shop, server)
    await shop.produce(sent(shop.project, *more))


async def forgotten(shop: Rig, server: KafkaServer, more: list[Payment]) -> None:
    await shop.produce(sent(shop.project, *more))
    forget(shop, server)


ANEW = "is not the one that the features", "it was deleted and created again"
CASES = [
    (recreated_and_empty, (*ANEW, "It was cut or made anew")),
    (recreated_and_longer, ANEW),
    (forgotten, ("offsets are gone",)),
]


@pytest.mark.parametrize(("meanwhile", "why"), CASES, ids=[case[0].__name__ for case in CASES])
@pytest.mark.parametrize("running", ["stopped", "asleep"])
async def test_a_worker_ends_and_writes_nothing(
    server: KafkaServer,
    redis_url: str,
    tmp_path: Path,
    topic_prefix: str,
    meanwhile: Meanwhile,
    why: tuple[str, ...],
    running: str,
) -> None:
    events = business(AFTER + BEFORE, seed=9)
    project = build(topic_prefix)
    async with rig(project, builder(topic_prefix), tmp_path, server, redis_url) as shop:
        await shop.produce(sent(project, *events.payments[:BEFORE], *events.verdicts[:BEFORE]))
        # one that is stopped leaves its group; one that sleeps stays in it, and hears of nothing
        session = 3.0 if running == "stopped" else 30.0
        worker = shop.start(session_timeout=session)
        await shop.until(shop.done, worker)
        if running == "stopped":
            assert worker.stop() == 0
        else:
            worker.send(signal.SIGSTOP)
        before = stored(shop)

        await meanwhile(shop, server, events.payments[BEFORE:])
        if running == "stopped":
            worker = shop.start(session_timeout=session)
        else:
            await asyncio.sleep(_GENUINE)  # one that sleeps for less does not look: see the limits
            worker.send(signal.SIGCONT)
        said = await ended(worker, shop)

        assert stored(shop) == before
        assert any(words in said for words in why), said[-1500:]
