"""A worker fed with good and bad records, killed on the way; and what must hold of what it made."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaError, Message
from confluent_kafka import Producer as Client

from models.records import PredictionRecord, decode_record
from models.topics import dead_letter_topic
from streams.deadletter import CUT, KEPT
from streams.log import LogReader
from tests.badinput.records import MAX_BYTES, PARTITIONS, Made, Stream, project, stream
from tests.parts.broker import Broker
from tests.streams.audit import samples
from tests.streams.rig import Rig, rig
from tests.streams.shop import DAY
from tests.streams.test_end_to_end import builder

Origin = tuple[str, int, int]


class Outcome(NamedTuple):
    """What a run came to."""

    bad: int
    letters: int
    repeats: int
    good: int
    versions: int
    reasons: Counter[str]


def produced(bootstrap: str, records: Iterable[Made]) -> dict[Origin, Made]:
    """Writes records and returns the bad ones by their places."""
    bad: dict[Origin, Made] = {}
    failed: list[KafkaError] = []
    client = Client(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "enable.idempotence": True,
            "message.max.bytes": 1_048_000,
        }
    )

    def placed(made: Made) -> Callable[[KafkaError | None, Message], None]:
        def note(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)
                return
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            if made.reason is not None:
                bad[topic, partition, offset] = made

        return note

    for made in records:
        while True:
            try:
                client.produce(
                    made.topic,
                    made.value,
                    made.key,
                    made.partition,
                    timestamp=made.timestamp,
                    on_delivery=placed(made),
                )
                break
            except BufferError:
                client.poll(0.1)
        client.poll(0)
    assert client.flush(120.0) == 0
    assert failed == []
    return bad


async def lived(
    broker: Broker,
    redis: str,
    folder: Path,
    prefix: str,
    *,
    records: int,
    share: float,
    kills: int,
    seed: int,
) -> Outcome:
    """Runs so many records through a worker that is killed on the way, and checks what it left.

    Raises:
        AssertionError: a good record did not count, a bad one did, or has not one dead letter with its reason.
    """
    made = stream(prefix, records, share, seed)
    partitions = {f"{prefix}.payments.v1": PARTITIONS, f"{prefix}.verdicts.v1": PARTITIONS}
    text = builder(prefix, max_bytes=MAX_BYTES)
    async with rig(project(prefix), text, folder, broker, redis, partitions) as shop:
        bad = produced(broker.bootstrap, made.records)
        total = sum(o.highwater for t in partitions for o in shop.log.bounds(t).values())
        for kill in range(kills):
            worker = shop.start()

            async def advanced(least: int = total * (kill + 1) // (kills + 2)) -> bool:
                return await shop.folded() >= least

            await shop.until(advanced, worker)
            worker.kill()
        await shop.finish(shop.start())
        repeats, reasons = _letters(shop.log, bad, sorted({m.topic for m in bad.values()}))
        await _good(shop, made)
        return Outcome(len(bad), len(bad) + repeats, repeats, len(made.payments), len(made.verdicts), reasons)


def _letters(log: LogReader, bad: dict[Origin, Made], topics: list[str]) -> tuple[int, Counter[str]]:
    """Compares the dead letters with the bad records, by the place in their headers and nothing else."""
    found: dict[Origin, tuple[str, bytes | None, bytes | None, str | None]] = {}
    repeats = 0
    for topic in topics:
        for number, bounds in log.bounds(dead_letter_topic(topic)).items():
            for batch in log.read(dead_letter_topic(topic), number, bounds.earliest, bounds.highwater):
                for record in batch:
                    told = {name: (text or b"").decode() for name, text in record.headers}
                    origin = (
                        told["__connect.errors.topic"],
                        int(told["__connect.errors.partition"]),
                        int(told["__connect.errors.offset"]),
                    )
                    letter = (told["__connect.errors.class.name"], record.key, record.value, told.get(CUT))
                    if origin in found:
                        assert found[origin] == letter, origin  # a repeat is the same
                        repeats += 1
                    found[origin] = letter
    wrong = [
        (m.reason, found[o][0], (m.value or b"")[:200])
        for o, m in bad.items()
        if o in found and found[o][0] != m.reason
    ]
    assert wrong == [], wrong[:5]
    assert found.keys() == bad.keys()
    for origin, (_, key, value, cut) in found.items():
        sent = bad[origin]
        whole = sent.value or b""
        if cut is None:
            assert (key, value) == (sent.key, sent.value), origin
        else:
            assert len(whole) == int(cut) > 900_000, origin
            assert (key, value) == (sent.key, whole[:KEPT]), origin
    return repeats, Counter(reason for reason, *_ in found.values())


async def _good(shop: Rig, made: Stream) -> None:
    """Every good event was scored, joined and learned once, and the counts of cards are those of a plain list."""
    ids = {payment.id for payment in made.payments}
    counts: dict[str, list[object]] = {}
    place = shop.model.vector.names.index("Card.count_7d")
    for number, bounds in shop.log.bounds(shop.model.log_topic).items():
        for batch in shop.log.read(shop.model.log_topic, number, bounds.earliest, bounds.highwater):
            for record in batch:
                try:
                    entry = decode_record(record.value or b"")
                except ValueError:
                    continue
                if isinstance(entry, PredictionRecord):
                    counts.setdefault(entry.id, []).append(entry.vector[place])
    assert counts.keys() == ids
    times: dict[str, list[int]] = {}
    for payment in made.payments:  # each card's in the order of time
        before = times.setdefault(payment.card, [])
        before.append(payment.at)
        wanted = len(before) - bisect_right(before, payment.at - 7 * DAY)
        assert set(counts[payment.id]) == {wanted}, (counts[payment.id], wanted, payment)
    taken = samples(shop.log, shop.model)
    labels = {v.payment: v.fraud for v in made.verdicts}
    wrong = [s for s in taken if s.label != labels.get(s.id)]
    assert wrong == [], wrong[:3]
    missing = [v for v in made.verdicts if v.payment not in {s.id for s in taken}]
    assert missing == [], (len(missing), missing[:3], missing[-3:])
    assert len(taken) == len(made.verdicts)
    await shop.feed.poll()
    assert shop.feed.predictor("fraud").version == len(made.verdicts)
