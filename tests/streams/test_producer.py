"""Writing: all is acknowledged or the caller hears of it; keys land where every Kafka client puts them."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from features.partition import murmur2, partition_of
from streams.errors import DeliveryFailed, DeliveryRefused
from streams.log import LogReader, Record
from streams.producer import Outgoing, Producer, cloud_event
from tests.parts.broker import Broker

T = 1_750_000_000_000


@pytest.fixture(params=["embedded_kafka", "kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def nobody() -> str:
    """An address at which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def read(broker: Broker, topic: str) -> dict[int, list[Record]]:
    with LogReader(broker.bootstrap) as reader:
        return {
            number: [
                record
                for batch in reader.read(topic, number, bounds.earliest, bounds.highwater)
                for record in batch
            ]
            for number, bounds in reader.bounds(topic).items()
        }


def outgoing(topic: str, number: int, partition: int | None = None) -> Outgoing:
    return Outgoing(
        topic, b"key-%d" % (number % 50), b"%d" % number, [("n", b"%d" % number)], T + number, partition
    )


# From the tests of Kafka's Java client, as signed integers.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", list(JAVA))
def test_murmur2_equals_java(key: bytes) -> None:
    assert murmur2(key) == JAVA[key] & 0xFFFFFFFF


@given(st.binary(max_size=300))
def test_murmur2_equals_aiokafka(key: bytes) -> None:
    assert murmur2(key) == aiokafka_murmur2(key) & 0xFFFFFFFF


@given(st.binary(max_size=40), st.integers(1, 1000))
def test_the_partition_of_a_key_is_that_of_aiokafka(key: bytes, n: int) -> None:
    everything = list(range(n))
    assert partition_of(key, n) == DefaultPartitioner()(key, everything, everything)


async def test_keys_land_on_the_partition_that_is_computed(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 7)
    async with Producer(broker.bootstrap) as producer:
        await producer.send([outgoing(topic, number) for number in range(500)])
    for number, records in read(broker, topic).items():
        assert {partition_of(record.key or b"", 7) for record in records} <= {number}


async def test_a_sent_batch_is_in_the_log_whole_and_in_order(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 2)
    async with Producer(broker.bootstrap) as producer:
        await producer.send([])
        await producer.send([outgoing(topic, number, 1) for number in range(3000)])
        found = read(broker, topic)
    assert found[0] == []
    assert found[1] == [
        Record(n, T + n, b"key-%d" % (n % 50), b"%d" % n, (("n", b"%d" % n),)) for n in range(3000)
    ]


async def test_a_batch_larger_than_the_buffer_waits_for_room(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    async with Producer(broker.bootstrap, buffer=100) as producer:
        await producer.send([outgoing(topic, number) for number in range(2500)])
    assert [record.value for record in read(broker, topic)[0]] == [b"%d" % number for number in range(2500)]


async def test_batches_may_be_sent_at_the_same_time(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    async with Producer(broker.bootstrap) as producer:
        async with asyncio.TaskGroup() as tasks:
            for start in range(0, 1000, 100):
                tasks.create_task(producer.send([outgoing(topic, n) for n in range(start, start + 100)]))
        assert sorted(int(record.value or b"") for record in read(broker, topic)[0]) == list(range(1000))


async def test_a_tombstone_and_a_record_without_key_are_kept_as_they_are(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    async with Producer(broker.bootstrap) as producer:
        await producer.send([Outgoing(topic, b"", None, (), T), Outgoing(topic, None, b"", (), T)])
    assert [(record.key, record.value) for record in read(broker, topic)[0]] == [(b"", None), (None, b"")]


async def test_a_broker_that_does_not_answer_is_a_failure_to_be_tried_again(
    nobody: str, topic_prefix: str
) -> None:
    async with Producer(nobody, delivery_timeout=0.3) as producer:
        with pytest.raises(DeliveryFailed, match="will be sent again when Kafka answers"):
            await producer.send([outgoing(topic_prefix, number) for number in range(10)])


async def test_a_record_that_is_too_large_is_refused_and_the_producer_goes_on(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    large = Outgoing(topic, b"k", bytes(3_000_000), (), T)
    async with Producer(broker.bootstrap) as producer:
        with pytest.raises(DeliveryRefused, match="a repeat would fail too"):
            await producer.send([outgoing(topic, 0), large, outgoing(topic, 2)])
        await producer.send([outgoing(topic, 3)])
        assert [record.value for record in read(broker, topic)[0]] == [b"0", b"3"]


async def test_a_missing_partition_is_refused(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    async with Producer(broker.bootstrap) as producer:
        with pytest.raises(DeliveryRefused):
            await producer.send([outgoing(topic, 0, 9)])


async def test_what_is_offered_arrives_and_nothing_is_lost(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    async with Producer(broker.bootstrap) as producer:
        assert all(producer.offer(outgoing(topic, number)) for number in range(1000))
        await producer.send([outgoing(topic, 1000)])
        assert len(read(broker, topic)[0]) == 1001
        assert producer.lost == 0


async def test_what_finds_no_room_is_counted_as_lost_at_once(nobody: str, topic_prefix: str) -> None:
    producer = Producer(nobody, buffer=50)
    answers = [producer.offer(outgoing(topic_prefix, number)) for number in range(60)]
    assert answers == [True] * 50 + [False] * 10
    assert (producer.lost, producer.waiting) == (10, 50)
    assert await producer.close(0.1) == 50
    assert producer.lost == 60


async def test_what_is_offered_and_times_out_is_counted_as_lost(nobody: str, topic_prefix: str) -> None:
    async with Producer(nobody, delivery_timeout=0.2) as producer:
        assert producer.offer(outgoing(topic_prefix, 1))
    assert producer.lost == 1


def test_cloud_event_headers_are_those_of_the_binary_mode() -> None:
    assert cloud_event(id="A-7", source="/tills/3", type="payments.sale.v1", time_ms=1_700_000_000_007) == (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"A-7"),
        ("ce_source", b"/tills/3"),
        ("ce_type", b"payments.sale.v1"),
        ("ce_time", b"2023-11-14T22:13:20.007Z"),
        ("content-type", b"application/json"),
    )


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_every_millisecond_has_its_own_cloud_event_time(time_ms: int) -> None:
    def text(moment: int) -> bytes:
        return dict(cloud_event(id="", source="", type="", time_ms=moment))["ce_time"]

    assert len(text(time_ms)) == len(b"2023-11-14T22:13:20.007Z")
    assert time_ms == 253_402_300_799_999 or text(time_ms) < text(time_ms + 1)
