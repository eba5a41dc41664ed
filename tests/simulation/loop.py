"""An event loop in which nothing happens by itself."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any


class NothingLeft(Exception):
    """Everybody waits, and nothing can happen any more."""


class _Deaf(selectors.BaseSelector):
    """Takes whatever is registered and never hears of it."""

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._keys[fileobj] = key = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Runs what is ready; when nothing is, asks what happens next.

    Args:
        decide: makes one thing happen, and returns whether it found any.
    """

    def __init__(self, decide: Callable[[], bool]) -> None:
        super().__init__(_Deaf())
        self._decide = decide
        self._now = 0.0
        self._ready: Any  # asyncio's
        self._scheduled: list[Any]  # asyncio's

    def time(self) -> float:
        return self._now

    @property
    def planned(self) -> bool:
        """Whether somebody waits for a moment."""
        return bool(self._scheduled)

    def pass_time(self) -> bool:
        """Goes to the next moment for which something is planned; returns whether there is one."""
        planned = [timer for timer in self._scheduled if not timer.cancelled()]
        if not planned:
            self._scheduled.clear()
            return False
        self._now = max(self._now, min(timer.when() for timer in planned))
        due = [timer for timer in planned if timer.when() <= self._now]
        self._scheduled[:] = [timer for timer in planned if timer.when() > self._now]
        self._ready.extend(sorted(due, key=lambda timer: float(timer.when())))
        return True

    def _run_once(self) -> None:
        ready = self._ready
        while not ready:
            if not self._decide() and not self.pass_time():
                raise NothingLeft
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
