"""Looking up predictions that wait in their log alone.

Two readers for each partition: what expires is behind what expired before, so one reader lags behind the log by the
horizon and reads on; what was labelled may be anywhere, so the other one goes from place to place. Offsets near each
other are read in one go: a fetch brings the neighbours anyway.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, OffsetOutOfRangeError

from .errors import BrokerUnreachable, LogUnreadable, PredictionGone
from .log import Partition
from .security import Brokers

NEAR = 500  # records that are read over rather than jumped
_FETCH = 256 << 10  # bytes of one fetch: most of it is the neighbours'
_MANY = 2_000


class LogRecall:
    """Looks up records in the log of one cluster. One call at a time for each partition.

    Args:
        kafka: brokers as `host:port,host:port`, or with what they ask of a client.
        timeout: seconds to wait for an answer before `BrokerUnreachable`.
    """

    def __init__(self, kafka: str | Brokers, timeout: float = 10.0) -> None:
        self._brokers = Brokers.of(kafka)
        self._timeout = timeout
        self._readers: dict[tuple[Partition, bool], _Reader] = {}

    async def values(
        self, partition: Partition, offsets: Sequence[int], in_order: bool
    ) -> Mapping[int, bytes]:
        """Returns the values of records by offset.

        Raises:
            BrokerUnreachable: nobody answered in time.
            LogUnreadable: the broker refuses.
            PredictionGone: the log no longer holds one of them.
        """
        key = (partition, in_order)
        reader = self._readers.get(key)
        if reader is None:
            reader = self._readers[key] = _Reader(self._brokers, partition, self._timeout)
        try:
            return await reader.values(sorted(set(offsets)))
        except BaseException:
            # what was fetched may be half-way, and a client that has lost its broker may never find it again
            await self._readers.pop(key).close()
            raise

    async def forget(self, partition: Partition) -> None:
        """Lets go of the readers of a partition."""
        for key in [key for key in self._readers if key[0] == partition]:
            await self._readers.pop(key).close()

    async def close(self) -> None:
        """Lets go of all readers."""
        for partition in {key[0] for key in self._readers}:
            await self.forget(partition)


class _Reader:
    """One consumer of one partition, outside any group."""

    def __init__(self, brokers: Brokers, partition: Partition, timeout: float) -> None:
        self._brokers, self._bootstrap = brokers, brokers.bootstrap
        self._partition, self._timeout = partition, timeout
        self._place = TopicPartition(*partition)
        self._consumer: Any = None
        self._next = -NEAR  # the offset that it reads next; at first, none is near it

    async def values(self, offsets: Sequence[int]) -> dict[int, bytes]:
        """Returns the values of records by offset; offsets rise."""
        if self._consumer is None:
            self._consumer = await self._open()
        found: dict[int, bytes] = {}
        for run in runs(offsets):
            await self._run(run, found)
        return found

    async def close(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()

    async def _open(self) -> Any:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            **self._brokers.aiokafka(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # the default would go on from another offset and say nothing
            isolation_level="read_committed",
            max_partition_fetch_bytes=_FETCH,
            request_timeout_ms=round(1000 * self._timeout),
        )
        try:
            await consumer.start()
        except KafkaConnectionError as error:
            await consumer.stop()
            raise BrokerUnreachable(self._bootstrap, f"read {self._partition.topic}", str(error)) from None
        consumer.assign([self._place])
        return consumer

    async def _run(self, offsets: Sequence[int], found: dict[int, bytes]) -> None:
        wanted, last = set(offsets), offsets[-1]
        if not 0 <= offsets[0] - self._next < NEAR:
            self._consumer.seek(self._place, offsets[0])
            self._next = offsets[0]
        heard = time.monotonic()
        while wanted:
            records = await self._fetch(min(_MANY, last - self._next + 1), min(wanted))
            if records:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._timeout:
                raise BrokerUnreachable(self._bootstrap, f"read {self._partition.topic}", "no answer")
            for record in records:
                if record.offset in wanted:
                    wanted.discard(record.offset)
                    found[record.offset] = record.value or b""
                self._next = record.offset + 1
            if wanted and min(wanted) < self._next:
                raise PredictionGone(*self._partition, min(wanted), self._next)  # a gap where it stood

    async def _fetch(self, most: int, missing: int) -> Sequence[Any]:
        try:
            fetched = await self._consumer.getmany(self._place, timeout_ms=200, max_records=most)
        except OffsetOutOfRangeError:
            raise PredictionGone(*self._partition, missing, await self._earliest()) from None
        except KafkaError as error:
            if error.retriable:
                return ()
            raise LogUnreadable(*self._partition, missing, str(error)) from error
        records: Sequence[Any] = fetched.get(self._place, ())
        return records

    async def _earliest(self) -> int:
        try:
            return int((await self._consumer.beginning_offsets([self._place]))[self._place])
        except KafkaError as error:
            raise BrokerUnreachable(
                self._bootstrap, f"read the bounds of {self._partition.topic}", str(error)
            ) from None


def runs(offsets: Sequence[int]) -> Iterator[Sequence[int]]:
    """Parts of rising offsets in which each is near the one before."""
    begins = 0
    for k in range(1, len(offsets)):
        if offsets[k] - offsets[k - 1] > NEAR:
            yield offsets[begins:k]
            begins = k
    yield offsets[begins:]
