"""What is forgotten leaves no trace in the states of its entity, whatever was cached, and touches nobody else's."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from features.errors import EventRefused
from features.forgetting import Forgetting, decode_forgetting, encode_forgetting, is_forgetting
from features.small import is_small
from features.source import key_text
from tests.features.test_group import HOUR, Log, Raw, Sale, history, raw, sale, sales


def forgetting(entity: str, key: str) -> Raw:
    return None, encode_forgetting(Forgetting(entity, key))


def forgets(chance: random.Random, records: list[Raw]) -> list[Raw]:
    """The same records, with some that forget in between."""
    found: list[Raw] = []
    for record in records:
        found.append(record)
        if chance.random() < 0.05:
            entity = chance.choice(["card", "card", "shop", "nobody"])
            found.append(forgetting(entity, f"{entity[0]}{chance.randrange(9 if entity == 'card' else 4)}"))
    return found


def never_held(records: list[Raw], entity: str, key: str) -> list[Raw]:
    """The same log without the events of an entity before it was forgotten last: somebody else had them."""
    ends = [k for k, (_, value) in enumerate(records) if value == encode_forgetting(Forgetting(entity, key))]
    found: list[Raw] = []
    for k, (name, value) in enumerate(records):
        if is_forgetting(value):
            found.append(forgetting("nobody", "x"))  # nothing is forgotten here
            continue
        try:
            event: Any = sales.decode(value or b"")
        except EventRefused:
            event = None
        if event is not None and k < max(ends, default=0) and getattr(event, entity) == key:
            event = msgspec.structs.replace(event, **{entity: "somebody else"})
            found.append((event.card.encode(), msgspec.json.encode(event)))
        else:
            found.append((name, value))
    return found


def of(log: Log, entity: str, key: str) -> dict[str, bytes]:
    """The states of an entity, by their prefixes."""
    prefixes = [
        prefix for plan, prefix in zip(log.plans, log.fold.prefixes, strict=True) if plan.entity == entity
    ]
    return {prefix: log.states()[prefix + key] for prefix in prefixes if prefix + key in log.states()}


@pytest.mark.parametrize("seed", range(12))
async def test_states_are_those_of_a_log_that_never_held_what_was_forgotten(seed: int) -> None:
    chance = random.Random(seed)
    records = forgets(chance, history(chance, 300))
    log = Log()
    log.records = records
    fold = await log.open(chance.choice([2, 100_000]))
    while fold.position.next < len(records):
        if chance.random() < 0.2:  # another owner, which knows nothing but the store
            fold = await log.open(chance.choice([2, 100_000]))
        await log.advance(chance.choice([1, 2, 7, 60]))

    remembering, others = Log(), 0
    nothing = forgetting("nobody", "x")
    await remembering.all(*(nothing if is_forgetting(record[1]) else record for record in records))
    for entity, keys in {"card": 9, "shop": 4}.items():
        for k in range(keys):
            without = Log()
            await without.all(*never_held(records, entity, f"{entity[0]}{k}"))
            assert of(log, entity, f"{entity[0]}{k}") == of(without, entity, f"{entity[0]}{k}")
            others += of(log, entity, f"{entity[0]}{k}") != of(remembering, entity, f"{entity[0]}{k}")
    assert others  # are not what they would be


async def test_a_large_state_goes_as_a_small_one_does_and_begins_anew() -> None:
    log = Log()
    many = [raw(sale(f"a{k}", k * 1000)) for k in range(700)]
    await log.all(*many, raw(sale("b", HOUR, "c2")))
    large = of(log, "card", "c1")
    assert not any(is_small(data, 1) for data in large.values())

    await log.all(forgetting("card", "c1"))
    assert of(log, "card", "c1") == {}
    assert len(of(log, "card", "c2")) == 1
    assert of(log, "shop", "s1") != {}

    after = [
        forgetting("card", "c1"),
        raw(sale("c", 2 * HOUR)),
        forgetting("card", "c1"),
        raw(sale("d", 3 * HOUR)),
    ]
    await log.all(*after)  # in one batch
    without = Log()
    start = len(many) + 2 + len(after) - 1
    without.records = [raw(sale("x", HOUR, "c2"))] * start
    fold = await without.open()
    await without.advance(start)
    without.records.append(raw(sale("d", 3 * HOUR)))
    await without.advance(1)
    assert of(log, "card", "c1") == of(without, "card", "c1")
    assert fold.counts["duplicate"] > 0


async def test_whom_nobody_knows_is_forgotten_without_a_write() -> None:
    log = Log()
    fold = await log.open()
    prepared = [fold.prepare(0, *forgetting("card", "c1")), fold.prepare(1, *forgetting("planet", "mars"))]
    await log.load(prepared)
    (batch,) = fold.fold(prepared, 2)
    assert (batch.writes.sets, list(batch.writes.deletes), batch.end.next) == ({}, [], 2)


def test_an_event_cannot_forget() -> None:
    made = sale("a", 0)
    spoilt = b'{"headrace.forget":{"entity":"card","key":"c9"},' + msgspec.json.encode(made)[1:]
    assert msgspec.json.decode(spoilt, type=Sale) == made  # to a decoder it is an event
    with pytest.raises(EventRefused, match="no event") as refused:
        sales.decode(spoilt)
    assert refused.value.reason == "forgetting"


@pytest.mark.parametrize(
    "value",
    [
        b'{"headrace.forget":',
        b'{"headrace.forget":{}}',
        b'{"headrace.forget":{"entity":"card"}}',
        b'{"headrace.forget":{"entity":"card","key":7}}',
        b'{"headrace.forget":{"entity":"card","key":"a","until":7}}',
        b'{"headrace.forget":{"entity":"card","key":"a"},"id":"x"}',
        b'{"headrace.forget":{"entity":"card","key":"\xff"}}',
    ],
)
async def test_a_record_that_only_begins_like_one_is_a_dead_letter(value: bytes) -> None:
    log = Log()
    await log.all(raw(sale("a", 0)))
    before = log.states()
    await log.all((b"c1", value))
    assert log.fold.counts == {"undecodable": 1}
    assert log.states() == before


def test_keys_come_back_as_they_were() -> None:
    for key in ("c1", "", 'a"b\\c', "ü|x", key_text(("a|b", 7))):
        assert decode_forgetting(encode_forgetting(Forgetting("card", key))) == Forgetting("card", key)
