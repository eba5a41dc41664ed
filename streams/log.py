"""How a log is read outside a consumer group: its bounds, and any range of its offsets."""
# ruff: noqa: SLF001 - librdkafka's local error codes begin with an underscore

from __future__ import annotations

import base64
import contextlib
import logging
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from typing import NamedTuple, Self, TypeVar

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import ListOffsetsResultInfo, OffsetSpec
from confluent_kafka.admin._topic import TopicDescription

from .errors import (
    BrokerUnreachable,
    ClientRefused,
    LogAhead,
    LogTruncated,
    LogUnreadable,
    StreamsError,
    TopicUnusable,
)
from .security import Brokers, Kafka

NO_TOPIC_ID = bytes(16)
"""The id of a topic whose broker gives none."""
READER_GROUP = "headrace-log-reader"
"""The group that readers of the log name, as they have to, and never join."""

_BATCH = 10_000
_MOCK = "mockCluster"  # how the cluster ids of librdkafka's mock begin; it has no DescribeTopicPartitions
_AGAIN = 0.1
_FIRST = 1.0  # seconds of the first attempts
_GRACE = 1.0
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # upstream forgot the annotation
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # likewise

_DISTRUST = (KafkaError._AUTHENTICATION, KafkaError._SSL)
_LED_ELSEWHERE = (  # or by nobody for the moment; the client calls few of them retriable
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError._NOENT,
)
# The client waits for the leader or controller that it knows until the time of the request is over, also if it is dead.
_UNANSWERED = (KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._TRANSPORT)
_UNKNOWN = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)

_Answer = TypeVar("_Answer")

librdkafka_log = logging.getLogger("headrace.librdkafka")


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


class Bounds(NamedTuple):
    """What a partition holds: the offsets from `earliest` up to, not including, `highwater`.

    `highwater` is the end of what can be read: it stands before the first record of an open transaction.
    `topic_id` changes when a topic is deleted and made anew; `NO_TOPIC_ID` where the broker has none.
    """

    topic_id: bytes
    earliest: int
    highwater: int

    def check(self, partition: Partition, offset: int) -> None:
        """Return if reading can start at `offset`.

        Raises:
            LogTruncated: The log starts later.
            LogAhead: The log ends before.
        """
        if offset < self.earliest:
            raise LogTruncated(*partition, offset, self.earliest)
        if offset > self.highwater:
            raise LogAhead(*partition, offset, self.highwater)


class Record(NamedTuple):
    """One record; its fields are named as those of the records that a worker polls. `timestamp` is in ms."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Noted:
    """What a client of librdkafka last said of its connections: its calls only tell that they timed out."""

    def __init__(self) -> None:
        self.why = ""
        self._distrust = ""

    @property
    def distrusted(self) -> bool:
        """Whether it spoke of a broker that does not trust us, or that we do not trust."""
        return bool(self._distrust)

    def __call__(self, error: KafkaError) -> None:
        """Take what the client says."""
        self.why = error.str()
        # that a broker ends the handshake is to librdkafka a connection that broke; only the text tells
        if error.code() in _DISTRUST or "SSL alert" in self.why:
            self._distrust = self.why

    def failure(self, bootstrap: str, what: str, otherwise: str) -> StreamsError:
        """Return the error of a call that had no answer."""
        if self._distrust:
            return ClientRefused(bootstrap, what, self._distrust)
        return BrokerUnreachable(bootstrap, what, self.why or otherwise)


class _Patience:
    """How long a request may take, in attempts: short ones at first, for who was asked may have died just now."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether there is no time left for another attempt."""
        return time.monotonic() - self._began >= self._seconds

    @property
    def attempt(self) -> float:
        """How many seconds the next attempt may take: more and more, and at last all the rest, for a slow broker."""
        gone = time.monotonic() - self._began
        left = self._seconds - gone
        return max(_AGAIN, left if gone >= left else min(max(_FIRST, gone / 2), left))


class LogReader:
    """Reads topics of one cluster. Blocking; not to be shared between threads.

    Args:
        kafka: Brokers as `host:port,host:port`, or with how they are reached.
        timeout: Seconds to wait for an answer before `BrokerUnreachable`.
    """

    def __init__(self, kafka: Kafka, timeout: float = 10.0) -> None:
        self._brokers = Brokers.of(kafka)
        self._bootstrap = self._brokers.bootstrap
        self._timeout = timeout
        self._noted = Noted()
        self._mock: bool | None = None  # whether the broker is an embedded one, once that is known
        self._admin = AdminClient(self._config(), logger=librdkafka_log)  # type: ignore[arg-type]  # callbacks too

    def partitions(self, topic: str) -> int:
        """Return the number of partitions of a topic.

        Raises:
            TopicUnusable: There is no such topic.
            BrokerUnreachable: Nobody answered in time.
        """
        try:
            # All topics: a broker may create the one that it is asked about.
            found = self._admin.list_topics(timeout=self._timeout).topics.get(topic)
        except KafkaException as error:
            raise self._unreachable(f"look up topic {topic}", error) from None
        if found is None or found.error is not None or not found.partitions:
            raise TopicUnusable(
                f"Topic {topic} cannot be read at {self._bootstrap}: there is none that we may see. "
                "Create it with the partitions that the project asks for."
            )
        return len(found.partitions)

    def topics(self) -> frozenset[str]:
        """Return the names of the topics that this client may see.

        Raises:
            BrokerUnreachable: Nobody answered in time.
        """
        try:
            found = self._admin.list_topics(timeout=self._timeout).topics
        except KafkaException as error:
            raise self._unreachable("list the topics", error) from None
        return frozenset(name for name, topic in found.items() if topic.error is None and topic.partitions)

    def bounds(self, topic: str) -> dict[int, Bounds]:
        """Return the bounds of every partition of a topic.

        Raises:
            TopicUnusable: There is no such topic.
            BrokerUnreachable: Nobody answered in time.
        """
        wanted = [Partition(topic, number) for number in range(self.partitions(topic))]
        return {partition.number: bounds for partition, bounds in self.bounds_of(wanted).items()}

    def bounds_of(self, partitions: Collection[Partition]) -> dict[Partition, Bounds]:
        """Return the bounds of these partitions.

        Raises:
            TopicUnusable: A topic or partition does not exist.
            BrokerUnreachable: Nobody answered in time.
        """
        ids = self.topic_ids({partition.topic for partition in partitions})
        earliest = self._offsets(partitions, _EARLIEST)
        highwater = self._offsets(partitions, _LATEST)
        return {p: Bounds(ids[p.topic], earliest[p], highwater[p]) for p in partitions}

    def highwaters(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return where these partitions end now.

        Raises:
            TopicUnusable: A topic or partition does not exist.
            BrokerUnreachable: Nobody answered in time.
        """
        return self._offsets(partitions, _LATEST)

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Record]]:
        """Yield the committed records with `start <= offset < end`, in order, in batches.

        Offsets that transactions and compaction left empty are passed over. An `end` beyond the log is an
        error: it would mean to wait.

        Raises:
            LogTruncated: The log does not hold `start`, or lost it while it was read.
            LogAhead: The log does not reach to `end`.
            BrokerUnreachable: Nobody answered in time.
        """
        bounds = self.bounds_of([Partition(topic, partition)])[Partition(topic, partition)]
        bounds.check(Partition(topic, partition), start)
        bounds.check(Partition(topic, partition), max(start, end))
        if start >= end:
            return
        # auto.offset.reset=error: the default would go on from another offset and say nothing.
        config = self._config() | {
            "group.id": READER_GROUP,  # required, never joined: `assign` needs no group
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
        consumer = Consumer(config, logger=librdkafka_log)
        try:
            consumer.assign([TopicPartition(topic, partition, start)])
            yield from self._batches(consumer, Partition(topic, partition), start, end)
        finally:
            consumer.close()

    def close(self) -> None:
        """Let go of the connections."""
        del self._admin  # the client has no other way to be closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(
        self, consumer: Consumer, partition: Partition, start: int, end: int
    ) -> Iterator[list[Record]]:
        heard = time.monotonic()
        while start < end:
            # No more than is left: `consume` waits for all that it was asked for.
            messages = consumer.consume(min(_BATCH, end - start), 0.2)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._timeout:
                raise self._noted.failure(self._bootstrap, f"read {partition.topic}", "no answer")
            batch = [record for record in map(_record, messages) if record is not None]
            ended = any(self._ends(partition, start, message) for message in messages)
            start = end if ended else batch[-1].offset + 1 if batch else start
            if batch := [record for record in batch if record.offset < end]:
                yield batch

    def _ends(self, partition: Partition, start: int, message: KafkaMessage) -> bool:
        error = message.error()
        if error is None or error.retriable():
            return False
        if error.code() == KafkaError._PARTITION_EOF:
            return True  # what is missing before the end was a marker of a transaction, or compacted away
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            self.bounds_of([partition])[partition].check(partition, start)
        raise LogUnreadable(*partition, start, error.str())

    def topic_ids(self, topics: Collection[str]) -> dict[str, bytes]:
        """Return the ids of topics; `NO_TOPIC_ID` where the broker gives none.

        Raises:
            TopicUnusable: There is no such topic.
            BrokerUnreachable: Nobody answered in time.
        """
        if self._mock is None:
            self._mock = self._cluster_id().startswith(_MOCK)
        if self._mock:
            return dict.fromkeys(topics, NO_TOPIC_ID)
        ids: dict[str, bytes] = {}
        patience = _Patience(self._timeout)
        while len(ids) < len(set(topics)):
            asked: dict[str, Future[TopicDescription]] = self._admin.describe_topics(
                TopicCollection(sorted(set(topics) - ids.keys())), request_timeout=patience.attempt
            )
            for topic, answer in asked.items():
                try:
                    uuid = self._waited(answer, f"describe topic {topic}").topic_id
                    # 22 characters, as Kafka's own tools show it
                    ids[topic] = base64.urlsafe_b64decode(f"{uuid}==")
                except KafkaException as error:
                    if error.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
                        ids[topic] = NO_TOPIC_ID
                    elif patience.over or not self._may_answer(error):
                        raise self._failure(f"describe topic {topic}", topic, error) from None
            if len(ids) < len(set(topics)):
                self._learn_leaders(patience)
        return ids

    def _cluster_id(self) -> str:
        try:
            return str(self._admin.list_topics(timeout=self._timeout).cluster_id)
        except KafkaException as error:
            raise self._unreachable("look up the cluster", error) from None

    def _offsets(self, partitions: Collection[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        patience = _Patience(self._timeout)
        found: dict[Partition, int] = {}
        while len(found) < len(set(partitions)):
            asked: dict[TopicPartition, Future[ListOffsetsResultInfo]] = self._admin.list_offsets(
                {TopicPartition(*partition): spec for partition in partitions if partition not in found},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=patience.attempt,
            )
            for topic_partition, answer in asked.items():
                partition = Partition(topic_partition.topic, topic_partition.partition)
                try:
                    offset = self._waited(answer, f"read the bounds of {partition.topic}").offset
                    if offset >= 0:
                        found[partition] = offset
                    elif patience.over:  # what a broker left unanswered comes like this
                        what = f"read the bounds of {partition.topic}"
                        raise self._noted.failure(self._bootstrap, what, "no offset")
                except KafkaException as error:
                    if patience.over or not self._may_answer(error):
                        what = f"read the bounds of {partition.topic}"
                        raise self._failure(what, partition.topic, error) from None
            if len(found) < len(set(partitions)):
                self._learn_leaders(patience)
        return found

    def _may_answer(self, error: KafkaException) -> bool:
        """Whether another attempt may have an answer: who was asked does not lead any more, or yet, or is gone."""
        code = error.args[0].code()
        gone = code in _UNANSWERED and not self._noted.distrusted
        return bool(error.args[0].retriable()) or code in _LED_ELSEWHERE or gone

    def _learn_leaders(self, patience: _Patience) -> None:
        # The client goes on asking by the leaders and epochs that it remembers: it refreshes them for consumers only.
        time.sleep(_AGAIN)
        with contextlib.suppress(KafkaException):  # the next attempt tells why
            self._admin.list_topics(timeout=patience.attempt)

    def _waited(self, answer: Future[_Answer], what: str) -> _Answer:
        try:
            # The client answers in time, unless it is closed meanwhile: then nobody would ever.
            return answer.result(self._timeout + _GRACE)
        except TimeoutError:
            raise self._noted.failure(self._bootstrap, what, "no answer") from None

    def _config(self) -> dict[str, object]:
        return self._brokers.librdkafka() | {"error_cb": self._noted, "log_level": 4}

    def _failure(self, what: str, topic: str, error: KafkaException) -> StreamsError:
        if error.args[0].code() in _UNKNOWN:
            return TopicUnusable(
                f"Cannot {what} at {self._bootstrap}: {error.args[0].str()}. "
                f"Create {topic} with the partitions that the project asks for."
            )
        return self._unreachable(what, error)

    def _unreachable(self, what: str, error: KafkaException) -> StreamsError:
        self._admin.poll(0)  # what the connections said comes by callback
        return self._noted.failure(self._bootstrap, what, error.args[0].str())


def _record(message: KafkaMessage) -> Record | None:
    offset = message.offset()
    if message.error() is not None or offset is None:
        return None
    headers = message.headers() or []
    assert isinstance(headers, list)  # what is read has the order of the wire, so never a mapping
    return Record(
        offset,
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple((name, value.encode() if isinstance(value, str) else value) for name, value in headers),
    )
