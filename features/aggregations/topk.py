"""The most frequent values."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any, ClassVar, Generic, TypeVar

from ..aggregation import Aggregation, Events
from ..column import Kind
from ..errors import DefinitionError

V = TypeVar("V", bound=str)

COUNTERS = 64  # kept for each tile; a count is then at most 1/65 of the tile's events too low

Heavy = tuple[int, dict[str, int]]  # by how much a count can be too low, and the counters


class TopK(Aggregation[tuple[tuple[V, int], ...]], Generic[V]):
    """The k most frequent values with their counts, most frequent first, ties in the order of the values.

    Empty where there is no event; a missing value does not count. Exact over events that are kept one by one; over
    older ones the counters of Misra and Gries (1982), merged as Agarwal et al. (2012) show, are at most `n/65` too low.
    As inputs of a model its slots are value 1, count 1, value 2, count 2, ...
    """

    keeps: ClassVar[Kind | None] = "text"
    takes = (str,)

    def __init__(self, column: V | None, k: int) -> None:
        super().__init__(column)
        if not 1 <= k <= COUNTERS:
            raise DefinitionError(f"TopK of {k!r} values", fix=f"ask for 1 to {COUNTERS}")
        self.k = k
        self.width = 2 * k

    @property
    def kin(self) -> tuple[str, str, str | int]:
        """TopKs of one column share their counters."""
        return ("heavy", self.column.name if self.column else "", "")

    @property
    def parameter(self) -> str | int:
        """How many."""
        return self.k

    def zero(self) -> Heavy:
        """Returns no values."""
        return (0, {})

    def add(self, partial: Heavy, t: int, x: str) -> Heavy:
        """Returns one value more."""
        low, counts = partial
        return (low, {**counts, x: counts.get(x, 0) + 1})

    def merge(self, one: Heavy, other: Heavy) -> Heavy:
        """Returns both."""
        counts = dict(one[1])
        for x, n in other[1].items():
            counts[x] = counts.get(x, 0) + n
        return (one[0] + other[0], counts)

    def result(self, partial: Heavy, events: Events) -> tuple[tuple[V, int], ...]:
        """Returns the most frequent values."""
        ranked: list[Any] = sorted(partial[1].items(), key=lambda item: (-item[1], item[0]))
        return tuple(ranked[: self.k])

    def value(self, events: Events) -> tuple[tuple[V, int], ...]:
        """Returns the most frequent values, counted from whole slices."""
        partial: Heavy = (0, Counter(chain.from_iterable(events.values())))
        for part in events.partials:
            partial = self.merge(partial, part)
        return self.result(partial, events)

    def trim(self, partial: Heavy) -> Heavy:
        """Returns at most 64 counters: the 65th largest is taken from all, and what is left positive stays."""
        low, counts = partial
        if len(counts) <= COUNTERS:
            return partial
        cut = sorted(counts.values(), reverse=True)[COUNTERS]
        return (low + cut, {x: n - cut for x, n in counts.items() if n > cut})

    def freeze(self, partial: Heavy) -> tuple[int, list[tuple[str, int]]]:
        """Returns the counters in the order of their values."""
        return (partial[0], sorted(partial[1].items()))

    def thaw(self, frozen: tuple[int, list[tuple[str, int]]]) -> Heavy:
        """Returns the counters of their sorted form."""
        return (frozen[0], dict(frozen[1]))
