"""Dead letters: bad records, byte for byte, with Kafka Connect's headers saying where and why."""

from __future__ import annotations

from typing import Any

from features.errors import EventRefused
from models.topics import dead_letter_topic

from .log import Partition
from .producer import Outgoing

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
    headers = (*record.headers, *told)
    return Outgoing(dead_letter_topic(partition.topic), record.key, record.value, headers, record.timestamp)
