"""The peer of the worker's benchmark: stock Faust, in its best idiom for twelve aggregates.

Run as `python -m tests.bench.faust_table BOOTSTRAP APP PROGRESS`.

One table with one packed record a key, so that an event costs one read and one write of a table instead of twelve.
The windows are tumbling, kept in the record: that is what a table can keep in one value. The decoder is ours
(msgspec, on raw bytes), which is faster than Faust's models.

What is set beyond the defaults, as Faust's own reference advises for speed: uvloop, `cython_optimizations`, the
in-memory store. The changelog is as it comes: without it a table does not survive a restart.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mode import loop as event_loop

from tests.bench.activity import Payment, payments
from tests.bench.events import PARTITIONS, Progress

_RECORD = struct.Struct("<" + "qqdd" * 3)  # a window: its number, count, sum, largest
_WINDOWS = (60_000, 3_600_000, 86_400_000)
_EMPTY = _RECORD.pack(*(-1, 0, 0.0, 0.0) * 3)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def updated(record: bytes, t: int, amount: float) -> bytes:
    """Returns the record with one more event; the mean is the quotient of two of its numbers.

    >>> _RECORD.unpack(updated(updated(_EMPTY, 60_000, 2.0), 60_001, 3.0))[:4]
    (1, 2, 5.0, 3.0)
    """
    values: list[Any] = []
    old = _RECORD.unpack(record)
    for k, width in enumerate(_WINDOWS):
        window, count, total, largest = old[4 * k : 4 * k + 4]
        if t // width == window:
            values += (window, count + 1, total + amount, amount if amount > largest else largest)
        else:
            values += (t // width, 1, amount, amount)
    return _RECORD.pack(*values)


def _app(bootstrap: str, name: str, progress: Progress) -> Any:
    import faust
    import msgspec

    app = faust.App(
        name,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        autodiscover=False,
        cython_optimizations=True,
        topic_partitions=PARTITIONS,
        topic_replication_factor=1,
        topic_disable_leader=True,
        web_enabled=False,
    )
    source = app.topic(payments.topic, key_type=bytes, value_type=bytes, value_serializer="raw")
    table = app.Table(
        "activity",
        key_type=bytes,
        value_type=bytes,
        partitions=PARTITIONS,
        default=lambda: _EMPTY,
    )
    decode = msgspec.json.Decoder(Payment).decode

    async def fold(stream: Any) -> None:
        count, done = progress.count, 0
        async for value in stream:
            event = decode(value)
            key = event.card.encode()
            table[key] = updated(table[key], (event.at - _EPOCH) // _MILLISECOND, event.amount)
            done += 1
            count[0] = done

    app.agent(source)(fold)
    return app


async def _run(bootstrap: str, name: str, progress: Progress) -> None:
    app = _app(bootstrap, name, progress)
    async with app:
        await asyncio.get_running_loop().create_future()  # until the signal to end


if __name__ == "__main__":
    arguments, sys.argv = sys.argv, sys.argv[:1]  # Faust looks there for options of its own
    event_loop.use("uvloop")  # what `faust -L uvloop` does
    asyncio.run(_run(arguments[1], arguments[2], Progress(Path(arguments[3]))))
