"""Which partitions stand still while their logs grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .log import Partition


class Stand(NamedTuple):
    """Where a partition stands."""

    positions: tuple[int, ...]  # of everybody who moves with it
    end: int  # of its log


class Stall(NamedTuple):
    """A partition that stands still."""

    partition: Partition
    stand: Stand
    seconds: float  # for how long


class Stalls:
    """Tells what stands still from what has nothing to do.

    Args:
        patience: seconds for which a partition may stand short of the end of its log.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: dict[Partition, tuple[tuple[int, ...], float]] = {}

    def look(self, now: float, stands: Mapping[Partition, Stand]) -> list[Stall]:
        """Compares where partitions stand with where they stood; returns those for which patience is over.

        Each is given as much patience again once it was told.

        Args:
            now: monotonic seconds.
            stands: where they stand; partitions left out are excused, and begin anew when they return.
        """
        since, stalled = {}, []
        for partition, stand in stands.items():
            if min(stand.positions) >= stand.end:
                continue
            positions, began = self._since.get(partition, ((), now))
            if positions != stand.positions:
                began = now
            if now - began >= self._patience:
                stalled.append(Stall(partition, stand, now - began))
                began = now
            since[partition] = stand.positions, began
        self._since = since
        return stalled
