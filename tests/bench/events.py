"""The events of the worker's benchmark, the same for every side, and how far a side has come with them."""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Producer

from features.clock import from_ms

KEYS = 50_000
PARTITIONS = 4
_STEP_MS = 100  # between two events: a day of event time has 864,000 of them
_FIRST_MS = 1_790_000_000_000


def events(n: int, seed: int = 1) -> Iterator[tuple[bytes, bytes, int]]:
    """Gives key, value and time of n payments in the order of their times, the keys drawn evenly.

    Evenly drawn keys are the hard case: hardly any two events of a poll share a state.
    """
    draw = random.Random(seed)
    for k in range(n):
        t = _FIRST_MS + k * _STEP_MS
        card = f"card-{draw.randrange(KEYS)}"
        amount = round(draw.lognormvariate(3.0, 1.0), 2)
        moment = from_ms(t).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        value = f'{{"id":"payment-{k}","card":"{card}","amount":{amount},"at":"{moment}"}}'
        yield card.encode(), value.encode(), t


def produce(bootstrap: str, topic: str, n: int) -> None:
    """Writes the events and returns when the broker has them.

    Raises:
        RuntimeError: It has not taken them all.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "enable.idempotence": True,
            "linger.ms": 50,
            "batch.size": 262_144,
            "log_level": 3,  # the coordinator of a young broker is still loading: no news
        }
    )
    for key, value, t in events(n):
        while True:
            try:
                producer.produce(topic, value, key, timestamp=t)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if left := producer.flush(120.0):
        raise RuntimeError(f"{left} of {n} events were not acknowledged")


class Progress:
    """A counter that another process can read, at the price of one store in memory; -1 until it is ready to begin."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(b"\xff" * 8)
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), 8)
        self.count = memoryview(self._memory).cast("q")

    def __call__(self) -> int:
        """How far the other process has come."""
        return self.count[0]
