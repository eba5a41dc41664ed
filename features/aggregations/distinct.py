"""How many different values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from ..aggregation import Aggregation, Events
from ..column import Kind

CAPACITY = 512

Sample = tuple[int, dict[int, int]]  # level, and the newest time of each kept hash


class Distinct(Aggregation[int]):
    """The number of different values; 0 where there is none, and missing values do not count.

    Exact over events that are kept one by one. Values only seen in older events are counted by a sample of hashes: at
    level k the state keeps those below 2^(64-k), each with the last time it was seen, and every one stands for 2^k. The
    level rises when more than 512 are kept, so the standard error is about 1/sqrt(512) = 4 %.
    """

    keeps: ClassVar[Kind | None] = "hash"
    home = "base"

    def zero(self) -> Sample:
        """Returns no values."""
        return (0, {})

    def add(self, partial: Sample, t: int, x: int) -> Sample:
        """Returns one value more."""
        return self.merge(partial, (0, {x: t}))

    def merge(self, one: Sample, other: Sample) -> Sample:
        """Returns both: the later time of each hash, at the level that both can answer."""
        seen = dict(one[1])
        for x, t in other[1].items():
            if seen.get(x, t) <= t:
                seen[x] = t
        return _sampled(max(one[0], other[0]), seen)

    def result(self, partial: Sample, events: Events) -> int:
        """Returns the estimate for the values last seen inside the window."""
        level, seen = partial
        inside = sum(1 for t in seen.values() if events.start < t <= events.end)
        return inside << level

    def value(self, events: Events) -> int:
        """Returns exact values counted, and sampled ones that are not among them scaled up."""
        slices = events.values()
        exact = set(slices[0]) if len(slices) == 1 else set().union(*slices)
        if not events.partials:
            return len(exact)
        older: Sample = (0, {})
        for part in events.partials:
            older = self.merge(older, part)
        level, seen = older
        others = sum(1 for x, t in seen.items() if events.start < t <= events.end and x not in exact)
        return len(exact) + (others << level)

    def of_values(self) -> Callable[[Sequence[int]], int]:
        """Returns the number of different ones."""
        return lambda xs: len(set(xs))

    def expire(self, partial: Sample, before: int) -> Sample:
        """Returns the sample without values last seen at or before a time."""
        return (partial[0], {x: t for x, t in partial[1].items() if t > before})

    def freeze(self, partial: Sample) -> tuple[int, list[tuple[int, int]]]:
        """Returns the sample in the order of its hashes."""
        return (partial[0], sorted(partial[1].items()))

    def thaw(self, frozen: tuple[int, list[tuple[int, int]]]) -> Sample:
        """Returns the sample of its sorted form."""
        return (frozen[0], dict(frozen[1]))


def _sampled(level: int, seen: dict[int, int]) -> Sample:
    """Returns what is kept at a level, which rises until it fits."""
    seen = {x: t for x, t in seen.items() if not x >> (64 - level)} if level else seen
    while len(seen) > CAPACITY:
        level += 1
        seen = {x: t for x, t in seen.items() if not x >> (64 - level)}
    return (level, seen)
