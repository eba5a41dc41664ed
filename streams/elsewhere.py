"""How far other processes have come with the groups that they fold, and telling them how far this one has.

A group that is folded elsewhere has passed a time when its stored clock is later, when the next record that its owner
has seen is later, or when it has reached the end of its log as it was when somebody came to ask. Positions come from
the store, the ends of logs from the broker. What is in neither, the owner notes beside its position: the time of its
next record, and of the request that it has to score next. Without the first, two workers whose next records are far
apart would wait for each other; without the second, one would run ahead of what the other's requests can still read.

Looks are made beside the work and one at a time, so neither folding nor a rebalance waits for one; and only for those
who ask, so a worker with nothing to do asks nobody. A store that goes back takes back what was found: whoever reads has
to find a group where it `stood` at least, and what was known is forgotten wherever somebody sees that one went back.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from features import keys
from features.clock import NEVER
from features.errors import StoreUnavailable
from features.store import NO_TOPIC, Group, Position

from .context import Context
from .errors import BrokerUnreachable
from .log import Partition

log = logging.getLogger("headrace.worker")

END = 1 << 62  # a time after every event
NOW = 60_000  # milliseconds around the time of the wall in which a request is live
RECENT = 1.0  # seconds for which live requests take an end of the log that was reached for the end
EVERY = 0.02  # seconds between looks while something waits

_MARK = struct.Struct("<qqqq")

Ends = Callable[[Collection[Partition]], Awaitable[Mapping[Partition, int]]]


class Mark(NamedTuple):
    """What the owner of a group notes for others; they believe it while its positions stand where they stood."""

    next: int  # position of the fold
    front: int  # time of the record there; the group's clock where it has not been read
    scored: int  # position of the scorer; that of the fold where there is none
    asks: int  # time of the request there, likewise

    def pack(self) -> bytes:
        """Returns the stored form, 32 bytes."""
        return _MARK.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Returns the mark of its stored form."""
        return cls(*_MARK.unpack(data))


@dataclass
class _Known:
    """One group, as the last look found it. Moments are seconds of the context's monotonic clock."""

    end: int = -1  # the end of its log that it is on its way to; -1 where another one is to be asked for
    asked: float = 0.0  # when it was asked for
    reached: float = -1e18  # when the newest end that it has reached was asked for
    scored: bool = False  # whether its requests were scored up to that end
    clock: int = NEVER
    front: int = NEVER
    asks: int = NEVER
    stands: tuple[int, int] = (-1, -1)  # next of its fold and of its scorer
    since: float = 0.0  # when they were first seen there

    def forget(self) -> None:
        """Takes nothing for passed until the next look."""
        self.reached, self.front, self.asks, self.scored = -1e18, NEVER, NEVER, False


class Elsewhere:
    """The groups that other processes fold. For one event loop.

    Args:
        context: its store, its clock, and how long anybody waits.
        ends: tells where partitions end now.
    """

    def __init__(self, context: Context, ends: Ends) -> None:
        self._context = context
        self._ends = ends
        self._known: dict[Group, _Known] = {}
        self._noted: dict[Group, Mark] = {}
        self._renewed = -1e18
        self._task: asyncio.Task[None] | None = None
        self._looked = -1e18
        self.rewinds = 0  # how often what was known was forgotten

    def passed(self, group: Group, t: int, since: float) -> bool:
        """Returns whether nothing up to an event time is still to come, strays aside.

        Args:
            group: whose records.
            t: the event time, in milliseconds.
            since: when the one who asks came, in monotonic seconds: what was appended later does not concern it.
        """
        known = self._known.get(group)
        if known is None:
            return False
        return known.front > t or known.reached > since or self.live(group, t, since)

    def live(self, group: Group, t: int, since: float) -> bool:
        """Returns whether a request may take a group to be at the end of its log, without a look of its own.

        For requests of just now, one look serves all that come within a second. One of long ago comes out of a backlog,
        which the group may have as well.
        """
        known = self._known.get(group)
        if known is None or abs(self._context.now_ms() - t) > NOW:
            return False
        return known.reached >= since - RECENT

    def reached(self, group: Group) -> float:
        """Returns when the newest end of its log that a group has reached was asked for, in monotonic seconds."""
        known = self._known.get(group)
        return -1e18 if known is None else known.reached

    def stood(self, group: Group) -> int:
        """Returns the position that a group had when it was last looked at: what it has passed it has passed there."""
        known = self._known.get(group)
        return 0 if known is None else known.stands[0]

    def forget(self) -> None:
        """Forgets how far everybody has come: the store has gone back, and with it whoever is of another opinion."""
        self.rewinds += 1
        for known in self._known.values():
            known.forget()

    def clock(self, group: Group) -> int:
        """Returns the stored clock of a group; NEVER where it has none."""
        known = self._known.get(group)
        return NEVER if known is None else known.clock

    def front(self, group: Group, since: float) -> int:
        """Returns the event time that what was there at a moment and is still to come has at least."""
        known = self._known.get(group)
        if known is None:
            return NEVER
        return END if known.reached > since else known.front

    def asks(self, group: Group) -> int:
        """Returns the time of the oldest request that is still to be scored, for those who read ahead of it.

        It is END as well if nobody has moved the group for as long as a request would wait: its owner may be gone.
        """
        known = self._known.get(group)
        if known is None:
            return NEVER
        gone = self._context.monotonic() - known.since > self._context.hold
        return END if known.scored or gone else known.asks

    def look(self, groups: Collection[Group], marks: Mapping[Group, Mark], waiting: bool) -> None:
        """Begins a look at these groups, unless one goes on or it is too early for the next.

        Args:
            groups: whose progress matters.
            marks: what others may know of the groups of this process.
            waiting: whether somebody waits for them.

        Raises:
            StreamsError, StoreError: the last look failed for good.
        """
        if self._task is not None:
            if not self._task.done():
                return
            task, self._task = self._task, None
            task.result()
        now = self._context.monotonic()
        recent = not waiting and all(self._is_recent(group, now) for group in groups)
        if now - self._looked < (RECENT / 2 if recent else EVERY):
            return
        self._looked = now
        if (
            now - self._renewed >= RECENT
        ):  # the store may have gone back, or a note have come late upon a newer one
            self._noted.clear()
            self._renewed = now
        new = {group: mark for group, mark in marks.items() if self._noted.get(group) != mark}
        self._task = asyncio.get_running_loop().create_task(self._look(tuple(groups), new))

    def _is_recent(self, group: Group, now: float) -> bool:
        known = self._known.get(group)
        return known is not None and known.scored and known.reached >= now - RECENT

    async def close(self) -> None:
        """Ends the look that goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _look(self, groups: Collection[Group], marks: Mapping[Group, Mark]) -> None:
        context = self._context
        try:
            if marks:
                await context.store.note({keys.mark(group.tag): mark.pack() for group, mark in marks.items()})
                self._noted.update(marks)
            if groups:
                await self._ask_ends([g for g in groups if self._known.setdefault(g, _Known()).end < 0])
                await self._read(groups)
        except (StoreUnavailable, BrokerUnreachable) as error:
            context.metrics.pauses.labels("look").inc()
            log.debug("no look at other workers: %s", error)  # whoever waits goes on waiting, up to its hold

    async def _ask_ends(self, groups: Collection[Group]) -> None:
        if not groups:
            return
        asked = self._context.monotonic()
        ends = await self._ends([Partition(group.topic, group.partition) for group in groups])
        for group in groups:
            known = self._known[group]
            known.end, known.asked = ends[Partition(group.topic, group.partition)], asked

    async def _read(self, groups: Collection[Group]) -> None:
        readers = (
            "score",
            "join",
        )  # of a source's partition the one, of a model's log the other, and no fold
        wanted = {
            g: (*(keys.position(g.tag, reader) for reader in readers), keys.mark(g.tag)) for g in groups
        }
        before = self.rewinds
        found = await self._context.store.read(wanted)
        if self.rewinds != before:
            return  # it may have been read before the store went back
        folds = {
            group: stored or (Position.start(NO_TOPIC) if join is None else Position.unpack(join))
            for group, (stored, (_, join, _)) in found.items()
        }
        if any(fold.next < self.stood(group) for group, fold in folds.items()):
            self.forget()
        now = self._context.monotonic()
        for group, (_, (score, _, noted)) in found.items():
            known, fold = self._known[group], folds[group]
            scored = fold.next if score is None else Position.unpack(score).next
            mark = None if noted is None else Mark.unpack(noted)
            known.clock = fold.clock
            known.front = mark.front if mark is not None and mark.next == fold.next else fold.clock
            # a fold is never more than the slack ahead of its scorer
            known.asks = mark.asks if mark is not None and mark.scored == scored else fold.clock
            known.scored = scored >= known.end
            if (fold.next, scored) != known.stands:
                known.stands, known.since = (fold.next, scored), now
            if fold.next >= known.end:
                known.reached, known.end = known.asked, -1
