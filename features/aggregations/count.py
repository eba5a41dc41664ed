"""How many events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..aggregation import Events
from .span import Span, SpanAggregation


class Count(SpanAggregation[int]):
    """The number of events in the window; 0 where there is none.

    Example:
        >>> Count().over("10m")
        Count() over 10m
    """

    def result(self, partial: Span, events: Events) -> int:
        """Returns the number."""
        return partial[0]

    def value(self, events: Events) -> int:
        """Returns the number, from the bounds of the segments alone."""
        n = events.n
        for partial in events.partials:
            n += partial[0]
        return n

    def of_values(self) -> Callable[[Sequence[Any]], int]:
        """Returns their number."""
        return len
