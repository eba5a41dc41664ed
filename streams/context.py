"""What the stages of a worker share."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from features.errors import StoreUnavailable
from features.store import Store
from models.deployment import Deployment
from models.predictor import Predictor
from models.snapshot import Key

from .errors import BrokerUnreachable, DeliveryFailed
from .log import Partition
from .metrics import Metrics
from .producer import Outgoing

log = logging.getLogger("headrace.worker")

T = TypeVar("T")


class Outputs(Protocol):
    """Where a stage sends what it makes; returns when every record is acknowledged."""

    async def send(self, batch: Sequence[Outgoing]) -> None:
        """Sends a batch."""
        ...


class Recall(Protocol):
    """What looks up records that have been read before."""

    async def values(
        self, partition: Partition, offsets: Sequence[int], in_order: bool
    ) -> Mapping[int, bytes]:
        """Returns the values of records by offset.

        Args:
            partition: of the log.
            offsets: which records.
            in_order: whether they lie behind those of the last call that said so.

        Raises:
            BrokerUnreachable: nobody answered in time.
            PredictionGone: the log no longer holds one of them.
        """
        ...

    async def forget(self, partition: Partition) -> None:
        """Lets go of what is open for a partition."""
        ...


class Feed(Protocol):
    """Where the newest version of each model comes from."""

    def predictor(self, name: str) -> Predictor:
        """Returns the newest version of a model."""
        ...


@dataclass
class Context:
    """One process's view of a deployment."""

    deployment: Deployment
    store: Store
    outputs: Outputs
    feed: Feed
    key: Key
    allow: tuple[str, ...]  # modules whose classes a snapshot may hold, besides River's
    now_ms: Callable[[], int]
    metrics: Metrics
    recall: Recall | None = None  # for joins whose vectors wait in the log
    hold: float = 30.0  # seconds that a request may wait for the sources it reads, while these catch up
    stall: float = (
        10.0  # seconds that a partition may stand still while its log grows; then it is claimed again
    )
    cache: int = 100_000  # decoded states for each partition
    pending: int = 20_000  # requests of a partition that may wait to be scored
    monotonic: Callable[[], float] = time.monotonic  # seconds, for waits
    token: bytes = field(default_factory=lambda: os.urandom(16))
    counts: Counter[str] = field(default_factory=Counter)
    fresh: deque[float] = field(
        default_factory=lambda: deque(maxlen=4096)
    )  # newest freshnesses, in milliseconds

    async def patiently(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Does something until the other side is there: a worker without its store or broker pauses."""
        pause, told = 0.05, False
        while True:
            try:
                return await attempt()
            except (StoreUnavailable, DeliveryFailed, BrokerUnreachable) as error:
                if not told:
                    log.warning("paused: cannot %s: %s", what, error)
                    told = True
                self.metrics.pauses.labels(what.partition(" ")[0]).inc()
                await asyncio.sleep(pause)
                pause = min(2.0, 2 * pause)

    async def send(self, batch: Sequence[Outgoing]) -> None:
        """Sends outputs until they are acknowledged. A repeat is dropped by its receiver.

        An event's own time is in its value. A broker refuses records of the future, and of times before 1970.
        """
        if batch:
            now = self.now_ms()
            timed = [
                out
                if 0 <= out.timestamp_ms <= now
                else out._replace(timestamp_ms=min(max(0, out.timestamp_ms), now))
                for out in batch
            ]
            await self.patiently("send outputs", lambda: self.outputs.send(timed))

    def partitions(self, topic: str) -> int:
        """Returns how many partitions a topic has."""
        return len(self.deployment.groups[topic])


Codes = Mapping[str, str]
