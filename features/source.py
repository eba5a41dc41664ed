"""Sources and entities: the logs that events come from, and the things that features describe."""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from .clock import FIRST, LAST, Duration, duration_ms, to_ms
from .column import KEYS, TIMES, Column, column_of, columns_of, identity, require
from .errors import DefinitionError, EventRefused
from .forgetting import BEGINS, no_event
from .text import check_json

E = TypeVar("E", bound=msgspec.Struct)

TOPIC = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")


class Source(Generic[E]):
    """A Kafka topic of typed events, with the columns that give an event its identity, time and key.

    Args:
        topic: name of the topic, by convention `<domain>.<dataset>.v<N>`.
        event: the class of its events.
        id: column that tells one event from another; a request source must have one. Without it an event is told by
            its place in the log.
        time: column of the event time: a datetime with a time zone, or an int of milliseconds.
        key: column that producers use as the record key, which decides the partition.
        lateness: how much older than the newest event of its entity an event may be; it also bounds the memory of
            ids and reads in the past.
        ahead: how far beyond the clock of the API an event may be before it is refused.
        partitioner: "murmur2" where producers hash the key as Java's clients do; "any" where the partition tells
            nothing, so that every read asks all partitions.
        revises: an event with the id and time of an earlier one replaces it.
        max_bytes: a record with a larger value is a dead letter.
        compacted: a record says what its key stands for from now on, and one without a value (a tombstone) that it
            stands for nothing: the topic is a table, which is looked up with `Last`. It needs a key, and takes no id:
            of two records of one key and millisecond the later in the log holds.

    Example:
        >>> from datetime import datetime
        >>> class Payment(msgspec.Struct, frozen=True):
        ...     id: str
        ...     card: str
        ...     amount: float
        ...     at: datetime
        >>> payments = Source("shop.payments.v1", Payment, id=Payment.id, time=Payment.at, key=Payment.card)
        >>> payments.decode(b'{"id":"p1","card":"c1","amount":2.5,"at":"2026-01-01T00:00:00Z"}').amount
        2.5
    """

    def __init__(
        self,
        topic: str,
        event: type[E],
        *,
        time: object,
        id: object = None,
        key: object = None,
        lateness: Duration = "1d",
        ahead: Duration = "5m",
        partitioner: Literal["murmur2", "any"] = "murmur2",
        revises: bool = False,
        max_bytes: int = 1_000_000,
        compacted: bool = False,
    ) -> None:
        where = f"Source({topic!r})"
        if not TOPIC.fullmatch(topic):
            raise DefinitionError(
                f"topic {topic!r} is not a usable name",
                where=where,
                fix='use lower-case words joined by dots, such as "payments.transactions.v1"',
            )
        self.topic = topic
        self.event = event
        self.time = require(self._own(time, "time", event, where), TIMES, "time")
        self.id = None if id is None else require(self._own(id, "id", event, where), KEYS, "id")
        self.key = None if key is None else require(self._own(key, "key", event, where), KEYS, "key")
        for column in filter(None, (self.time, self.id, self.key)):
            if column.nullable:
                raise DefinitionError(f"{column} may be missing", where=where, fix="declare it without None")
        if compacted and (self.key is None or self.id is not None or revises):
            raise DefinitionError(
                f"the compacted source has {'no key' if self.key is None else 'an id' if self.id else 'revises=True'}",
                where=where,
                why="what a record replaces is what its key had before: no id is needed, and a tombstone has none",
                fix=f"write Source({topic!r}, {event.__name__}, time=..., key=..., compacted=True)",
            )
        self.compacted = compacted
        self.lateness = duration_ms(lateness, "lateness")
        self.ahead = duration_ms(ahead, "ahead")
        if self.lateness < 1:
            raise DefinitionError(
                "lateness is zero",
                where=where,
                why="no two events could share a moment",
                fix='use at least "1ms"',
            )
        self.partitioner = partitioner
        self.revises = revises
        self.max_bytes = max_bytes
        self.filter: Callable[[E], bool] | None = None  # which of its events views may see at all
        self._decoder = msgspec.json.Decoder(event)
        self.time_of: Callable[[E], int] = _time_reader(self.time)

    @staticmethod
    def _own(attribute: object, use: str, event: type, where: str) -> Column:
        column = column_of(attribute, use)
        if not issubclass(event, column.owner):
            raise DefinitionError(
                f"{use}={column} is not a column of {event.__name__}",
                where=where,
                fix=f"use one of {event.__name__}",
            )
        return column

    def accept(self, value: bytes | None) -> E:
        """Returns the event of a record's value, if there is one of a size that is taken.

        Raises:
            EventRefused: there is none, it is too large, or `decode` refuses it.
        """
        if value is None:
            raise EventRefused("no_value", "the record has no value", where=self.topic)
        if len(value) > self.max_bytes:
            raise EventRefused("too_large", f"the record has {len(value)} bytes, more than {self.max_bytes}")
        return self.decode(value)

    def decode(self, value: bytes) -> E:
        """Returns the event of a record's value.

        Raises:
            EventRefused: the bytes are not JSON of the event class, or its time has no zone.
        """
        if value.startswith(BEGINS):
            raise no_event()
        try:
            check_json(value)
            event = self._decoder.decode(value)
        except (msgspec.DecodeError, ValueError) as error:
            raise EventRefused("undecodable", str(error), where=self.topic) from None
        self.check_time(getattr(event, self.time.name))
        return event

    def check_time(self, at: Any) -> None:
        """Returns if a value of the time column names a moment that can be kept.

        Raises:
            EventRefused: it has no zone, or is out of range.
        """
        whole = self.time.type is int
        if not (FIRST <= at <= LAST if whole else 1000 <= at.year < 9000):
            raise EventRefused(
                "time_out_of_range",
                f"{self.time} is {at}",
                where=self.topic,
                fix="send a time between the years 1000 and 9000, an integer in milliseconds since 1970",
            )
        if not whole and at.tzinfo is None:
            raise EventRefused(
                "naive_time",
                f"{self.time} has no time zone",
                where=self.topic,
                fix='end the time with "Z" or an offset',
            )

    def key_bytes(self, event: E) -> bytes | None:
        """Returns the record key of an event, or None where the source has none."""
        return None if self.key is None else str(getattr(event, self.key.name)).encode()

    def entity_of(self, key: bytes) -> str:
        """Returns the text of a record's key, the inverse of `key_bytes`.

        Raises:
            EventRefused: no event of the source has that key.
        """
        assert self.key is not None
        kind = self.key.type
        try:
            text = key.decode()
            if kind is str or (text in ("True", "False") if kind is bool else text == str(int(text))):
                return text
        except ValueError:  # of the bytes, or of the number
            pass
        raise EventRefused(
            "undecodable",
            f"the key {key!r} is no {kind.__name__}, as {self.key} is",
            where=self.topic,
            fix="send the column as text",
        )

    def id_of(self, event: E) -> str:
        """Returns the event's id as text; empty where the source has none."""
        return "" if self.id is None else str(getattr(event, self.id.name))

    def identify(self, event: E, offset: int) -> int:
        """Returns the 32-bit identity of an event; without an id column it is its place in the log."""
        return offset & 0xFFFFFFFF if self.id is None else identity(getattr(event, self.id.name))

    def event_classes(self) -> tuple[type, ...]:
        """Returns the classes whose columns its events have."""
        return (self.event,)

    def locate(self, column: Column) -> str | None:
        """Returns the path of a column within this source's events, or None if it is not one of them."""
        return column.name if issubclass(self.event, column.owner) else None

    def column_at(self, path: str) -> Column | None:
        """Returns the column at a path, the inverse of `locate`; None where its events have none."""
        return columns_of(self.event).get(path)

    def __repr__(self) -> str:
        return f"Source({self.topic!r})"


def _time_reader(column: Column) -> Callable[[Any], int]:
    read = attrgetter(column.name)
    if column.type is int:
        return read
    return lambda event: to_ms(read(event))


class Tombstone(NamedTuple):
    """A record of a compacted source that has a key, a time and no value."""

    key: bytes
    t: int  # in milliseconds


class Entity:
    """A thing that features describe, found in events by one or several columns.

    Args:
        name: its name in commands, documents and state.
        by: the column, or columns, of its key. Columns of other event classes may follow: the same entity is found by
            them in those events.

    Example:
        >>> class Payment(msgspec.Struct):
        ...     card: str
        ...     terminal: str
        >>> class Refund(msgspec.Struct):
        ...     shop: str
        >>> Entity("terminal", by=(Payment.terminal, Refund.shop)).columns_in(Refund)[0].name
        'shop'
    """

    def __init__(self, name: str, *, by: object) -> None:
        where = f"Entity({name!r})"
        given = by if isinstance(by, tuple) else (by,)
        self.name = name
        self._by: dict[type, tuple[Column, ...]] = {}
        for attribute in given:
            column = require(column_of(attribute, "by"), KEYS, "by")
            if column.nullable:
                raise DefinitionError(f"{column} may be missing", where=where, fix="declare it without None")
            self._by[column.owner] = (*self._by.get(column.owner, ()), column)
        if len({len(columns) for columns in self._by.values()}) != 1:
            raise DefinitionError(
                "the event classes give keys of different length",
                where=where,
                fix="name as many columns of each event class",
            )

    @property
    def width(self) -> int:
        """How many columns make the key."""
        return len(next(iter(self._by.values())))

    def columns_in(self, event: type) -> tuple[Column, ...] | None:
        """Returns the key columns in an event class, or None where the entity does not occur."""
        return next((self._by[owner] for owner in event.__mro__ if owner in self._by), None)

    def __repr__(self) -> str:
        return f"Entity({self.name!r})"


def key_text(parts: tuple[Any, ...]) -> str:
    """Returns the text key of an entity: its parts joined by `|`, with `|` and backslash escaped in each."""
    if len(parts) == 1:
        return str(parts[0])
    return "|".join(str(part).replace("\\", "\\\\").replace("|", "\\|") for part in parts)
