"""Latencies of the last minute, as percentiles, at a cost that does not depend on the load."""

from __future__ import annotations

from math import log2

_SLOTS = 60
_STEPS = 16  # bins an octave: a percentile is known to 4.5 %
_BINS = 32 * _STEPS  # from 1 us to over an hour


class LastMinute:
    """Counts latencies in bins, a second at a time.

    >>> recent = LastMinute()
    >>> for ms in (1, 1, 1, 9):
    ...     recent.add(100.0, ms / 1000)
    >>> round(recent.percentile(101.0, 0.5) * 1000, 1), recent.count(101.0), recent.count(200.0)
    (1.0, 4, 0)
    """

    def __init__(self) -> None:
        self._seconds = [-1] * _SLOTS
        self._bins: list[dict[int, int]] = [{} for _ in range(_SLOTS)]

    def add(self, now: float, seconds: float) -> None:
        """Counts one latency at a time of a monotonic clock."""
        second = int(now)
        slot = second % _SLOTS
        if self._seconds[slot] != second:
            self._seconds[slot] = second
            self._bins[slot] = {}
        index = min(_BINS, int(log2(seconds * 1e6) * _STEPS)) if seconds > 1e-6 else 0
        counts = self._bins[slot]
        counts[index] = counts.get(index, 0) + 1

    def percentile(self, now: float, share: float) -> float | None:
        """Returns the latency, in seconds, that a share of the last minute's did not exceed; None of none."""
        total = self._total(now)
        rank = share * sum(total.values())
        seen = 0
        for index in sorted(total):
            seen += total[index]
            if seen >= rank:
                return float(2 ** ((index + 0.5) / _STEPS)) / 1e6
        return None

    def count(self, now: float) -> int:
        """Returns how many there were in the last minute."""
        return sum(self._total(now).values())

    def _total(self, now: float) -> dict[int, int]:
        oldest = int(now) - _SLOTS
        total: dict[int, int] = {}
        for second, counts in zip(self._seconds, self._bins, strict=True):
            if oldest < second <= now:
                for index, n in counts.items():
                    total[index] = total.get(index, 0) + n
        return total
