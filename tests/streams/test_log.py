"""Reading a log outside the group: any range, gaps and all, or a clear error."""

from __future__ import annotations

import os
import socket
from concurrent.futures import Future

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.errors import BrokerUnreachable, LogAhead, LogTruncated, TopicUnusable
from streams.log import NO_TOPIC_ID, Bounds, LogReader, Partition, Record
from tests.parts.broker import Broker

WAIT = 60.0


@pytest.fixture(params=["embedded_kafka", "kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(request.param)
    return found


def write(broker: Broker, topic: str, first: int, last: int, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for number in range(first, last):
        producer.produce(
            topic, b"%d" % number, b"k", partition, timestamp=10**12 + number, headers=[("h", b"x")]
        )
    assert producer.flush(WAIT) == 0


def read(broker: Broker, topic: str, start: int, end: int) -> list[Record]:
    with LogReader(broker.bootstrap) as reader:
        return [record for batch in reader.read(topic, 0, start, end) for record in batch]


def test_bounds_are_those_of_every_partition(broker: Broker, topic_prefix: str) -> None:
    broker.create_topic(topic_prefix, 3)
    write(broker, topic_prefix, 0, 5, 1)
    with LogReader(broker.bootstrap) as reader:
        found = reader.bounds(topic_prefix)
        assert reader.partitions(topic_prefix) == 3
        assert reader.highwaters([Partition(topic_prefix, 1)]) == {Partition(topic_prefix, 1): 5}
    assert {number: (bounds.earliest, bounds.highwater) for number, bounds in found.items()} == {
        0: (0, 0),
        1: (0, 5),
        2: (0, 0),
    }


def test_the_id_of_a_topic_changes_when_it_is_made_anew(kafka: Broker, topic_prefix: str) -> None:
    if type(kafka).__name__ == "EmbeddedKafka":
        with LogReader(kafka.bootstrap) as reader:
            kafka.create_topic(topic_prefix, 1)
            assert reader.bounds(topic_prefix)[0].topic_id == NO_TOPIC_ID
            return
    ids = []
    with LogReader(kafka.bootstrap) as reader:
        for _ in range(2):
            kafka.create_topic(topic_prefix, 1)
            ids += [reader.bounds(topic_prefix)[0].topic_id for _ in range(2)]
            admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
            admin.delete_topics([topic_prefix], operation_timeout=WAIT)[topic_prefix].result(WAIT)
    assert len(ids[0]) == 16
    assert ids[0] == ids[1] != ids[2] == ids[3]


@pytest.mark.parametrize(
    ("start", "end"), [(0, 25_000), (0, 1), (24_999, 25_000), (7, 12_345), (25_000, 25_000), (9, 9)]
)
def test_any_range_is_read_exactly(broker: Broker, topic_prefix: str, start: int, end: int) -> None:
    broker.create_topic(topic_prefix, 1)
    write(broker, topic_prefix, 0, 25_000)
    records = read(broker, topic_prefix, start, end)
    assert records == [Record(n, 10**12 + n, b"k", b"%d" % n, (("h", b"x"),)) for n in range(start, end)]


def test_gaps_of_transactions_are_passed_over(kafka: Broker, topic_prefix: str) -> None:
    kafka.create_topic(topic_prefix, 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic_prefix})
    producer.init_transactions()
    for first, keep in ((0, True), (10, False), (20, True), (30, False)):
        producer.begin_transaction()
        for number in range(first, first + 10):
            producer.produce(topic_prefix, b"%d" % number)
        producer.flush()
        if keep:
            producer.commit_transaction()
        else:
            producer.abort_transaction()

    def values(start: int, end: int) -> list[int]:
        return [int(record.value or b"") for record in read(kafka, topic_prefix, start, end)]

    # Each transaction is followed by its marker: 44 offsets, of which the second and fourth eleven are empty.
    assert values(0, 44) == [*range(10), *range(20, 30)]
    assert values(5, 23) == [*range(5, 10), 20]
    assert values(10, 22) == []
    assert values(33, 44) == []


def test_an_open_transaction_is_not_read(kafka: Broker, topic_prefix: str) -> None:
    kafka.create_topic(topic_prefix, 1)
    write(kafka, topic_prefix, 0, 3)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic_prefix})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic_prefix, b"open")
    producer.flush()
    with LogReader(kafka.bootstrap) as reader:
        assert reader.bounds(topic_prefix)[0].highwater == 3
    with pytest.raises(LogAhead):
        read(kafka, topic_prefix, 0, 4)
    producer.abort_transaction()


def test_a_start_that_is_gone_is_an_error(broker: Broker, topic_prefix: str) -> None:
    broker.create_topic(topic_prefix, 1)
    write(broker, topic_prefix, 0, 50)
    if type(broker).__name__ == "EmbeddedKafka":  # it keeps 5 MiB
        producer = Producer({"bootstrap.servers": broker.bootstrap})
        for _ in range(60):
            producer.produce(topic_prefix, os.urandom(100_000))
            assert producer.flush(WAIT) == 0
    else:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        (answer,) = admin.delete_records([TopicPartition(topic_prefix, 0, 20)]).values()
        answer.result(WAIT)
    with pytest.raises(LogTruncated, match=rf"{topic_prefix}/0 at offset 0"):
        read(broker, topic_prefix, 0, 50)


def test_an_end_beyond_the_log_is_an_error(broker: Broker, topic_prefix: str) -> None:
    broker.create_topic(topic_prefix, 1)
    write(broker, topic_prefix, 0, 50)
    with pytest.raises(LogAhead, match="the log ends at 50"):
        read(broker, topic_prefix, 0, 51)


def test_a_missing_topic_is_an_error(kafka: Broker, topic_prefix: str) -> None:
    with LogReader(kafka.bootstrap) as reader:
        with pytest.raises(TopicUnusable, match=topic_prefix):
            reader.bounds(topic_prefix)
        with pytest.raises(TopicUnusable, match=topic_prefix):
            reader.bounds_of([Partition(topic_prefix, 0)])


def test_a_broker_that_does_not_answer_is_an_error_that_says_where_and_why() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with LogReader(address, timeout=0.5) as reader, pytest.raises(BrokerUnreachable) as caught:
        reader.bounds("t")
    assert f"Kafka does not answer at {address}" in str(caught.value)


def test_bounds_say_where_reading_can_start() -> None:
    bounds = Bounds(NO_TOPIC_ID, 10, 20)
    for offset in (10, 15, 20):
        bounds.check(Partition("t", 3), offset)
    with pytest.raises(
        LogTruncated, match="Cannot resume t/3 at offset 9: the log now starts at 10, so 1 offsets"
    ):
        bounds.check(Partition("t", 3), 9)
    with pytest.raises(LogAhead, match="Cannot resume t/3 at offset 21: the log ends at 20"):
        bounds.check(Partition("t", 3), 21)


def test_a_question_ends_though_its_answer_never_comes() -> None:
    reader = LogReader("127.0.0.1:9", timeout=0.1)
    # as those of a client that was closed while somebody waited: a worker would never end
    with reader, pytest.raises(BrokerUnreachable, match="read the bounds"):
        reader._waited(Future[None](), "read the bounds")
