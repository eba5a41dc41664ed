"""What the API needs of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Headers = Sequence[tuple[str, bytes]]


class Outbox(Protocol):
    """The way to the broker."""

    @property
    def lost(self) -> int:
        """How many offered records were not written."""
        ...

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        time_ms: int,
        partition: int | None = None,
        headers: Headers = (),
    ) -> bool:
        """Writes a record some time, without waiting; returns whether there was room. Losses are counted."""
        ...

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        time_ms: int,
        partition: int | None = None,
        headers: Headers = (),
    ) -> None:
        """Writes a record and returns when the broker has it. Calls that begin in an order write in it.

        Raises:
            OutboxUnavailable: it was not acknowledged.
            OutboxRefused: it never will be.
        """
        ...
