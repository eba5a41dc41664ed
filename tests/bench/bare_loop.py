"""The control of the worker's benchmark: consume and decode, and nothing else.

Run as `python -m tests.bench.bare_loop BOOTSTRAP EVENTS PROGRESS`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, TopicPartition

from tests.bench.activity import Payment, payments
from tests.bench.events import PARTITIONS, Progress

_BATCH = 1_000


def consume(bootstrap: str, n: int, progress: Progress) -> None:
    """Reads n events from the start of the topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-bare",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 5,  # its default of a second lets the consumer starve
            "queued.max.messages.kbytes": 65_536,
        }
    )
    decode = msgspec.json.Decoder(Payment).decode
    progress.count[0] = done = 0
    sys.stdin.readline()  # its clock starts; librdkafka would have fetched most of the log before any warm-up is over
    consumer.assign([TopicPartition(payments.topic, p, 0) for p in range(PARTITIONS)])
    while done < n:
        for message in consumer.consume(_BATCH, 1.0):
            if (error := message.error()) is not None:
                raise RuntimeError(str(error))
            decode(message.value() or b"")
            done += 1
        progress.count[0] = done
    sys.stdin.read()  # stay until the reader of our CPU time has seen the end
    consumer.close()


if __name__ == "__main__":
    consume(sys.argv[1], int(sys.argv[2]), Progress(Path(sys.argv[3])))
