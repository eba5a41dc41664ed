"""Producing events: with their key, their time as the record's, and headers that say what and when they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from features.source import Source, Tombstone
from models.topics import SENT
from streams.log import LogReader
from streams.producer import Outgoing, Producer, cloud_event
from streams.security import Kafka

BATCH = 500  # records that are acknowledged together
_SHARE = 0.05  # seconds of a given rate that are sent together


def record(source: Source[Any], value: bytes | Tombstone, sent_ms: int, *, t: int | None = None) -> Outgoing:
    """Returns the record of an event, or a tombstone.

    Args:
        source: whose event it is.
        value: its JSON; or which key is cleared, and when.
        sent_ms: when it is sent, for the freshness that the worker measures.
        t: the event's time, where it is known already.
    """
    sent = (SENT, str(sent_ms).encode())
    if isinstance(value, Tombstone):
        return Outgoing(source.topic, value.key, None, (sent,), value.t)
    event = source.decode(value)
    at = source.time_of(event) if t is None else t
    ident = source.id_of(event)
    headers = cloud_event(
        id=ident or f"{at}", source="/headrace/produce", type=source.topic, time_ms=max(0, at)
    )
    return Outgoing(source.topic, source.key_bytes(event), value, (*headers, sent), at)


async def produce(
    source: Source[Any],
    events: Iterator[bytes | Tombstone],
    bootstrap: Kafka,
    *,
    rate: float | None = None,
    tick: Callable[[int], None] | None = None,
) -> int:
    """Sends events in order and returns how many the broker has acknowledged.

    Args:
        source: whose events they are.
        events: their JSON, or tombstones.
        bootstrap: the brokers.
        rate: events a second; as fast as they are acknowledged without one.
        tick: is told of every acknowledged batch.

    Raises:
        StreamsError: the broker does not take them.
        DataRefused: the file ends with a row that is no event; what stood before it has been sent.
    """
    with LogReader(bootstrap) as reader:  # a producer would wait half a minute for what cannot come
        await asyncio.to_thread(reader.partitions, source.topic)
    sent = 0
    began = time.monotonic()
    size = BATCH if rate is None else max(1, min(BATCH, round(rate * _SHARE)))
    async with Producer(bootstrap, delivery_timeout=30.0) as producer:
        while True:
            values: list[bytes | Tombstone] = []
            try:
                values.extend(islice(events, size))
            finally:
                now = time.time_ns() // 1_000_000
                await producer.send([record(source, value, now) for value in values])
                sent += len(values)
                if tick is not None:
                    tick(len(values))
            if len(values) < size:
                return sent
            if rate is not None:
                await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))
