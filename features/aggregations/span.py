"""The partial of events without their columns: how many, the first and the last time."""

from __future__ import annotations

from typing import TypeVar

from ..aggregation import Aggregation, Events
from ..clock import NEVER

T = TypeVar("T")

Span = tuple[int, int, int]  # count, first time, last time

EMPTY: Span = (0, -NEVER, NEVER)


class SpanAggregation(Aggregation[T]):
    """What count and times alone decide."""

    @property
    def kin(self) -> tuple[str, str, str | int]:
        """All aggregations of count and times share one partial."""
        return ("span", "", "")

    def zero(self) -> Span:
        """Returns no events."""
        return EMPTY

    def add(self, partial: Span, t: int, x: object) -> Span:
        """Returns one event more."""
        n, first, last = partial
        return (n + 1, min(first, t), max(last, t))

    def merge(self, one: Span, other: Span) -> Span:
        """Returns both."""
        return (one[0] + other[0], min(one[1], other[1]), max(one[2], other[2]))

    def gather(self, events: Events) -> Span:
        """Returns the partial of a window, from the bounds of its segments alone."""
        partial = EMPTY
        for part in events.partials:
            partial = self.merge(partial, part)
        for s in events.segments:
            partial = self.merge(partial, (s.j - s.i, s.t0 + s.t[s.i], s.t0 + s.t[s.j - 1]))
        return partial

    def thaw(self, frozen: list[int]) -> Span:
        """Returns the tuple that MessagePack made a list."""
        return (frozen[0], frozen[1], frozen[2])
