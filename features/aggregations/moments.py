"""Sums and what they make: exact integers inside, one rounding at the end.

A stored total counts in units of 2^-128, so that totals add without loss in any order; a window of exact events is
summed by `math.fsum`, which rounds the exact sum once. Both give the correctly rounded sum, hence the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import fsum, sqrt
from typing import ClassVar, TypeVar

from ..aggregation import Aggregation, Events
from ..column import NUMBERS, UNIT, Kind

T = TypeVar("T")

_SCALE = float(UNIT)
_UNIT2 = UNIT * UNIT
Total = tuple[int, int]  # count, sum in units of 2^-128
Squares = tuple[int, int, int]  # and the sum of squares in units of 2^-256


def _bytes(total: int) -> bytes:
    """Returns the fewest bytes that hold an integer and its sign; below 2^31 values of 2^96 they are at most 64."""
    return total.to_bytes((total.bit_length() + 8) >> 3, "little", signed=True)


class _Total(Aggregation[T]):
    """The partial of Sum and Mean."""

    keeps: ClassVar[Kind | None] = "number"
    takes = NUMBERS
    compact = True

    def __init__(self, column: float | None) -> None:
        super().__init__(column)

    @property
    def kin(self) -> tuple[str, str, str | int]:
        """Sum and Mean share their partial."""
        return ("sum", self.column.name if self.column else "", "")

    def zero(self) -> Total:
        """Returns no events."""
        return (0, 0)

    def add(self, partial: Total, t: int, x: float) -> Total:
        """Returns one value more."""
        return (partial[0] + 1, partial[1] + int(x * _SCALE))

    def extend(self, partial: Total, times: Sequence[int], values: Sequence[float]) -> Total:
        """Returns values more."""
        return (partial[0] + len(values), partial[1] + sum([int(x * _SCALE) for x in values]))

    def merge(self, one: Total, other: Total) -> Total:
        """Returns both."""
        return (one[0] + other[0], one[1] + other[1])

    def freeze(self, partial: Total) -> tuple[int, bytes]:
        """Returns the sum as few bytes."""
        return (partial[0], _bytes(partial[1]))

    def thaw(self, frozen: tuple[int, bytes]) -> Total:
        """Returns the sum of its bytes."""
        return (frozen[0], int.from_bytes(frozen[1], "little", signed=True))

    def _sum(self, events: Events) -> tuple[int, float]:
        """Returns how many values there are and their correctly rounded sum."""
        slices = events.values()
        n = events.n if not events.nullable else sum(map(len, slices))
        if not events.partials:
            return n, fsum(slices[0]) if len(slices) == 1 else fsum(chain.from_iterable(slices))
        total = 0
        for count, part in events.partials:
            n += count
            total += part
        return n, fsum(chain(_doubles(total), *slices))


def _doubles(total: int) -> list[float]:
    """Returns doubles whose exact sum is a stored total, so that fsum can go on from it."""
    parts = []
    while total:
        shift = max(0, abs(total).bit_length() - 53)
        head = (total >> shift) << shift if total > 0 else -((-total >> shift) << shift)
        parts.append(head / UNIT)  # exact: 53 bits and a power of two
        total -= head
    return parts


class Sum(_Total[float]):
    """The correctly rounded sum of a column; 0.0 where there is no event."""

    def result(self, partial: Total, events: Events) -> float:
        """Returns the sum."""
        return partial[1] / UNIT

    def value(self, events: Events) -> float:
        """Returns the sum, from whole slices."""
        return self._sum(events)[1]

    def of_values(self) -> Callable[[Sequence[float]], float]:
        """Returns the sum."""
        return fsum

    def of_sum(self) -> Callable[[float, int], float]:
        """Returns it."""
        return lambda total, _: total


class Mean(_Total[float | None]):
    """The sum divided by the number of values; missing where there is none."""

    def result(self, partial: Total, events: Events) -> float | None:
        """Returns the mean."""
        return (partial[1] / UNIT) / partial[0] if partial[0] else None

    def value(self, events: Events) -> float | None:
        """Returns the mean, from whole slices."""
        n, total = self._sum(events)
        return total / n if n else None

    def of_values(self) -> Callable[[Sequence[float]], float | None]:
        """Returns the mean."""
        return lambda xs: fsum(xs) / len(xs) if xs else None

    def of_sum(self) -> Callable[[float, int], float | None]:
        """Returns the mean."""
        return lambda total, n: total / n if n else None


class Variance(Aggregation[float | None]):
    """The sample variance (divisor n - 1), correctly rounded; missing below two values."""

    keeps: ClassVar[Kind | None] = "number"
    takes = NUMBERS
    compact = True

    def __init__(self, column: float | None) -> None:
        super().__init__(column)

    @property
    def kin(self) -> tuple[str, str, str | int]:
        """Variance and StdDev share their partial."""
        return ("squares", self.column.name if self.column else "", "")

    def zero(self) -> Squares:
        """Returns no events."""
        return (0, 0, 0)

    def add(self, partial: Squares, t: int, x: float) -> Squares:
        """Returns one value more."""
        m = int(x * _SCALE)
        return (partial[0] + 1, partial[1] + m, partial[2] + m * m)

    def extend(self, partial: Squares, times: Sequence[int], values: Sequence[float]) -> Squares:
        """Returns values more."""
        units = [int(x * _SCALE) for x in values]
        return (partial[0] + len(units), partial[1] + sum(units), partial[2] + sum([m * m for m in units]))

    def merge(self, one: Squares, other: Squares) -> Squares:
        """Returns both."""
        return (one[0] + other[0], one[1] + other[1], one[2] + other[2])

    def result(self, partial: Squares, events: Events) -> float | None:
        """Returns the variance: one division of exact integers."""
        n, total, squares = partial
        return (n * squares - total * total) / (n * (n - 1) * _UNIT2) if n > 1 else None

    def freeze(self, partial: Squares) -> tuple[int, bytes, bytes]:
        """Returns the sums as few bytes."""
        return (partial[0], _bytes(partial[1]), _bytes(partial[2]))

    def thaw(self, frozen: tuple[int, bytes, bytes]) -> Squares:
        """Returns the sums of their bytes."""
        n, total, squares = frozen
        return (
            n,
            int.from_bytes(total, "little", signed=True),
            int.from_bytes(squares, "little", signed=True),
        )


class StdDev(Variance):
    """The square root of the sample variance; missing below two values."""

    def result(self, partial: Squares, events: Events) -> float | None:
        """Returns the standard deviation."""
        variance = super().result(partial, events)
        return None if variance is None else sqrt(variance)
