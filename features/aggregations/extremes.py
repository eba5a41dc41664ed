"""The smallest and the largest value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import ClassVar, TypeVar, cast

from ..aggregation import Aggregation, Events
from ..column import NUMBERS, Kind

N = TypeVar("N", bound=float)

Extremes = tuple[float, float]  # lowest, highest; (inf, -inf) of no events


class _Extreme(Aggregation[N | None]):
    """The partial of Min and Max."""

    keeps: ClassVar[Kind | None] = "number"
    takes = NUMBERS
    compact = True

    def __init__(self, column: N | None) -> None:
        super().__init__(column)

    @property
    def kin(self) -> tuple[str, str, str | int]:
        """Min and Max share their partial."""
        return ("extremes", self.column.name if self.column else "", "")

    def zero(self) -> Extremes:
        """Returns no events."""
        return (inf, -inf)

    def add(self, partial: Extremes, t: int, x: float) -> Extremes:
        """Returns one value more."""
        return (min(partial[0], x), max(partial[1], x))

    def extend(self, partial: Extremes, times: Sequence[int], values: Sequence[float]) -> Extremes:
        """Returns values more."""
        return (min(partial[0], min(values)), max(partial[1], max(values))) if values else partial

    def merge(self, one: Extremes, other: Extremes) -> Extremes:
        """Returns both."""
        return (min(one[0], other[0]), max(one[1], other[1]))

    def thaw(self, frozen: list[float]) -> Extremes:
        """Returns the tuple that MessagePack made a list."""
        return (frozen[0], frozen[1])

    def typed(self, x: float) -> N | None:
        """Returns the value in the column's own type; missing where there was no event."""
        assert self.column is not None
        return None if x in (inf, -inf) else cast("N", self.column.type(x))


class Min(_Extreme[N]):
    """The smallest value, in the column's type; missing where there is none."""

    def result(self, partial: Extremes, events: Events) -> N | None:
        """Returns the smallest."""
        return self.typed(partial[0])

    def value(self, events: Events) -> N | None:
        """Returns the smallest, from whole slices."""
        low = min((min(xs) for xs in events.values() if len(xs)), default=inf)
        return self.typed(min((low, *(part[0] for part in events.partials))))

    def of_values(self) -> Callable[[Sequence[float]], N | None]:
        """Returns the smallest."""
        return lambda xs: self.typed(min(xs, default=inf))


class Max(_Extreme[N]):
    """The largest value, in the column's type; missing where there is none."""

    def result(self, partial: Extremes, events: Events) -> N | None:
        """Returns the largest."""
        return self.typed(partial[1])

    def value(self, events: Events) -> N | None:
        """Returns the largest, from whole slices."""
        high = max((max(xs) for xs in events.values() if len(xs)), default=-inf)
        return self.typed(max((high, *(part[1] for part in events.partials))))

    def of_values(self) -> Callable[[Sequence[float]], N | None]:
        """Returns the largest."""
        return lambda xs: self.typed(max(xs, default=-inf))
