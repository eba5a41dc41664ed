"""How long ago."""

from __future__ import annotations

from ..aggregation import Events
from .span import Span, SpanAggregation


class TimeSinceLast(SpanAggregation[float | None]):
    """Seconds since the newest event in the window; missing where there is none.

    In a view that counts the request's own event it is 0 by definition: ask for it in one with `own_event=False`.
    """

    def result(self, partial: Span, events: Events) -> float | None:
        """Returns the seconds."""
        return (events.end - partial[2]) / 1000 if partial[0] else None


class TimeSinceFirst(SpanAggregation[float | None]):
    """Seconds since the oldest event in the window; missing where there is none."""

    def result(self, partial: Span, events: Events) -> float | None:
        """Returns the seconds."""
        return (events.end - partial[1]) / 1000 if partial[0] else None
