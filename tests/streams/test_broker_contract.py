"""What Headrace asks of a broker: the embedded one and the real one give it, to both clients that we use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka import TopicPartition as ConfluentTopicPartition

from tests.parts.broker import Broker
from tests.parts.processes import has_ended, start_parent, watch

WAIT = 60.0  # a guard against hanging, not a claim about speed
ANY_PARTITION = -1  # confluent-kafka's word for "as the partitioner says"
SESSION_MS = 2000  # the embedded broker re-forms a group only after this long, less a second


@dataclass(frozen=True)
class Record:
    """What a record must keep on its way, and where it landed."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


Write = Callable[[Broker, str, list[Record]], Awaitable[list[int]]]
Read = Callable[[Broker, str, str, int], Awaitable[list[Record]]]


@pytest.fixture(params=["embedded_kafka", "kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(request.param)
    return found


def confluent_producer(broker: Broker, **settings: object) -> Producer:
    return Producer(
        {"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random", "acks": "all", **settings}
    )


async def confluent_write(broker: Broker, topic: str, records: list[Record], **settings: object) -> list[int]:
    """Write with confluent-kafka; the partitions in which the records landed."""
    producer = confluent_producer(broker, **settings)
    landed: dict[int, int] = {}
    for number, record in enumerate(records):

        def delivered(error: object, message: Message[bytes, bytes], number: int = number) -> None:
            assert error is None, error
            partition = message.partition()
            assert partition is not None
            landed[number] = partition

        producer.produce(
            topic,
            key=record.key,
            value=record.value,
            headers=list(record.headers),
            timestamp=record.timestamp,
            partition=ANY_PARTITION if record.partition is None else record.partition,
            on_delivery=delivered,
        )
    assert producer.flush(WAIT) == 0
    return [landed[number] for number in range(len(records))]


async def aiokafka_write(broker: Broker, topic: str, records: list[Record]) -> list[int]:
    """Write with aiokafka; the partitions in which the records landed."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all") as producer:
        return [
            (
                await producer.send_and_wait(
                    topic,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    timestamp_ms=record.timestamp,
                    partition=record.partition,
                )
            ).partition
            for record in records
        ]


async def confluent_read(broker: Broker, topic: str, group: str, count: int) -> list[Record]:
    """Continue where the group stands, read so many records with confluent-kafka, and commit."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": SESSION_MS,
        }
    )
    consumer.subscribe([topic])
    try:
        messages: list[Message[bytes, bytes]] = []
        while len(messages) < count:
            message = consumer.poll(WAIT)
            assert message is not None, f"only {len(messages)} of {count} records came"
            assert message.error() is None, message.error()
            messages.append(message)
            consumer.commit(message=message, asynchronous=False)
    finally:
        consumer.close()
    return [
        Record(
            key=message.key(),
            value=message.value(),
            timestamp=message.timestamp()[1],
            headers=_as_pairs(message.headers()),
            partition=message.partition(),
        )
        for message in messages
    ]


def _as_pairs(headers: object) -> tuple[tuple[str, bytes], ...]:
    if headers is None:
        return ()
    assert isinstance(headers, list)
    return tuple((str(name), bytes(value)) for name, value in headers)


async def aiokafka_read(broker: Broker, topic: str, group: str, count: int) -> list[Record]:
    """Continue where the group stands, read so many records with aiokafka, and commit."""
    records: list[Any] = []
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=SESSION_MS // 4,
    ) as consumer:
        while len(records) < count:
            batches = await consumer.getmany(timeout_ms=int(WAIT * 1000), max_records=count - len(records))
            assert batches, f"only {len(records)} of {count} records came"
            records += [record for batch in batches.values() for record in batch]
            await consumer.commit()
    return [
        Record(record.key, record.value, record.timestamp, tuple(record.headers), record.partition)
        for record in records
    ]


WRITERS = pytest.mark.parametrize("write", [confluent_write, aiokafka_write])
READERS = pytest.mark.parametrize("read", [confluent_read, aiokafka_read])


@WRITERS
@READERS
async def test_keys_values_timestamps_and_headers_arrive_as_sent(
    broker: Broker, topic_prefix: str, write: Write, read: Read
) -> None:
    topic = f"{topic_prefix}.records.v1"
    broker.create_topic(topic, 1)
    sent = [
        Record(b"card-1", b'{"amount":12.5}', 1_700_000_000_001, (("ce_id", b"1"), ("ce_id", b"2")), 0),
        Record("ключ".encode(), b"\x00\xff", 1_700_000_000_000, (("empty", b""),), 0),
        Record(b"card-1", None, 1_700_000_000_002, (), 0),  # a tombstone
        Record(None, b"no key", 1_700_000_000_003, (), 0),
    ]

    await write(broker, topic, sent)

    assert await read(broker, topic, f"{topic_prefix}.group", len(sent)) == sent


# The hashes are those that Apache Kafka's own tests state for its Java client.
JAVA_HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@WRITERS
async def test_a_key_lands_where_the_java_client_puts_it(
    broker: Broker, topic_prefix: str, write: Write
) -> None:
    topic = f"{topic_prefix}.keys.v1"
    broker.create_topic(topic, 7)
    records = [Record(key, b"", 1_700_000_000_000) for key in JAVA_HASHES]

    landed = await write(broker, topic, records)

    assert landed == [(hashed & 0x7FFFFFFF) % 7 for hashed in JAVA_HASHES.values()]


async def test_both_clients_put_any_key_in_the_same_partition(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.keys.v1"
    broker.create_topic(topic, 12)
    keys = [
        b"",
        b"\x00",
        "käse".encode(),
        b"\xff" * 33,
        *(f"card-{number}".encode() for number in range(200)),
    ]
    records = [Record(key, b"", 1_700_000_000_000) for key in keys]

    ours = await confluent_write(broker, topic, records)
    theirs = await aiokafka_write(broker, topic, records)

    assert dict(zip(keys, ours, strict=True)) == dict(zip(keys, theirs, strict=True))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(confluent_read, aiokafka_read, id="confluent_then_aiokafka"),
        pytest.param(aiokafka_read, confluent_read, id="aiokafka_then_confluent"),
    ],
)
async def test_a_group_resumes_after_what_it_committed(
    broker: Broker, topic_prefix: str, first: Read, second: Read
) -> None:
    topic, group = f"{topic_prefix}.numbers.v1", f"{topic_prefix}.group"
    broker.create_topic(topic, 1)
    sent = [Record(b"k", str(number).encode(), 1_700_000_000_000 + number, (), 0) for number in range(6)]
    await confluent_write(broker, topic, sent)

    assert await first(broker, topic, group, 2) == sent[:2]
    assert await second(broker, topic, group, 4) == sent[2:]


async def test_earliest_and_highwater_frame_the_log(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.offsets.v1"
    broker.create_topic(topic, 2)
    await confluent_write(broker, topic, [Record(b"k", b"v", 1_700_000_000_000, (), 0)] * 3)

    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic_prefix})
    try:
        frames = [
            consumer.get_watermark_offsets(ConfluentTopicPartition(topic, partition), timeout=WAIT)
            for partition in (0, 1)
        ]
    finally:
        consumer.close()
    assert frames == [(0, 3), (0, 0)]

    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as reader:
        reader.assign(partitions)
        assert await reader.beginning_offsets(partitions) == dict(zip(partitions, (0, 0), strict=True))
        assert await reader.end_offsets(partitions) == dict(zip(partitions, (3, 0), strict=True))


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_aiokafka_reads_what_confluent_kafka_compressed(
    broker: Broker, topic_prefix: str, codec: str
) -> None:
    topic = f"{topic_prefix}.compressed.v1"
    broker.create_topic(topic, 1)
    sent = [
        Record(b"k", b'{"amount": 12.5}' * 100, 1_700_000_000_000 + number, (), 0) for number in range(50)
    ]

    # The wait lets the records meet in one batch, which is what gets compressed.
    await confluent_write(broker, topic, sent, **{"compression.type": codec, "linger.ms": 50})

    assert await aiokafka_read(broker, topic, f"{topic_prefix}.group", len(sent)) == sent


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(
            "from streams.embedded import EmbeddedKafka; broker = EmbeddedKafka.start({'a': 1})",
            id="embedded",
        ),
        pytest.param(
            "import sys, tempfile; from pathlib import Path; from tests.parts.kafka import KafkaServer; "
            "broker = KafkaServer.start(Path(FOLDER))",
            id="kafka",
        ),
    ],
)
def test_a_broker_ends_when_its_parent_is_killed(
    start: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("kafka"))
    # The fork outlives the parent and holds all its pipes: their end alone would not tell the broker.
    parent, (pid, fork) = start_parent(
        f"import os; FOLDER = {folder!r}; {start}\n"
        "fork = os.fork()\n"
        "if fork: print(broker.pid, fork, flush=True)\n"
        "input()\n"
    )
    handle, fork_handle = watch(pid), watch(fork)
    try:
        parent.kill()
        assert has_ended(handle)
    finally:
        with parent:
            pass
        assert has_ended(fork_handle)
