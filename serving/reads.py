"""Reads of the store, timed. Requests share its connection, and none waits for another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from features.store import Group, Read, Store


class Reads:
    """Reads for requests.

    Args:
        store: that is read.
        observe: is told the seconds of each trip.
    """

    def __init__(self, store: Store, observe: Callable[[float], None]) -> None:
        self._store = store
        self._observe = observe

    async def read(self, wanted: Mapping[Group, Sequence[str]]) -> dict[Group, Read]:
        """Returns positions and values, those of a group taken in one step.

        Raises:
            StoreError: the trip failed.
        """
        began = time.perf_counter()
        try:
            return await self._store.read(wanted)
        finally:
            self._observe(time.perf_counter() - began)
