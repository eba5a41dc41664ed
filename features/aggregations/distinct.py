"""How many different values."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, compress
from typing import Any, ClassVar

from ..aggregation import Aggregation, Events
from ..column import Kind

CAPACITY = 512

_TO_DIGITS, _TO_FLAGS = bytes.maketrans(b"\x00\x01", b"01"), bytes.maketrans(b"01", b"\x00\x01")

Sample = tuple[int, dict[int, int]]  # level, and the newest time of each kept hash


class Distinct(Aggregation[int]):
    """The number of different values; 0 where there is none, and missing values do not count.

    Exact over events that are kept one by one. Values only seen in older events are counted by a sample of hashes: at
    level k the state keeps those below 2^(64-k), each with the last time it was seen, and every one stands for 2^k. The
    level rises when more than 512 are kept, so the standard error is about 1/sqrt(512) = 4 %.

    A last time cannot tell what a delayed window saw. For those each tile has a sample of its own, and all tiles of a
    state share the 512: the level of the fullest tile rises until they keep no more different hashes together. A count
    is exact while all tiles in the window have level 0. Beyond, its standard error is about 1/sqrt(m) for the m hashes
    that they keep at the highest of their levels. A value counts to the tile's newest event, so what lies in a tile cut
    by the window's edge may be on the wrong side of it; the bound of the read says how many events that are.
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

    def trim_cells(self, partials: Sequence[Sample], ends: Sequence[int]) -> Sequence[Sample]:
        """Returns samples that keep at most 512 different hashes together, each seen at the end of its tile."""
        if len(set().union(*[seen for _, seen in partials])) > CAPACITY:
            partials = _shared(partials)
        return [
            # most are as they were left last time
            partial if set(partial[1].values()) <= {end} else (partial[0], dict.fromkeys(partial[1], end))
            for partial, end in zip(partials, ends, strict=True)
        ]

    def freeze_cells(self, partials: Sequence[Sample]) -> Any:
        """Returns all hashes once, in order, and for each sample its level and a bit for each of them."""
        hashes = sorted(set().union(*(seen for _, seen in partials)))
        size = (len(hashes) + 7) // 8
        bits = [
            int(b"0" + bytes(map(seen.__contains__, hashes)).translate(_TO_DIGITS), 2).to_bytes(size, "big")
            for _, seen in partials
        ]
        return [array("Q", hashes).tobytes(), [level for level, _ in partials], bits]

    def thaw_cells(self, frozen: Any, ends: Sequence[int]) -> Sequence[Sample]:
        """Returns the samples."""
        hashes, levels, bits = array("Q", frozen[0]), frozen[1], frozen[2]
        width = len(hashes)
        return [
            (level, dict.fromkeys(compress(hashes, _flags(row, width)), end))
            for level, row, end in zip(levels, bits, ends, strict=True)
        ]

    def freeze(self, partial: Sample) -> tuple[int, list[tuple[int, int]]]:
        """Returns the sample in the order of its hashes."""
        return (partial[0], sorted(partial[1].items()))

    def thaw(self, frozen: tuple[int, list[tuple[int, int]]]) -> Sample:
        """Returns the sample of its sorted form."""
        return (frozen[0], dict(frozen[1]))


def _shared(partials: Sequence[Sample]) -> list[Sample]:
    """Returns samples that keep at most 512 different hashes together: the fullest one's level rises until they fit."""
    levels = [level for level, _ in partials]
    kept = [dict(seen) for _, seen in partials]
    holders = Counter(chain.from_iterable(kept))
    while len(holders) > CAPACITY:
        k = max(range(len(kept)), key=lambda k: len(kept[k]))  # the oldest of those that are equally full
        levels[k] += 1
        for x in [x for x in kept[k] if x >> (64 - levels[k])]:
            del kept[k][x]
            holders[x] -= 1
            if not holders[x]:
                del holders[x]
    return list(zip(levels, kept, strict=True))


def _flags(row: bytes, width: int) -> bytes:
    return f"{int.from_bytes(row, 'big'):0{width}b}".encode().translate(_TO_FLAGS)


def _sampled(level: int, seen: dict[int, int]) -> Sample:
    """Returns what is kept at a level, which rises until it fits."""
    seen = {x: t for x, t in seen.items() if not x >> (64 - level)} if level else seen
    while len(seen) > CAPACITY:
        level += 1
        seen = {x: t for x, t in seen.items() if not x >> (64 - level)}
    return (level, seen)
