"""Looking records up by their offsets, on a real broker."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from streams.errors import BrokerUnreachable, PredictionGone
from streams.log import Partition
from streams.producer import Outgoing, Producer
from streams.recall import NEAR, LogRecall, runs
from tests.parts.broker import Broker
from tests.parts.kafka import KafkaServer

COUNT = 6_000


def value(offset: int) -> bytes:
    return b"%d," % offset * (1 + offset % 40)


@pytest.fixture
async def filled(kafka: Broker, topic_prefix: str) -> AsyncIterator[tuple[LogRecall, Partition]]:
    """A partition of records whose values tell their offsets, and what looks them up."""
    kafka.create_topic(topic_prefix, 1)
    async with Producer(kafka.bootstrap) as producer:
        for start in range(0, COUNT, 500):
            batch = [Outgoing(topic_prefix, None, value(k), (), k, 0) for k in range(start, start + 500)]
            await producer.send(batch)
    recall = LogRecall(kafka.bootstrap)
    yield recall, Partition(topic_prefix, 0)
    await recall.close()


async def test_any_offsets_are_looked_up_however_they_are_asked_for(
    filled: tuple[LogRecall, Partition],
) -> None:
    recall, partition = filled
    r, behind = random.Random(1), 0
    for _ in range(30):
        anywhere = r.choices(range(COUNT), k=r.choice([1, 3, 40]))
        assert await recall.values(partition, anywhere, False) == {k: value(k) for k in anywhere}
        expired = [k for k in range(behind, behind + 150) if r.random() < 0.6]
        r.shuffle(expired)
        assert await recall.values(partition, expired, True) == {k: value(k) for k in expired}
        behind += r.choice([10, 150, 150])


async def test_a_record_that_retention_took_is_named(
    filled: tuple[LogRecall, Partition], kafka: Broker
) -> None:
    if not isinstance(kafka, KafkaServer):
        pytest.skip("the embedded broker cannot delete records")
    recall, partition = filled
    assert await recall.values(partition, [100, 5_000], False) != {}
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    (answer,) = admin.delete_records([TopicPartition(*partition, 1_000)]).values()
    answer.result()

    with pytest.raises(PredictionGone, match=r"offset 400 of .*/0: the log now starts at 1000"):
        await recall.values(partition, [400, 2_000], False)
    assert await recall.values(partition, [1_000, 2_000], False) == {k: value(k) for k in (1_000, 2_000)}


async def test_a_broker_that_is_away_can_be_asked_again() -> None:
    recall = LogRecall("127.0.0.1:1", timeout=0.5)
    for _ in range(2):
        with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1"):
            await recall.values(Partition("t", 0), [1], False)
    await recall.close()


def test_offsets_near_each_other_are_one_run() -> None:
    assert list(runs([1, 2, 2 + NEAR, 3 + 2 * NEAR])) == [[1, 2, 2 + NEAR], [3 + 2 * NEAR]]
