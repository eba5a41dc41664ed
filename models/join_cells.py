"""What a join knows of a prediction, and the keeper that has all of it in a cell of its own.

A keeper holds the predictions of one join, finds them by id, says which are due, and gives out what is to be stored.
There are two: `Cells` keeps each prediction whole, `Chunks` (in `join_chunks`) only names its record in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from models.join_clocks import NEVER
from models.records import Body, Scalar

Label = tuple[int, Scalar]  # its time, its value
Writes = dict[bytes, bytes | None]  # a field and its value; None deletes

KNOWN = 1  # every prediction has it: zeros are an entry that holds nothing
DONE = 2  # its sample has left, or it was dropped
API = 4
FOREIGN = 8  # nobody needs its vector, or it is forgotten


class Held(Struct, array_like=True, gc=False):
    """What a join knows of one prediction."""

    t: int
    flags: int
    label_t: int | None = None  # when done: the time of the label that counted
    body: Body | None = None  # what its sample repeats; None where the log has it, or nobody needs it
    label: Label | None = None  # so far, in time
    beyond: Label | None = None  # so far, after the horizon
    at: int = -1  # the offset of its record, where the log has the body

    @property
    def done(self) -> bool:
        """Whether its wait is over."""
        return bool(self.flags & DONE)


class Keeper(Protocol):
    """Where the predictions of a join are. A key is what the keeper itself finds one by."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        ...

    @property
    def stored(self) -> int:
        """Bytes of the values."""
        ...

    def find(self, ident: str) -> tuple[Any, Held] | None:
        """Returns the prediction of an id, with its key."""
        ...

    def add(self, ident: str, held: Held) -> None:
        """Takes a new prediction, whether it waits or is done already."""
        ...

    def put(self, key: Any, held: Held) -> None:
        """Takes what became of a prediction; its time stays."""
        ...

    def drop(self, key: Any) -> None:
        """Lets go of a prediction that waits."""
        ...

    def ripe(self, due: int, remembered: int) -> bool:
        """Whether there may be something that waits with `t < due`, or to be forgotten with `t < remembered`."""
        ...

    def due(self, limit: int, spared: Any = None) -> Iterator[tuple[str, Any, Held]]:
        """Yields what waits with `t < limit`, in the order of t: its id if it is known here, else "", and its key.

        Each must be `put` or dropped before the next is asked for. `spared` is a key to pass over.
        """
        ...

    def forget(self, limit: int) -> None:
        """Forgets what is done and has `t < limit`."""
        ...

    def oldest(self) -> int | None:
        """Returns the least time of what waits."""
        ...

    def scrub(self, forgotten: Callable[[bytes], bool]) -> int:
        """Lets go of the vectors of requests that are forgotten; returns the greatest time of those it cannot tell."""
        ...

    def take(self, into: Writes) -> None:
        """Gives out the fields that changed since the last call."""
        ...

    def restore(self, kind: bytes, name: bytes, cell: bytes) -> None:
        """Takes a stored field, named by its kind and the rest of its name."""
        ...

    def restored(self) -> None:
        """Says that all fields have been restored.

        Raises:
            ValueError: they do not fit together.
        """
        ...


# Dicts keep their order: a score must leave in the bytes it came in, whichever way it took.
_encode = msgspec.msgpack.Encoder().encode
_held = msgspec.msgpack.Decoder(Held).decode


class Fields:
    """Encoded values by id, with what changed since the caller last asked."""

    __slots__ = ("bytes", "changed", "of", "prefix")

    def __init__(self, prefix: bytes) -> None:
        self.of: dict[str, bytes] = {}
        self.bytes = 0
        self.changed: dict[str, None] = {}  # a set whose order is that of the log
        self.prefix = prefix

    def put(self, ident: str, cell: bytes) -> None:
        """Sets a value."""
        old = self.of.get(ident)
        self.bytes += len(cell) if old is None else len(cell) - len(old)
        self.of[ident] = cell
        self.changed[ident] = None

    def drop(self, ident: str) -> None:
        """Deletes a value."""
        self.bytes -= len(self.of.pop(ident))
        self.changed[ident] = None

    def take(self, into: Writes) -> None:
        """Gives out what changed."""
        prefix, of = self.prefix, self.of
        into.update({prefix + ident.encode(): of.get(ident) for ident in self.changed})
        self.changed.clear()


class Cells:
    """Keeps each prediction whole, in a field of its own: `p<id>` while it waits, `d<id>` when it is done."""

    def __init__(self) -> None:
        self._waiting = Fields(b"p")
        self._done = Fields(b"d")
        # (time, id): an entry stays when its id moves on, and is recognised as stale when it comes up
        self._due: list[tuple[int, str]] = []
        self._forget: list[tuple[int, str]] = []

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting.of)

    @property
    def stored(self) -> int:
        """Bytes of the values."""
        return self._waiting.bytes + self._done.bytes

    def find(self, ident: str) -> tuple[str, Held] | None:
        """Returns the prediction of an id."""
        cell = self._waiting.of.get(ident) or self._done.of.get(ident)
        return None if cell is None else (ident, _held(cell))

    def add(self, ident: str, held: Held) -> None:
        """Takes a new prediction."""
        if not held.done:
            heappush(self._due, (held.t, ident))
        self.put(ident, held)

    def put(self, key: str, held: Held) -> None:
        """Takes what became of a prediction."""
        if not held.done:
            self._waiting.put(key, _encode(held))
            return
        if key in self._waiting.of:
            self._waiting.drop(key)
        if key not in self._done.of:
            heappush(self._forget, (held.t, key))
        self._done.put(key, _encode(held))

    def drop(self, key: str) -> None:
        """Lets go of a prediction that waits."""
        self._waiting.drop(key)

    def ripe(self, due: int, remembered: int) -> bool:
        """Whether there may be something that waits with `t < due`, or to be forgotten with `t < remembered`."""
        if self._due and self._due[0][0] < due:
            return True
        return bool(self._forget) and self._forget[0][0] < remembered

    def due(self, limit: int, spared: str | None = None) -> Iterator[tuple[str, str, Held]]:
        """Yields what waits with `t < limit`, in the order of t."""
        due, passed_over = self._due, []
        while due and due[0][0] < limit:
            t, ident = entry = heappop(due)
            if ident == spared:
                passed_over.append(entry)
                continue
            cell = self._waiting.of.get(ident)
            if cell is not None and (held := _held(cell)).t == t:
                yield ident, ident, held
        for entry in passed_over:
            heappush(due, entry)

    def forget(self, limit: int) -> None:
        """Forgets what is done and has `t < limit`."""
        while self._forget and self._forget[0][0] < limit:
            self._done.drop(heappop(self._forget)[1])

    def oldest(self) -> int | None:
        """Returns the least time of what waits."""
        while self._due:
            t, ident = self._due[0]
            cell = self._waiting.of.get(ident)
            if cell is not None and _held(cell).t == t:
                return t
            heappop(self._due)
        return None

    def scrub(self, forgotten: Callable[[bytes], bool]) -> int:
        """Lets go of the vectors of requests that are forgotten: nothing leaves of them any more but their labels."""
        for fields in (self._waiting, self._done):
            for ident, cell in list(fields.of.items()):
                held = _held(cell)
                if held.body is not None and forgotten(held.body.event):
                    held.body = None
                    held.flags |= FOREIGN
                    fields.put(ident, _encode(held))
        return NEVER

    def take(self, into: Writes) -> None:
        """Gives out the fields that changed."""
        self._waiting.take(into)
        self._done.take(into)

    def restore(self, kind: bytes, name: bytes, cell: bytes) -> None:
        """Takes a stored field."""
        ident = name.decode()
        if kind == b"p":
            self._waiting.put(ident, cell)
            self._due.append((_held(cell).t, ident))
        else:
            self._done.put(ident, cell)
            self._forget.append((_held(cell).t, ident))

    def restored(self) -> None:
        """Says that all fields have been restored."""
        heapify(self._due)
        heapify(self._forget)
        self._waiting.changed.clear()
        self._done.changed.clear()
