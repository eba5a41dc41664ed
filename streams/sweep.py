"""Removing the states of entities that nothing can see any more.

An expired state reads as none, so when it goes is nobody's business: once a day of event time the keys of a group are
walked through, a few hundred with each commit, and what has expired is deleted by the commit itself.
"""

from __future__ import annotations

from features.clock import MILLISECONDS, NEVER
from features.group import FoldGroup
from features.small import newest_of
from features.state import HEAD
from features.store import Group

from .context import Context


class Sweep:
    """The walk through the keys of one group."""

    def __init__(
        self, context: Context, group: Group, fold: FoldGroup, every: int = MILLISECONDS["d"]
    ) -> None:
        self._context = context
        self._group = group
        self._fold = fold
        self._every = every
        self._cursor = 0
        self._began = NEVER

    def due(self, clock: int) -> bool:
        """Whether a walk is going on, or a new one should begin."""
        if self._cursor == 0 and clock != NEVER and clock >= self._began + self._every and self._fold.plans:
            self._began = clock
            return True
        return self._cursor != 0

    async def step(self) -> list[str]:
        """Returns some keys that can be deleted with the next commit."""
        store = self._context.store
        self._cursor, names = await self._context.patiently(
            "scan keys", lambda: store.scan(self._group.tag, self._cursor)
        )
        states = [name for name in names if name[: name.find(".") + 1] in self._fold.prefixes]
        heads = await self._context.patiently("read states", lambda: store.heads(states, HEAD.size))
        known = [
            (name, newest_of(head)) for name, head in zip(states, heads, strict=True) if head is not None
        ]
        return self._fold.removable(known)
