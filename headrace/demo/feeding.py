"""Feeding the demo: the town's events as the project's, at their time, to Kafka and a few to the API as well."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson

from features.clock import from_ms
from models import Project
from streams.producer import Outgoing, Producer

from ..producing import record
from .asking import Caller
from .generator import Payment, Verdict
from .timeline import Timeline

_BEAT = (
    0.1  # seconds between two looks at what is due: the embedded broker gives a reader one batch at a time
)
ASKED = 25  # every so many payments the API is asked as well


class Feeder:
    """Sends what is due.

    Args:
        project: the payments project.
        town: its events.
        timeline: when they are due.
        producer: the way to Kafka.
        caller: the way to the API.
    """

    def __init__(
        self,
        project: Project,
        town: Iterator[Payment | Verdict],
        timeline: Timeline,
        producer: Producer,
        caller: Caller,
    ) -> None:
        self._payments = project.source("transactions")
        self._verdicts = project.source("chargebacks")
        self._town = town
        self._timeline = timeline
        self._producer = producer
        self._caller = caller
        self.sent: Counter[str] = Counter()
        """Acknowledged events, by topic."""
        self.newest = timeline.start
        """Event time of the newest of them."""
        self.held = True
        """Whether time stands still, since the worker is not there yet or has too much before it."""

    async def run(self, stop: asyncio.Event) -> None:
        """Sends events until it is told to stop.

        Raises:
            StreamsError: Kafka does not take them.
        """
        elapsed, then = 0.0, time.monotonic()
        upcoming = next(self._town)
        while not stop.is_set():
            await _pause(stop, _BEAT)
            before, then = then, time.monotonic()
            if self.held:
                continue
            elapsed += then - before
            due = self._timeline.inner(elapsed)
            now = time.time_ns() // 1_000_000
            batch: list[Outgoing] = []
            while upcoming.t <= due:
                batch.append(self._outgoing(upcoming, now))
                upcoming = next(self._town)
            await self._producer.send(batch)
            self.sent.update(outgoing.topic for outgoing in batch)
            if batch:
                self.newest = batch[-1].timestamp_ms

    def _outgoing(self, event: Payment | Verdict, now: int) -> Outgoing:
        t = self._timeline.stamp(event.t)
        if isinstance(event, Verdict):
            value = verdict(event.payment, event.fraud, t)
            return record(self._verdicts, value, now, t=t)
        value = payment(event.id, event.card, event.terminal, event.amount, t)
        if int(event.id[1:]) % ASKED == 0:
            self._caller.ask(value)
        return record(self._payments, value, now, t=t)


def payment(id: str, card: str, terminal: str, amount: float, t: int) -> bytes:
    """Returns a payment as the project declares it."""
    return _json({"id": id, "card": card, "terminal": terminal, "amount": amount, "at": from_ms(t)})


def verdict(transaction: str, fraud: bool, t: int) -> bytes:
    """Returns what became known of a payment, as the project declares it."""
    return _json({"transaction": transaction, "fraud": fraud, "at": from_ms(t)})


def _json(fields: dict[str, Any]) -> bytes:
    return orjson.dumps(fields, option=orjson.OPT_UTC_Z)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
