"""The store: states and positions, written together or not at all.

A position names the prefix of the log that is in the states. `commit` moves it from the start of a batch to its end and
writes the batch's states in one step, if and only if it still stands at the start. So a batch is applied once whatever
is lost, repeated or late; a rewound store answers MISMATCH, and its position says where to go on.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from .clock import NEVER
from .errors import StateCorrupt

_POSITION = struct.Struct("<16sqqqq16s")
NO_TOPIC = bytes(16)  # a broker that does not name its topics
NOBODY = bytes(16)  # the token of a position that was never claimed


class Position(NamedTuple):
    """How far a reader of one partition has come."""

    topic_id: bytes  # 16 bytes; zeros where the broker gives none
    next: int  # the offset after the last one in the states
    clock: int  # the largest `min(t, t of the record before)`
    previous: int  # event time of the last record
    first: int  # the offset at which the reader began: the prefix is [first, next)
    token: bytes  # 16 random bytes of the owner

    def pack(self) -> bytes:
        """Returns the stored form, 64 bytes."""
        return _POSITION.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Position:
        """Returns the position of its stored form.

        Raises:
            StateCorrupt: it has another size.
        """
        if len(data) != _POSITION.size:
            raise StateCorrupt(f"{len(data)} bytes are not a position, which has {_POSITION.size}")
        return cls(*_POSITION.unpack(data))

    @classmethod
    def start(cls, topic_id: bytes, offset: int = 0) -> Position:
        """Returns the position before anything was read, with nobody's token."""
        return cls(topic_id, offset, NEVER, NEVER, offset, NOBODY)


class Status(IntEnum):
    """What became of a commit."""

    APPLIED = 0
    DUPLICATE = 1  # the position already stands at the batch's end
    # it stands elsewhere, the topic is another one, or a value is not the one that a patch is for: drop what is cached
    # and go on from the position
    MISMATCH = 2
    FENCED = 3  # another owner has claimed the group


class Answer(NamedTuple):
    """The status of a commit, and where the position stands now."""

    status: Status
    position: Position


class Group(NamedTuple):
    """A fold group: one partition of one log, under one set of plans."""

    topic: str
    partition: int
    tag: str

    @property
    def name(self) -> str:
        """The name in logs and `as_of`."""
        return f"{self.topic}/{self.partition}"


class Adoption(NamedTuple):
    """Which layout of states serves a file, decided once."""

    needed: str  # the name of what the file asks for
    layout: str  # the name of the layout that serves it
    states: bytes  # the layout itself, as JSON, where it is deployed with this; else empty


class Patch(NamedTuple):
    """What turns one value into another that begins and ends differently: the bytes of both ends.

    It is as absolute as a whole value. A patch is applied at one position alone, so what it is put onto is known: the
    value that the log up to there gives. Applied or not, repeated or not, the bytes at a position are always the same.
    """

    size: int  # bytes that the stored value has; a store that has another one takes nothing of the commit
    head: bytes  # from the first byte on
    at: int  # where the tail begins
    tail: bytes  # reaches at least to the end of the stored value

    def onto(self, value: bytes) -> bytes:
        """Returns the value that it makes of the stored one."""
        return self.head + value[len(self.head) : self.at] + self.tail


class Writes(NamedTuple):
    """Absolute values to write with a position."""

    sets: Mapping[str, bytes] = {}
    deletes: Sequence[str] = ()
    hash_key: str = ""
    fields: Mapping[bytes, bytes | None] = {}  # of the hash; None deletes
    patches: Mapping[str, Patch] = {}


class Read(NamedTuple):
    """The position of a group and the values of some of its keys, taken in one step."""

    position: Position | None
    values: Sequence[bytes | None]


class Store(Protocol):
    """What headrace needs of a store. Every method is one round trip at most for each node it touches."""

    async def groups(self, project: str, topic: str, plans: str, partitions: int) -> list[Group]:
        """Returns the groups of a topic, made on the first call; `plans` is the digest of what they fold.

        Raises:
            StoreError: the topic had another number of partitions before.
        """
        ...

    async def codes(self, fingerprints: Sequence[str]) -> dict[str, str]:
        """Returns the short code of each state fingerprint, given out on the first call."""
        ...

    async def layouts(self, project: str, topic: str) -> list[Adoption]:
        """Returns what was decided for a topic, oldest first."""
        ...

    async def adopt(self, project: str, topic: str, adoption: Adoption) -> None:
        """Remembers a decision, unless there is one for the same name: then the first one stays."""
        ...

    async def claim(self, group: Group, initial: Position, reader: str = "") -> Position:
        """Makes the token of `initial` the group's own and returns its position; `initial` itself if it had none.

        Raises:
            StoreError: the position belongs to another topic of that name.
        """
        ...

    async def commit(
        self, group: Group, start: Position, end: Position, writes: Writes, reader: str = ""
    ) -> Answer:
        """Writes all or nothing, as the module says."""
        ...

    async def read(self, wanted: Mapping[Group, Sequence[str]]) -> dict[Group, Read]:
        """Returns values and the position of each group, in one pipelined round trip."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Returns one value."""
        ...

    async def heads(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        """Returns the first bytes of values, in one round trip; None where there is no value."""
        ...

    async def tell(self, key: str, field: str, value: bytes) -> None:
        """Sets a field of a hash that nothing depends on, such as a status."""
        ...

    async def note(self, values: Mapping[str, bytes]) -> None:
        """Sets values that no state depends on, in one round trip; not in one step."""
        ...

    async def scan(self, prefix: str, cursor: int) -> tuple[int, list[str]]:
        """Returns some keys that begin with a prefix, and the cursor to go on with; 0 begins and ends.

        A key that stands there all the time is returned at least once.
        """
        ...

    async def fields(self, key: str) -> list[tuple[bytes, bytes]]:
        """Returns everything in a hash."""
        ...

    async def close(self) -> None:
        """Gives the connections back."""
        ...


def judge(stored: Position, start: Position, end: Position) -> Status:
    """Returns what a commit does at a stored position; the script in Redis decides in the same order."""
    if stored.topic_id != start.topic_id:
        return Status.MISMATCH
    if stored.next == end.next:
        return Status.DUPLICATE
    if stored.token != start.token:
        return Status.FENCED
    return Status.APPLIED if stored.next == start.next else Status.MISMATCH
