"""What the tests ask of a broker, whichever it is."""

from __future__ import annotations

from typing import Protocol


class Broker(Protocol):
    """A running broker, real or embedded."""

    @property
    def bootstrap(self) -> str:
        """The `bootstrap.servers` of clients."""
        ...

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic that can be used at once."""
        ...
