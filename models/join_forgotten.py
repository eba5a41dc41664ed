"""What a join remembers of what was forgotten, so that nothing of it leaves that was asked before.

A prediction can still come that an API made of features which are gone: it says so in its `as_of`. And where vectors
wait in the log, only a look at them, when their samples are due, tells whose they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec
from msgspec import Struct

from features.errors import EventRefused
from features.forgetting import name_of
from features.source import Entity, Source, key_text

from .join_cells import Fields, Writes
from .records import ForgetRecord

Named = Callable[[bytes], Collection[str]]
"""Returns the names (of an entity and its key) that a request's JSON has."""


def nobody(_: bytes) -> Collection[str]:
    """Returns no name, where nobody is ever forgotten."""
    return ()


def naming(request: Source[Any], entities: Collection[Entity]) -> Named:
    """Returns what reads the names of those of the entities that occur in a request; several may have one name.

    An event of another definition, which the source does not decode any more, names nobody.
    """
    columns = [(entity.name, entity.columns_in(request.event)) for entity in entities]
    found = {(name, tuple(column.name for column in by)) for name, by in columns if by is not None}

    def named(event: bytes) -> Collection[str]:
        try:
            decoded = request.decode(event)
        except EventRefused:
            return ()
        return {
            name_of(name, key_text(tuple(getattr(decoded, column) for column in by))) for name, by in found
        }

    return named


class _Mark(Struct, array_like=True, gc=False):
    clock: int  # how far requests had come when it was heard last
    until: int  # the greatest time of what was asked before
    at: list[int]  # offsets of the records, in the model's log
    offsets: dict[str, int]  # of the last one in the logs of the requests, by group


_encode = msgspec.msgpack.Encoder().encode
_mark = msgspec.msgpack.Decoder(_Mark).decode


class Forgotten:
    """The names that were forgotten lately, each in a field of its own, `f<name>`."""

    def __init__(self, named: Named) -> None:
        self._named = named
        self._fields = Fields(b"f")
        self._leave: list[tuple[int, str]] = []  # an entry that is stale is recognised when it comes up

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._fields.of)

    def note(self, record: ForgetRecord, at: int, clock: int, until: int, remembered: int) -> None:
        """Remembers what a record of the model's log forgets.

        Args:
            record: it.
            at: its offset.
            clock: how far requests have come, in event time.
            until: the greatest time of what was asked before.
            remembered: event time before which nothing is remembered any more.
        """
        self.leave(remembered)
        name = name_of(record.entity, record.key)
        cell = self._fields.of.get(name)
        mark = _Mark(clock, until, [], {}) if cell is None else _mark(cell)
        mark.clock, mark.until = max(mark.clock, clock), max(mark.until, until)
        mark.at.append(at)
        mark.offsets[record.source] = record.offset
        self._fields.put(name, _encode(mark))
        heappush(self._leave, (mark.until, name))

    def read(self, event: bytes, as_of: Mapping[str, int] | msgspec.Raw, remembered: int) -> bool:
        """Whether a request was answered from features that are forgotten.

        Args:
            event: the request's JSON.
            as_of: positions up to which the answer had been told of each group.
            remembered: event time before which nothing is remembered any more.
        """
        marks = [mark for mark in self._marks(event) if mark.clock >= remembered]
        if not marks:
            return False
        positions = as_of if isinstance(as_of, Mapping) else msgspec.json.decode(as_of, type=dict[str, int])
        return any(
            positions.get(group, offset + 1) <= offset
            for mark in marks
            for group, offset in mark.offsets.items()
        )

    def between(self, event: bytes, asked: int, released: int) -> bool:
        """Whether a request that stands at one offset of the model's log was forgotten before another one."""
        return any(asked < at < released for mark in self._marks(event) for at in mark.at)

    def _marks(self, event: bytes) -> list[_Mark]:
        of = self._fields.of
        return [_mark(of[name]) for name in self._named(event) if name in of] if of else []

    def leave(self, remembered: int) -> None:
        """Lets go of what nothing that can still leave was asked before."""
        while self._leave and self._leave[0][0] < remembered:
            until, name = heappop(self._leave)
            cell = self._fields.of.get(name)
            if cell is not None and _mark(cell).until == until:
                self._fields.drop(name)

    def take(self, into: Writes) -> None:
        """Gives out the fields that changed since the last call."""
        self._fields.take(into)

    def restore(self, name: str, cell: bytes) -> None:
        """Takes a stored field."""
        self._fields.put(name, cell)
        self._leave.append((_mark(cell).until, name))

    def restored(self) -> None:
        """Says that all fields have been restored."""
        heapify(self._leave)
        self._fields.changed.clear()
