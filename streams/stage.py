"""A stage: one reader of one partition, with a position of its own.

Several stages can read one partition (the fold and the scorer of a source do). Each takes what lies beyond its
position; the worker reads from the smallest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from features.errors import EventRefused, StoreError
from features.store import NOBODY, Group, Position, Status, Writes
from models.records import LogRecord, encode_record

from .context import Context
from .deadletter import dead_letter
from .log import Partition
from .producer import Outgoing

log = logging.getLogger("headrace.worker")


def logged(record: LogRecord) -> bytes:
    """Returns a record as a model's log has it.

    Raises:
        EventRefused: a number or a size that the log cannot carry.
    """
    try:
        return encode_record(record)
    except ValueError as error:
        raise EventRefused("not_logged", str(error)) from error


class Rewound(Exception):
    """The store stands elsewhere; whoever drives the stage reads on from its position."""


class Stage:
    """What every reader of a partition has."""

    reader = ""  # its name in the store; the fold has none

    def __init__(self, context: Context, partition: Partition, group: Group, position: Position) -> None:
        self.context = context
        self.partition = partition
        self.group = group
        self.position = position
        self.fenced = False

    @classmethod
    async def claimed(cls, context: Context, group: Group, topic_id: bytes, earliest: int) -> Position:
        """Takes a partition over and returns where it stands; a new one begins at the start of the log."""
        initial = Position.start(topic_id, earliest)._replace(token=context.token)
        return await context.patiently(
            "claim a partition", lambda: context.store.claim(group, initial, cls.reader)
        )

    @property
    def next(self) -> int:
        """The next offset that it needs."""
        return self.position.next

    def wants(self) -> bool:
        """Whether it can take more records now."""
        return not self.fenced

    async def take(self, records: Sequence[Any], next_offset: int) -> None:
        """Takes records beyond its position; `next_offset` is the position after the last, gaps included."""
        raise NotImplementedError(type(self).__name__)

    async def work(self) -> None:
        """Does what is due."""

    async def finish(self) -> None:
        """Finishes what is in hand before the partition goes to another worker."""

    def letter(self, record: Any, refused: EventRefused) -> Outgoing:
        """Counts a bad record and returns what goes to the dead letters."""
        self.context.metrics.dead_letters.labels(self.partition.topic, refused.reason).inc()
        return dead_letter(self.partition, record, refused)

    def unreadable(self, record: Any, error: Exception) -> Outgoing:
        """Does the same for a record that cannot be decoded."""
        return self.letter(record, EventRefused("undecodable", str(error), where=self.partition.topic))

    async def commit(self, start: Position, end: Position, writes: Writes) -> None:
        """Moves the position with its writes, whatever is lost on the way.

        Raises:
            Rewound: the store stands elsewhere; the position is where it does.
        """
        context, topic = self.context, self.partition.topic
        began = time.perf_counter()
        answer = await context.patiently(
            "commit to the store", lambda: context.store.commit(self.group, start, end, writes, self.reader)
        )
        context.metrics.commit.labels(topic).observe(time.perf_counter() - began)
        context.metrics.commits.labels(topic, answer.status.name.lower()).inc()
        if answer.status is Status.APPLIED:
            self.position = end
            return
        if answer.status is Status.DUPLICATE and answer.position.token == end.token:
            self.position = end
            return
        await self.moved(answer.position, start.next)

    async def check(self, stored: Position) -> None:
        """Compares where it stands with where the store does: one that has nothing to commit would never hear of it.

        Raises:
            Rewound: the store stands elsewhere.
        """
        if not self.fenced and (stored.next, stored.token) != (self.position.next, self.position.token):
            await self.moved(stored, self.position.next)

    async def again(self) -> None:
        """Goes back to what the store holds at the position."""

    async def moved(self, stored: Position, expected: int) -> NoReturn:
        """Goes on from where the store stands, unless another owner does.

        Raises:
            Rewound: always.
            StoreError: the store has no position any more.
        """
        name = self.group.name + (f" ({self.reader})" if self.reader else "")
        if stored.token == NOBODY:
            raise StoreError(
                f"the store holds nothing of {name} any more",
                why="it was emptied while the worker ran",
                fix="restart the worker: it folds the log again from its start",
            )
        if stored.token != self.position.token:
            self.fenced = True
            self.context.metrics.fenced.labels(self.partition.topic).inc()
            log.warning("%s: another worker has taken over", name)
        elif stored.next == expected:
            log.warning("%s: a state in the store is not the one written: reading all of them again", name)
        else:
            log.warning(
                "%s: the store stands at %d, not at %d: reading on from there", name, stored.next, expected
            )
        self.position = stored
        await self.again()
        raise Rewound
