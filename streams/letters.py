"""Dead letters read back: where a record came from and why it is here, whichever tool wrote the headers.

Understood are the headers of Kafka Connect, which are ours as well, and those of Kafka Streams (KIP-1034). A record
without either stands for itself.
"""

from __future__ import annotations

from typing import NamedTuple

from .deadletter import CUT
from .log import Partition, Record

REPLAYED = "headrace-replayed"
"""Header of a record that was sent again, and of the note of it among the dead letters: the place of origin."""

_CONNECT, _STREAMS = "__connect.errors.", "__streams.errors."
_OWN = (_CONNECT, _STREAMS, CUT, REPLAYED)
# ours has a word in `class.name`; Connect's own has the converter or transformation that failed there
_REASONS = (_CONNECT + "class.name", _CONNECT + "exception.class.name", _STREAMS + "exception")
_LAST_PARTITION, _LAST_OFFSET = 2**31 - 1, 2**63 - 1
_LENGTH = 19  # digits of what may be a number of bytes
_MESSAGES = (_CONNECT + "exception.message", _STREAMS + "message")


class Origin(NamedTuple):
    """A place in a log; as text `topic/partition/offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Returns the place that a text names.

        Raises:
            ValueError: it names none.
        """
        topic, partition, offset = text.rsplit("/", 2)
        if not (topic and partition.isdecimal() and offset.isdecimal() and text.isascii()):
            raise ValueError(text)
        place = cls(topic, int(partition), int(offset))
        if place.partition > _LAST_PARTITION or place.offset > _LAST_OFFSET:
            raise ValueError(text)
        return place


class Letter(NamedTuple):
    """A dead letter."""

    at: Origin  # where it stands itself
    origin: Origin
    reason: str
    message: str
    cut: int | None  # how many bytes the value had, where only its beginning is here
    note: bool  # it only says that the record of its origin was sent again
    record: Record

    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]:
        """The headers that the record had before it was refused."""
        return tuple(each for each in self.record.headers if not each[0].startswith(_OWN))


def letter_of(partition: Partition, record: Record) -> Letter:
    """Returns what a record of a topic of dead letters tells."""
    told = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    at = Origin(partition.topic, partition.number, record.offset)
    cut = told.get(CUT, "")
    return Letter(
        at,
        next(filter(None, (_place(told, prefix) for prefix in (_CONNECT, _STREAMS))), at),
        next((told[name].partition(":")[0] for name in _REASONS if told.get(name)), "unknown"),
        next((told[name] for name in _MESSAGES if told.get(name)), ""),
        int(cut) if cut.isdecimal() and len(cut) <= _LENGTH else None,
        REPLAYED in told and record.value is None and told.get(_CONNECT + "class.name") == REPLAYED,
        record,
    )


def note_of(letter: Letter) -> tuple[tuple[str, bytes], ...]:
    """Returns the headers of the note, among the dead letters, that a record was sent again."""
    origin = letter.origin
    facts = {
        "topic": origin.topic,
        "partition": str(origin.partition),
        "offset": str(origin.offset),
        "connector.name": "headrace",
        "class.name": REPLAYED,
    }
    told = [(_CONNECT + name, text.encode()) for name, text in facts.items()]
    return (*told, (REPLAYED, str(origin).encode()))


def _place(told: dict[str, str], prefix: str) -> Origin | None:
    topic, partition, offset = (told.get(prefix + name, "") for name in ("topic", "partition", "offset"))
    try:
        return Origin.parse(f"{topic}/{partition}/{offset}")
    except ValueError:
        return None
