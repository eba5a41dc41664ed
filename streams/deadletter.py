"""Dead letters: bad records, byte for byte, with Kafka Connect's headers saying where and why.

A record that would not fit again, with these headers, is cut: its place says where the whole one is.
"""

from __future__ import annotations

from typing import Any

from features.errors import EventRefused
from models.topics import dead_letter_topic

from .log import Partition
from .producer import Outgoing

CUT = "headrace-cut"
"""Header of a dead letter that holds only the beginning: how many bytes the value had."""
ROOM = 950_000
"""Bytes of key, value and headers; a broker that is set as usual takes a little more."""
KEPT = 100_000
"""Bytes of a value that is cut."""

_PREFIX = "__connect.errors."


def dead_letter(partition: Partition, record: Any, refused: EventRefused) -> Outgoing:
    """Returns the record for the dead letters of a topic; its place of origin tells a repeat from another."""
    facts = {
        "topic": partition.topic,
        "partition": str(partition.number),
        "offset": str(record.offset),
        "connector.name": "headrace",
        "stage": "VALUE_CONVERTER",
        "class.name": refused.reason,
        "exception.class.name": type(refused).__name__,
        "exception.message": refused.what[:1000],
    }
    told = [(_PREFIX + name, text.encode()) for name, text in facts.items()]
    key, value, headers = record.key, record.value, (*record.headers, *told)
    size = sum(len(name) + len(text or b"") for name, text in headers) + len(key or b"") + len(value or b"")
    if size > ROOM:
        key = None if key is None or len(key) > KEPT else key
        value = value or b""
        headers, value = (*told, (CUT, b"%d" % len(value))), value[:KEPT]
    return Outgoing(dead_letter_topic(partition.topic), key, value, headers, record.timestamp)
