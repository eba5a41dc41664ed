"""Quantiles: exact over exact events, by logarithmic buckets over older ones."""

from __future__ import annotations

from math import ceil, frexp, ldexp
from typing import ClassVar

from ..aggregation import Aggregation, Events
from ..column import NUMBERS, Kind
from ..errors import DefinitionError

STEPS = 64  # buckets an octave: the middle of one is at most 1/128 of its value away

Buckets = dict[int, int]  # bucket -> how many values


class Quantile(Aggregation[float | None]):
    """The value below which a share `q` of the values lies; missing where there is none.

    It is the value of rank `max(1, ceil(q * n))`, one of the set, where every event is kept one by one. With older
    events it is the middle of the bucket holding that rank: 64 linear buckets an octave (the DDSketch of Masson, Rim
    and Lee, 2019, with boundaries that need no logarithm), within 0.8 % of the value.
    """

    keeps: ClassVar[Kind | None] = "number"
    takes = NUMBERS

    def __init__(self, column: float | None, q: float) -> None:
        super().__init__(column)
        if not 0.0 <= q <= 1.0:
            raise DefinitionError(f"Quantile of {q!r}", fix="give a share between 0 and 1, such as 0.95")
        self.q = q

    @property
    def kin(self) -> tuple[str, str, str | int]:
        """Quantiles of one column share their buckets."""
        return ("buckets", self.column.name if self.column else "", "")

    @property
    def parameter(self) -> str | int:
        """The share."""
        return repr(self.q)

    def zero(self) -> Buckets:
        """Returns no values."""
        return {}

    def add(self, partial: Buckets, t: int, x: float) -> Buckets:
        """Returns one value more."""
        bucket = bucket_of(x)
        return {**partial, bucket: partial.get(bucket, 0) + 1}

    def merge(self, one: Buckets, other: Buckets) -> Buckets:
        """Returns both."""
        merged = dict(one)
        for bucket, count in other.items():
            merged[bucket] = merged.get(bucket, 0) + count
        return merged

    def result(self, partial: Buckets, events: Events) -> float | None:
        """Returns the middle of the bucket that holds the rank."""
        n = sum(partial.values())
        rank = max(1, ceil(self.q * n))
        for bucket in sorted(partial):
            rank -= partial[bucket]
            if rank <= 0:
                return middle_of(bucket)
        return None

    def value(self, events: Events) -> float | None:
        """Returns the value of the rank; exact while every event is."""
        if events.partials:
            return self.result(self.gather(events), events)
        values = sorted(x for xs in events.values() for x in xs)
        return float(values[max(1, ceil(self.q * len(values))) - 1]) if values else None

    def freeze(self, partial: Buckets) -> list[tuple[int, int]]:
        """Returns the buckets in order."""
        return sorted(partial.items())

    def thaw(self, frozen: list[tuple[int, int]]) -> Buckets:
        """Returns the buckets of their sorted form."""
        return dict(frozen)


def bucket_of(x: float) -> int:
    """Returns the bucket of a value: sign, octave and 64th of the octave as one ordered integer; 0 is zero's own."""
    if x == 0.0:
        return 0
    mantissa, exponent = frexp(abs(x))
    index = (exponent + 1100) * STEPS + int((mantissa - 0.5) * 2 * STEPS) + 1
    return index if x > 0 else -index


def middle_of(bucket: int) -> float:
    """Returns the middle of a bucket."""
    if bucket == 0:
        return 0.0
    exponent, step = divmod(abs(bucket) - 1, STEPS)
    middle = ldexp(0.5 + (step + 0.5) / (2 * STEPS), exponent - 1100)
    return middle if bucket > 0 else -middle
