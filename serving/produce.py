"""Events and labels on their way into the log: refused here, or acknowledged by the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from features.errors import EventRefused
from features.source import Source, Tombstone
from models.project import Project
from models.topics import SENT

from .intake import Incoming, Intake
from .metrics import Metrics
from .ports import Outbox


class Produce:
    """Writes events of a project's sources.

    Args:
        project: whose sources they are.
        outbox: the way to the broker.
        metrics: of the process.
        now_ms: the wall clock.
    """

    def __init__(self, project: Project, outbox: Outbox, metrics: Metrics, now_ms: Callable[[], int]) -> None:
        self._project = project
        self._outbox = outbox
        self._metrics = metrics
        self._now_ms = now_ms

    def check(self, intake: Intake, incoming: Sequence[Incoming], batch: bool) -> None:
        """Refuses what no state can keep.

        Raises:
            Problem: 422; it names the item and the field.
        """
        for plan in self._project.plans_over(intake.source):
            for k, one in enumerate(incoming):
                if isinstance(one.event, Tombstone):
                    continue  # it has nothing to keep
                if plan.keep is None or plan.keep(one.event):
                    try:
                        plan.extract(one.event)
                    except EventRefused as refused:
                        raise intake.refusal(refused, f"[{k}]" if batch else "") from refused

    def scope(self, source: Source[Any]) -> str:
        """Returns the scope of API keys that writing to a source needs: labels decide what a model learns."""
        return "label" if self._project.labelled_by(source) else "ingest"

    async def send(self, source: Source[Any], incoming: Sequence[Incoming]) -> None:
        """Writes events and returns when the broker has all of them.

        Raises:
            OutboxUnavailable: at least one was not acknowledged; sending all of them again is safe.
            OutboxRefused: the broker will not take one of them.
        """
        headers = (
            ("content-type", b"application/json"),
            (SENT, b"%d" % self._now_ms()),
        )
        send, topic = self._outbox.send, source.topic
        await asyncio.gather(*[send(topic, *_written(source, one), one.t, None, headers) for one in incoming])
        self._metrics.accepted.labels(topic).inc(len(incoming))


def _written(source: Source[Any], one: Incoming) -> tuple[bytes | None, bytes | None]:
    """Returns key and value of an event's record."""
    if isinstance(one.event, Tombstone):
        return one.event.key, None
    return source.key_bytes(one.event), one.raw
