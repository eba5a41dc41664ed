"""How records are written: all or an error, to the partition that every Kafka client would choose."""
# ruff: noqa: SLF001 - librdkafka's local error codes begin with an underscore

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as KafkaMessage
from confluent_kafka import Producer as KafkaProducer

from .errors import DeliveryFailed, DeliveryRefused, StreamsError
from .log import librdkafka_log
from .security import Brokers, Kafka

Headers = Sequence[tuple[str, bytes]]

_POLL = 0.1
_ROOM = 0.05
# A repeat gets the same answer.
_REFUSED = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)


class Outgoing(NamedTuple):
    """A record to write. `timestamp_ms` is the event's time; without a `partition` the key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    partition: int | None = None


class Producer:
    """Writes records in order, once each, acknowledged by all replicas in sync. For one event loop.

    A thread of its own serves librdkafka's callbacks, so they come whether or not the loop is busy.

    Args:
        kafka: Brokers as `host:port,host:port`, or with how they are reached.
        buffer: The most records that wait at a time.
        delivery_timeout: Seconds after which a record that no broker has acknowledged counts as failed.
        linger: Seconds that a record waits for others to share its batch.
        client: Further settings of librdkafka.
    """

    def __init__(
        self,
        kafka: Kafka,
        *,
        buffer: int = 100_000,
        delivery_timeout: float = 120.0,
        linger: float = 0.002,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        brokers = Brokers.of(kafka)
        self._bootstrap = brokers.bootstrap
        self._why = ""
        self._lost = 0
        self._offered = 0
        self._deliveries: set[_Delivery] = set()
        self._buffer = buffer
        self._linger = linger
        self._held: list[Outgoing] = []  # offered, and not handed over yet
        self._lock = threading.Lock()
        self._room = threading.Event()
        self._closing = threading.Event()
        config = {
            **brokers.librdkafka(),
            "partitioner": "murmur2_random",  # Java's; librdkafka's own default is another
            "enable.idempotence": True,
            "enable.gapless.guarantee": True,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": linger * 1000,
            "queue.buffering.max.messages": buffer,
            "message.timeout.ms": round(delivery_timeout * 1000),
            "error_cb": self._note,
            **(client or {}),
        }
        self._producer = KafkaProducer(config, logger=librdkafka_log)
        self._thread = threading.Thread(target=self._serve, name="producer", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many offered records were not written, for want of room or of a broker."""
        return self._lost

    @property
    def waiting(self) -> int:
        """How many records are not acknowledged yet."""
        # not len() of librdkafka's producer, which counts its own errors and log lines as well
        return self._offered + sum(delivery.left for delivery in self._deliveries)

    async def send(self, batch: Sequence[Outgoing]) -> None:
        """Write a batch and return when all of it is acknowledged.

        Waits for room while the buffer is full. After an error part of the batch may have been written.

        Raises:
            DeliveryFailed: Some were not acknowledged in time; send the batch again.
            DeliveryRefused: Some will never be taken, or this producer cannot go on; make a new one.
        """
        if not batch:
            return
        self._pass_on()  # what was offered before stays before
        delivery = _Delivery(len(batch), asyncio.get_running_loop())
        self._deliveries.add(delivery)
        try:
            await self._queue(batch, delivery)
            error = await delivery.done
        finally:
            self._deliveries.discard(delivery)
        if error is not None:
            raise self._failure(error, batch[0].topic)

    async def _queue(self, batch: Sequence[Outgoing], delivery: _Delivery) -> None:
        queued = 0
        try:
            for outgoing in batch:
                while not self._produce(outgoing, delivery.settle):
                    self._room.clear()
                    await asyncio.to_thread(self._room.wait, _ROOM)
                queued += 1
        except KafkaException as exception:
            delivery.give_up(exception.args[0], len(batch) - queued)

    def offer(self, outgoing: Outgoing) -> bool:
        """Write a record some time, without waiting; return whether there was room for it.

        One that fails later is counted in `lost`.
        """
        if self._offered >= self._buffer:
            self._lose()
            return False
        with self._lock:
            self._offered += 1
        self._held.append(outgoing)
        if len(self._held) == 1:
            # one record at a time would wake librdkafka's thread for each, at four times the cost
            asyncio.get_running_loop().call_later(self._linger, self._pass_on)
        return True

    def _pass_on(self) -> None:
        """Hands over what was offered lately."""
        held, self._held = self._held, []
        for outgoing in held:
            try:
                if self._produce(outgoing, self._settle):
                    continue
            except KafkaException as error:
                self._note(error.args[0])
            with self._lock:
                self._offered -= 1
            self._lose()

    async def close(self, seconds: float = 10.0) -> int:
        """Wait for what is on its way, then let go; return how many records were left unwritten."""
        self._pass_on()
        left = await asyncio.to_thread(self._producer.flush, seconds)
        self._closing.set()
        await asyncio.to_thread(self._thread.join)
        with self._lock:
            self._lost += self._offered
            self._offered = 0
        return left

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _produce(
        self, outgoing: Outgoing, delivered: Callable[[KafkaError | None, KafkaMessage], None]
    ) -> bool:
        topic, key, value, headers, timestamp, partition = outgoing
        try:
            self._producer.produce(
                topic,
                value,
                key,
                -1 if partition is None else partition,
                on_delivery=delivered,
                timestamp=timestamp,
                headers=list(headers),
            )
        except BufferError:
            return False
        return True

    def _serve(self) -> None:
        while not self._closing.is_set():
            if self._producer.poll(_POLL):
                self._room.set()

    def _settle(self, error: KafkaError | None, _: KafkaMessage) -> None:
        with self._lock:
            self._offered -= 1
        if error is not None:
            self._note(error)
            self._lose()

    def _lose(self) -> None:
        with self._lock:
            self._lost += 1

    def _note(self, error: KafkaError) -> None:
        self._why = error.str()

    def _failure(self, error: KafkaError, topic: str) -> StreamsError:
        what = f"Records for {topic} were not written at {self._bootstrap} ({error.str()}"
        if error.fatal() or error.code() in (KafkaError._FATAL, KafkaError._GAPLESS_GUARANTEE):
            return DeliveryRefused(
                f"{what}): this producer cannot go on. Restart; what was not written follows."
            )
        if error.code() in _REFUSED:
            return DeliveryRefused(
                f"{what}): a repeat would fail too. Create the topic, or raise its limits."
            )
        return DeliveryFailed(f"{what}; {self._why}). They will be sent again when Kafka answers.")


class _Delivery:
    """Counts down the acknowledgements of one batch, in the producer's thread."""

    __slots__ = ("_error", "_left", "_lock", "_loop", "done")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[KafkaError | None] = loop.create_future()
        self._error: KafkaError | None = None
        self._left = count
        self._lock = threading.Lock()
        self._loop = loop

    @property
    def left(self) -> int:
        """How many records have no answer yet."""
        return self._left

    def settle(self, error: KafkaError | None, _: KafkaMessage) -> None:
        """Take the answer for one record."""
        self._count(error, 1)

    def give_up(self, error: KafkaError, unsent: int) -> None:
        """Take the error that kept the last `unsent` records out of the queue."""
        self._count(error, unsent)

    def _count(self, error: KafkaError | None, settled: int) -> None:
        with self._lock:
            self._error = error or self._error
            self._left -= settled
            left = self._left
        if left == 0:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(self._error)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def cloud_event(*, id: str, source: str, type: str, time_ms: int) -> Headers:
    """Return the headers of a JSON event in the binary mode of CloudEvents 1.0 for Kafka.

    Example:
        >>> dict(cloud_event(id="7", source="/till", type="sale", time_ms=1500))["ce_time"]
        b'1970-01-01T00:00:01.500Z'
    """
    moment = (_EPOCH + timedelta(milliseconds=time_ms)).replace(tzinfo=None)
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type.encode()),
        ("ce_time", f"{moment.isoformat(timespec='milliseconds')}Z".encode()),
        ("content-type", b"application/json"),
    )
