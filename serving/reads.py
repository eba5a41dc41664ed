"""Reads of the store: requests that wait at the same time share a trip.

A request alone makes one trip. While trips are on their way, those that come share the next: a trip costs
more of this process's time than the features that it fetches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from features.store import Group, Read, Store

Wanted: TypeAlias = Mapping[Group, Sequence[str]]
Found: TypeAlias = dict[Group, Read]


class Reads:
    """Reads for many requests.

    Args:
        store: that is read.
        trips: how many may be on their way at a time.
        observe: is told the seconds of each trip.
    """

    def __init__(self, store: Store, trips: int, observe: Callable[[float], None]) -> None:
        self._store = store
        self._trips = trips
        self._observe = observe
        self._flying = 0
        self._waiting: list[tuple[Wanted, asyncio.Future[Found]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, wanted: Wanted) -> Found:
        """Returns positions and values, those of a group taken in one step.

        Raises:
            StoreError: the trip failed.
        """
        if self._flying < self._trips:
            return await self._trip(wanted)
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        return await future

    async def _trip(self, wanted: Wanted) -> Found:
        self._flying += 1
        began = time.perf_counter()
        try:
            return await self._store.read(wanted)
        finally:
            self._observe(time.perf_counter() - began)
            self._flying -= 1
            self._next()

    def _next(self) -> None:
        # a task of its own: whoever came first may be cancelled, the others still want their answer
        if self._waiting and self._flying < self._trips:
            waiting, self._waiting = self._waiting, []
            task = asyncio.get_running_loop().create_task(self._shared(waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _shared(self, waiting: Sequence[tuple[Wanted, asyncio.Future[Found]]]) -> None:
        if len(waiting) == 1:
            wanted: Wanted = waiting[0][0]
        else:
            union: dict[Group, dict[str, None]] = {}
            for one, _ in waiting:
                for group, names in one.items():
                    union.setdefault(group, {}).update(dict.fromkeys(names))
            wanted = {group: list(names) for group, names in union.items()}
        try:
            found = await self._trip(wanted)
        except Exception as error:  # noqa: BLE001 - it is raised by everyone who waits
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        values = {
            group: dict(zip(names, found[group].values, strict=True)) for group, names in wanted.items()
        }
        for one, future in waiting:
            if not future.done():
                future.set_result(
                    {
                        group: Read(found[group].position, [values[group][name] for name in names])
                        for group, names in one.items()
                    }
                )
