"""Sums that fade: each event counts half after every half-life.

An event at t weighs `x * 2^(t/h)`, split into a whole power of two and a fraction in [1, 2) that is rounded once. The
weights are added as exact integers, one sum for each whole half-life, so no order of arrival can show; sums 128
half-lives older than the newest weigh less than 2^-128 of it and are dropped.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from ..aggregation import Aggregation, Events
from ..clock import Duration, duration_ms, duration_text
from ..column import NUMBERS, UNIT, Kind
from ..errors import DefinitionError

T = TypeVar("T")

_SCALE = float(UNIT)
DEPTH = 128

Fading = dict[int, int]  # whole half-life -> sum of fractions in units of 2^-128


class _Decayed(Aggregation[T]):
    """The partial of both."""

    def __init__(self, column: object, half_life: Duration) -> None:
        super().__init__(column)
        self.half_life = duration_ms(half_life, "half_life")
        if self.half_life < 1:
            raise DefinitionError(f"half_life {half_life!r} has no length", fix='give it at least "1ms"')

    @property
    def parameter(self) -> str | int:
        """The half-life."""
        return duration_text(self.half_life)

    def zero(self) -> Fading:
        """Returns no events."""
        return {}

    def weight(self, x: float) -> float:
        """Returns what an event adds at its own time."""
        return x

    def add(self, partial: Fading, t: int, x: float) -> Fading:
        """Returns one event more."""
        whole, part = divmod(t, self.half_life)
        term = int(self.weight(x) * 2.0 ** (part / self.half_life) * _SCALE)
        return self.merge(partial, {whole: term})

    def merge(self, one: Fading, other: Fading) -> Fading:
        """Returns both."""
        sums = dict(one)
        for whole, term in other.items():
            sums[whole] = sums.get(whole, 0) + term
        oldest = max(sums, default=0) - DEPTH
        return {whole: term for whole, term in sums.items() if whole > oldest}

    def fade(self, partial: Fading, at: int) -> float:
        """Returns the sum as it stands at a time: exact up to the rounding of its factors."""
        if not partial:
            return 0.0
        whole, part = divmod(at, self.half_life)
        oldest = min(partial)
        total = sum(term << (k - oldest) for k, term in partial.items())
        # a value beyond the end, which only an approximate read can hold, weighs as one at the end
        scale: float = 2.0 ** min(oldest - whole, 0) * 2.0 ** -(part / self.half_life)
        return total / UNIT * scale

    def freeze(self, partial: Fading) -> list[tuple[int, bytes]]:
        """Returns the sums in order."""
        return [(k, term.to_bytes(40, "little", signed=True)) for k, term in sorted(partial.items())]

    def thaw(self, frozen: list[tuple[int, bytes]]) -> Fading:
        """Returns the sums of their sorted form."""
        return {k: int.from_bytes(term, "little", signed=True) for k, term in frozen}


class DecayedSum(_Decayed[float]):
    """The sum of a column in which a value counts half after each half-life; 0.0 where there is no event."""

    keeps: ClassVar[Kind | None] = "number"
    takes = NUMBERS

    def __init__(self, column: float | None, half_life: Duration) -> None:
        super().__init__(column, half_life)

    def result(self, partial: Fading, events: Events) -> float:
        """Returns the faded sum."""
        return self.fade(partial, events.end)


class DecayedCount(_Decayed[float]):
    """The number of events, each counting half after each half-life; 0.0 where there is none."""

    def __init__(self, half_life: Duration) -> None:
        super().__init__(None, half_life)

    def weight(self, x: object) -> float:
        """Returns one, whatever the event."""
        return 1.0

    def result(self, partial: Fading, events: Events) -> float:
        """Returns the faded count."""
        return self.fade(partial, events.end)
