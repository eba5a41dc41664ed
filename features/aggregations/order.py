"""The first and the last values. Events of one instant stand in the order of their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from ..aggregation import Aggregation, Events, Kin, present
from ..column import SCALARS, Kind
from ..errors import DefinitionError

T = TypeVar("T")
V = TypeVar("V", float, int, bool, str)

Run = tuple[tuple[int, Any], ...]  # (time, value), oldest first


class _Ordered(Aggregation[T]):
    """Values in the order of their times."""

    takes = SCALARS
    ordered = True

    def __init__(self, column: object) -> None:
        super().__init__(column)

    @property
    def keeps(self) -> Kind | None:  # type: ignore[override]  # the one family whose columns may be of any type
        """Text is kept as it is, everything else as a number."""
        return "text" if self.column is None or self.column.type is str else "number"

    def typed(self, x: Any) -> Any:
        """Returns a stored value in the column's own type."""
        assert self.column is not None
        return x if self.column.type is str else self.column.type(x)

    def zero(self) -> Run:
        """Returns no events."""
        return ()

    def end_of(self, events: Events, k: int, newest: bool) -> Iterator[tuple[int, Any]]:
        """Yields (time, value) of at most k present events at one end of every segment, in the order of time."""
        c, step = events.column, -1 if newest else 1
        for s in events.segments:
            rows = range(s.i, s.j)[::step]
            chosen = islice((r for r in rows if not events.nullable or present(s.cols[c][r])), k)
            for r in sorted(chosen):
                yield s.t0 + s.t[r], s.cols[c][r]

    def reduced(self, events: Events, k: int, newest: bool) -> Any:
        """Returns the partial of a window in which only one end of each segment can matter."""
        partial: Any = self.zero()
        for part in events.partials:
            partial = self.merge(partial, part)
        for t, x in self.end_of(events, k, newest):
            partial = self.add(partial, t, x)
        return partial

    def thaw(self, frozen: list[tuple[int, Any]]) -> Run:
        """Returns the tuples that MessagePack made lists."""
        return tuple((t, x) for t, x in frozen)


class First(_Ordered[V | None], Generic[V]):
    """The value of the oldest event in the window; missing where there is none."""

    def __init__(self, column: V | None) -> None:
        super().__init__(column)

    def add(self, partial: Run, t: int, x: Any) -> Run:
        """Returns the older of the two; events come in the order of their instants."""
        return self.merge(partial, ((t, x),))

    def merge(self, one: Run, other: Run) -> Run:
        """Returns the oldest; of one instant, the first named."""
        if not one or not other:
            return one or other
        return other if other[0][0] < one[0][0] else one

    def gather(self, events: Events) -> Run:
        """Returns the oldest of a window."""
        return cast("Run", self.reduced(events, 1, newest=False))

    def result(self, partial: Run, events: Events) -> V | None:
        """Returns the value."""
        return cast("V", self.typed(partial[0][1])) if partial else None

    def of_values(self) -> Callable[[Sequence[Any]], V | None]:
        """Returns the oldest."""
        return lambda xs: cast("V", self.typed(xs[0])) if xs else None


class LastK(_Ordered[tuple[V, ...]], Generic[V]):
    """The values of the k newest events in the window, newest first; shorter where there are fewer."""

    def __init__(self, column: V | None, k: int) -> None:
        super().__init__(column)
        if not 1 <= k <= 64:
            raise DefinitionError(f"LastK of {k!r} values", fix="ask for 1 to 64")
        self.k = k
        self.width = k

    @property
    def parameter(self) -> str | int:
        """How many."""
        return self.k

    def add(self, partial: Run, t: int, x: Any) -> Run:
        """Returns the newest k with one event more."""
        return self.merge(partial, ((t, x),))

    def merge(self, one: Run, other: Run) -> Run:
        """Returns the newest k of both; of one instant, the one named later is newer."""
        both = sorted((*one, *other), key=lambda event: event[0])
        return tuple(both[-self.k :])

    def gather(self, events: Events) -> Run:
        """Returns the newest k of a window."""
        return cast("Run", self.reduced(events, self.k, newest=True))

    def result(self, partial: Run, events: Events) -> tuple[V, ...]:
        """Returns the values, newest first."""
        return tuple(self.typed(x) for _, x in reversed(partial))

    def of_values(self) -> Callable[[Sequence[Any]], tuple[V, ...]]:
        """Returns the newest k, newest first."""
        return lambda xs: tuple([self.typed(x) for x in xs[: -self.k - 1 : -1]])


class Last(_Ordered[V | None], Generic[V]):
    """The value of the newest event in the window; missing where there is none.

    An event without the value is passed over. Not so over a compacted source: there the newest record of a key stands
    for all, so one without the value, or a tombstone, makes it missing.
    """

    def __init__(self, column: V | None) -> None:
        super().__init__(column)

    def lookup(self) -> Last[V]:
        """Returns what it is over a compacted source: the value of the newest event, also where that has none."""
        made = copy(self)
        made.counts_missing = True
        return made

    @property
    def kin(self) -> Kin:
        """Names the partial; one that holds a missing value is another."""
        return ("lookup", *super().kin[1:]) if self.counts_missing else super().kin

    def add(self, partial: Run, t: int, x: Any) -> Run:
        """Returns the newer of the two."""
        return self.merge(partial, ((t, x),))

    def merge(self, one: Run, other: Run) -> Run:
        """Returns the newest; of one instant, the one named later."""
        if not one or not other:
            return one or other
        return one if other[0][0] < one[0][0] else other

    def gather(self, events: Events) -> Run:
        """Returns the newest of a window."""
        return cast("Run", self.reduced(events, 1, newest=True))

    def result(self, partial: Run, events: Events) -> V | None:
        """Returns the value."""
        return cast("V", self.typed(partial[0][1])) if partial and present(partial[0][1]) else None

    def of_values(self) -> Callable[[Sequence[Any]], V | None]:
        """Returns the newest."""
        return lambda xs: cast("V", self.typed(xs[-1])) if xs and present(xs[-1]) else None
