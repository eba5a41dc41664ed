"""The two clocks of a join. Both come from the log, so they move at a record and are the same at every reading."""

from __future__ import annotations

from msgspec import Struct, field

NEVER = -(2**60)  # earlier than every time, and still an int64 after any sum of durations


class Clock(Struct, array_like=True, gc=False):
    """The largest `min(t, t of the record before)`: a single stray moves nothing.

    A record of the same id as the one before it is no second witness: retries are not independent.
    """

    now: int = NEVER
    before: int = NEVER
    ident: str = ""

    def witness(self, ident: str, t: int) -> bool:
        """Takes a record's time; returns whether the clock moved."""
        before = self.before
        if ident == self.ident and before != NEVER:
            return False
        self.before, self.ident = t, ident
        return self.reach(t if t < before else before)

    def reach(self, time: int) -> bool:
        """Moves on to a time; returns whether it was ahead."""
        if time <= self.now:
            return False
        self.now = time
        return True


class Feed(Struct, array_like=True, gc=False):
    """One group of the label source: everything before `next` was seen."""

    next: int = 0
    clock: Clock = field(default_factory=Clock)


class Clocks(Struct, array_like=True):
    """The clock of the predictions, and that of the labels: of all their groups the least.

    A group that stands still holds the label clock back; one that turns up late never turns it back.
    """

    predictions: Clock
    labels: int
    feeds: dict[str, Feed]

    @classmethod
    def expecting(cls, feeds: tuple[str, ...]) -> Clocks:
        """Returns the clocks before the first record; these groups must be heard."""
        return cls(Clock(), NEVER, {name: Feed() for name in feeds})

    def feed(self, group: str) -> Feed:
        """Returns a group of the label source."""
        found = self.feeds.get(group)
        if found is None:
            found = self.feeds[group] = Feed()
        return found

    def heard(self) -> bool:
        """Reads the clock of the labels after one of its groups moved; returns whether it moved."""
        slowest = before = self.labels
        for feed in self.feeds.values():
            now = feed.clock.now
            if now <= before:
                return False
            if now < slowest or slowest == before:
                slowest = now
        self.labels = slowest
        return True


def seen(time: int) -> int | None:
    """Returns a clock's time; None where nothing was heard yet."""
    return None if time == NEVER else time
