"""Following a log to disk while it grows, for brokers that forget."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from .errors import LogUnreadable, StreamsError
from .log import Partition, Record, librdkafka_log
from .security import Brokers, Kafka
from .spool import Spool

_BATCH = 2_000
_WAIT = 0.1


class Follower:
    """Copies every record of some topics, from their start, to a spool; in a thread of its own.

    Args:
        kafka: Brokers as `host:port,host:port`, or with how they are reached.
        topics: Which topics, with their partitions.
        spool: Where records go; nobody else may write to it.
        most: Bytes of values after which no more is kept: the rest of the log is then not on disk.
    """

    def __init__(self, kafka: Kafka, topics: Mapping[str, int], spool: Spool, most: int = 1 << 62) -> None:
        self._spool = spool
        self._left = most
        self._positions = {Partition(topic, n): 0 for topic, count in topics.items() for n in range(count)}
        self._stop = threading.Event()
        self.error: StreamsError | None = None
        """What ended it before its time."""
        for topic, count in topics.items():
            spool.declare(topic, count)
        config: dict[str, Any] = {
            **Brokers.of(kafka).librdkafka(),
            "group.id": "headrace-follower",  # required, never joined: `assign` needs no group
            "enable.auto.commit": False,
            "auto.offset.reset": "error",  # a gap must not go unseen
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 100,
            "log_level": 4,
        }
        self._consumer = Consumer(config, logger=librdkafka_log)
        self._consumer.assign([TopicPartition(*partition, 0) for partition in self._positions])
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether it keeps no more."""
        return self._left <= 0

    def reached(self, ends: Mapping[Partition, int]) -> bool:
        """Whether everything before these ends has been read."""
        return all(self._positions[partition] >= end for partition, end in ends.items())

    def stop(self) -> None:
        """End the thread and close the files; harmless when repeated."""
        self._stop.set()
        self._thread.join()
        self._spool.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._take(self._consumer.consume(_BATCH, _WAIT))
        except StreamsError as error:
            self.error = error
        finally:
            self._consumer.close()

    def _take(self, messages: list[KafkaMessage]) -> None:
        batches: dict[Partition, list[Record]] = {}
        for message in messages:
            topic, number, offset = message.topic(), message.partition(), message.offset()
            if topic is None or number is None:
                continue
            partition = Partition(topic, number)
            if (error := message.error()) is not None:
                if error.retriable():
                    continue
                raise LogUnreadable(*partition, self._positions[partition], error.str()) from KafkaException(
                    error
                )
            assert offset is not None
            value = message.value()
            record = Record(offset, message.timestamp()[1], message.key(), value, ())
            batches.setdefault(partition, []).append(record)
            self._left -= len(value or b"")
        for partition, records in batches.items():
            if not self.full:
                self._spool.append(*partition, records)
            self._positions[partition] = records[-1].offset + 1
