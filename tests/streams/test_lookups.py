"""A table that is looked up: tombstones through the whole loop, and what a compacted log still tells."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from redis.asyncio import Redis
from river.anomaly import HalfSpaceTrees

from features import Count, DefinitionError, Entity, FeatureView, Source
from features.source import Tombstone
from headrace.logs import Opened
from headrace.replaying import replay_logged
from headrace.verifying import verify
from models import Label, ModelSpec
from models.project import Project
from models.scorer import Request, decode_reads
from streams.log import Partition, Record
from streams.recompute import Recompute
from streams.replay import Replay, Stream, merged
from tests.parts.broker import Broker
from tests.parts.kafka import KafkaServer
from tests.streams.audit import audit, clean
from tests.streams.memory_log import Crash, Danger, House
from tests.streams.rig import WAIT, Rig, rig
from tests.streams.shop import HOUR, START
from tests.streams.tables import Holder, Payment, Town, build, expected, sent, town


class Visit(Struct, frozen=True):
    card: str
    at: int


payments = Source("places.payments.v1", Payment, id=Payment.id, time=Payment.at, key=Payment.card)
visits = Source("places.visits.v1", Visit, time=Visit.at, key=Visit.card)


def differing(happened: Town, vectors: dict[str, list[Any]]) -> list[str]:
    """The payments whose vector is not the one that the lists give."""
    return [p.id for p in happened.payments if vectors.get(p.id) != expected(happened, p)]


def logged(findings: Any) -> dict[str, list[Any]]:
    return {made.id: list(made.vector) for made in findings.predictions}


def replayed(project: Project, happened: Town) -> dict[str, list[Any]]:
    replay = Replay(project)
    payments, _, holders = project.sources
    table = [
        Tombstone(card.encode(), t)
        if values is None
        else msgspec.json.encode({"card": card, "at": t, **values})
        for card, t, values in happened.holders
    ]
    streams = [Stream(payments, [msgspec.json.encode(p) for p in happened.payments]), Stream(holders, table)]
    vectors = {}
    for source, prepared, value in merged(replay, streams):
        for scoring in replay.prepared(source, prepared, value):
            vectors[scoring.prediction.id] = list(scoring.prediction.vector)
    assert not [what for what in replay.counts if what.startswith("dead_letter")]
    return vectors


@pytest.mark.parametrize("seed", range(3))
async def test_requests_look_up_what_stood_there_at_their_time(seed: int) -> None:
    house, happened = House(build("tables")), town(300, seed)
    await house.log.send(sent(house.project, happened))

    worker = await house.worker(random.Random(seed))
    await worker.end()

    findings = audit(await house.deployment(), house.project.models[0], house.log)
    assert clean(findings, 300)
    assert differing(happened, logged(findings)) == []
    assert differing(happened, replayed(house.project, happened)) == []
    assert house.letters() == []
    cleared = [made for made in findings.predictions if "unknown:Home" in made.flags]
    assert cleared
    assert all(made.vector[2:] == [None, None, False] for made in cleared)


@pytest.mark.parametrize("seed", range(3))
async def test_a_worker_that_is_killed_anywhere_gives_the_same(seed: int) -> None:
    house, happened, chance = House(build("tables")), town(150, seed), random.Random(seed)
    await house.log.send(sent(house.project, happened))
    danger = Danger(chance, 0.01)
    for _ in range(400):
        try:
            worker = await house.worker(chance, danger=danger)
            await worker.end()
            break
        except Crash:
            continue
    findings = audit(await house.deployment(), house.project.models[0], house.log)

    assert danger.crashes
    assert clean(findings, 150)
    assert differing(happened, logged(findings)) == []


def compact(house: House, chance: random.Random, share: float) -> int:
    """Takes records of the table that a later one of their key replaces, as Kafka may at any time."""
    taken = 0
    for partition, log in house.log.records.items():
        if not partition.topic.endswith(".holders.v1"):
            continue
        newest = {record.key: record.offset for record in log if record is not None}
        for offset, record in enumerate(log):
            if record is not None and newest[record.key] != offset and chance.random() < share:
                log[offset] = None
                taken += 1
    return taken


async def opened(house: House) -> Opened:
    return Opened(house.log, await house.deployment(), {}, {})


async def test_what_compaction_took_is_not_checkable_and_never_different() -> None:
    chance = random.Random(5)
    house, happened = House(build("tables")), town(300, 5)
    await house.log.send(sent(house.project, happened))
    await (await house.worker(chance)).end()
    model = house.project.models[0]
    assert verify(await opened(house), model).equal == 300

    assert compact(house, chance, 0.5) > 50
    verdict = verify(await opened(house), model)

    reason = "records that tables.holders.v1 held then were compacted away"
    assert verdict.different == 0
    assert set(verdict.unchecked) == {reason}
    assert verdict.equal > 100
    rows = replay_logged(await opened(house), model, None)
    assert (rows.rows, rows.unchecked[reason]) == (verdict.equal, verdict.unchecked[reason])


async def test_one_record_that_was_compacted_away_just_before_a_position_is_missed() -> None:
    house, happened = House(build("tables")), town(120, 8)
    await house.log.send(sent(house.project, happened))
    await (await house.worker(random.Random(8))).end()
    model, deployment, tried = house.project.models[0], await house.deployment(), 0
    for made in audit(deployment, model, house.log).predictions:
        card = msgspec.json.decode(made.event, type=Payment).card
        number = deployment.home(house.project.sources[2], Holder(card, "", None, False, START))
        log = house.log.records[Partition("tables.holders.v1", number)]
        at = made.as_of[f"tables.holders.v1/{number}"] - 1
        gone = log[at] if at >= 0 else None
        if gone is None or gone.key != card.encode():
            continue
        log[at] = None
        (found,) = Recompute(deployment, model, house.log).vectors(iter([made]))
        assert found.cut == {"tables.holders.v1"}
        log[at], tried = gone, tried + 1
        (found,) = Recompute(deployment, model, house.log).vectors(iter([made]))
        assert found.cut == set()
    assert tried > 3


async def test_compaction_hides_no_difference_in_what_it_did_not_touch() -> None:
    chance = random.Random(6)
    house, happened = House(build("tables")), town(100, 6)
    await house.log.send(sent(house.project, happened))
    await (await house.worker(chance)).end()
    model = house.project.models[0]
    compact(house, chance, 1.0)
    (log,) = [log for partition, log in house.log.records.items() if partition.topic == model.log_topic]
    for offset, record in enumerate(log):
        if record is not None and b'"prediction"' in (record.value or b""):
            made = msgspec.json.decode(record.value or b"")
            made["vector"][1] += 1  # the count of the payments of a card
            log[offset] = record._replace(value=msgspec.json.encode(made))

    verdict = verify(await opened(house), model)

    assert verdict.different == 100
    assert {difference.what for difference in verdict.differences} == {"Card.count_1d"}


async def test_folded_again_from_a_compacted_log_a_table_holds_the_same() -> None:
    chance = random.Random(7)
    house, happened = House(build("tables")), town(300, 7)
    await house.log.send(sent(house.project, happened))
    await (await house.worker(chance)).end()
    assert compact(house, chance, 0.7) > 50

    again = House(house.project)
    again.log.records = {p: [*log] for p, log in house.log.records.items() if "holders" in p.topic} | {
        p: log for p, log in again.log.records.items() if "holders" not in p.topic
    }
    late = [Payment(f"late{k}", f"c{k}", "CH", 1.0, happened.payments[-1].at + HOUR) for k in range(8)]
    after = Town([*happened.payments, *late], happened.holders)
    for one in (house, again):
        await one.log.send(sent(one.project, Town(late, [])))
        await (await one.worker(chance)).end()

    for one in (house, again):
        found = logged(audit(await one.deployment(), one.project.models[0], one.log))
        assert [found[p.id][2:] for p in late] == [expected(after, p)[2:] for p in late]


async def looked_up(shop: Rig, payment: Payment) -> list[Any]:
    """The vector that the API would give now."""
    source = shop.project.sources[0]
    request = Request(payment, payment.at, shop.deployment.home(source, payment))
    scorer = shop.deployment.scorers["fraud"]
    places = [scorer.places(request)]
    wanted = scorer.reads(places)
    states, _ = decode_reads(places, wanted, await shop.store.read(wanted))
    return list(scorer.assemble(request, places[0], states).vector)


def builder(prefix: str) -> str:
    return f"from tests.streams.tables import build\n\nproject = build({prefix!r})\n"


@pytest.mark.parametrize("broker", ["embedded_kafka", "kafka"])
async def test_tombstones_go_through_both_brokers(
    request: pytest.FixtureRequest, broker: str, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    parts: Broker = request.getfixturevalue(broker)
    happened, project = town(300, 8), build(topic_prefix)
    async with rig(project, builder(topic_prefix), tmp_path, parts, redis_url) as shop:
        await shop.produce(sent(project, happened))
        await shop.finish(shop.start())

        findings = audit(shop.deployment, shop.model, shop.log)
        assert clean(findings, 300)
        assert differing(happened, logged(findings)) == []
        assert shop.letters(project.sources[2].topic) == []


def records(shop: Rig, topic: str) -> dict[Partition, list[Record]]:
    return {
        Partition(topic, number): [
            record
            for batch in shop.log.read(topic, number, bounds.earliest, bounds.highwater)
            for record in batch
        ]
        for number, bounds in shop.log.bounds(topic).items()
    }


async def test_a_table_that_kafka_has_compacted_is_folded_again_to_the_same(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    if not isinstance(kafka, KafkaServer):
        pytest.skip("the embedded broker does not compact")
    happened, project = town(200, 9), build(topic_prefix)
    topic = project.sources[2].topic
    kept = {
        "retention.ms": "-1",
        "segment.ms": str(HOUR),  # of the records' time: many closed segments, which alone are compacted
        "min.cleanable.dirty.ratio": "0.01",
        "delete.retention.ms": "0",
    }
    text = builder(topic_prefix)
    async with rig(project, text, tmp_path, kafka, redis_url, config={topic: kept}) as shop:
        out = sent(project, happened)
        for begun in range(0, len(out), 20):  # a segment ends between batches alone
            await shop.produce(out[begun : begun + 20])
        await shop.finish(shop.start())
        findings = audit(shop.deployment, shop.model, shop.log)
        assert clean(findings, 200)
        assert differing(happened, logged(findings)) == []
        whole = [o for o in out if o.topic == topic]

        kafka.alter_topic(topic, {"cleanup.policy": "compact"})
        deadline = time.monotonic() + WAIT
        while sum(map(len, (left := records(shop, topic)).values())) > len(whole) // 2:
            assert time.monotonic() < deadline, f"Kafka left {sum(map(len, left.values()))} of {len(whole)}"
            await asyncio.sleep(0.2)
        last = {(o.key, o.value) for o in {o.key: o for o in whole}.values() if o.value is not None}
        assert last <= {(r.key, r.value) for log in left.values() for r in log}

        verdict = verify(Opened(shop.log, shop.deployment, {}, {}), shop.model)
        assert (verdict.different, verdict.checked + verdict.unchecked.total()) == (0, 200)
        assert verdict.equal
        assert verdict.unchecked

        probes = [Payment("probe", f"c{k}", "CH", 1.0, happened.payments[-1].at + HOUR) for k in range(8)]
        before = [await looked_up(shop, probe) for probe in probes]
        async with Redis.from_url(redis_url) as client:
            await client.flushall()
        await shop.open({name: len(groups) for name, groups in shop.deployment.groups.items()})
        await shop.finish(shop.start())
        assert [await looked_up(shop, probe) for probe in probes] == before
        after = [expected(Town([*happened.payments, probe], happened.holders), probe) for probe in probes]
        assert before == after


def test_a_replay_tells_records_without_an_id_by_their_place() -> None:
    class Seen(FeatureView, of=Entity("card", by=(Payment.card, Visit.card)), source=visits):
        count = Count().over("1h")

    spec = ModelSpec("odd", request=payments, inputs=[Seen], learner=HalfSpaceTrees(seed=1))
    replay = Replay(Project("places", spec))
    for _ in range(3):
        replay.event(visits, msgspec.json.encode(Visit("c1", START)))
    (scoring,) = replay.event(payments, msgspec.json.encode(Payment("p", "c1", "CH", 1.0, START)))

    assert scoring.prediction.vector == [3]


def test_a_table_can_be_neither_asked_nor_a_label() -> None:
    table = build("tables").sources[2]
    with pytest.raises(DefinitionError, match=r"requests of tables\.holders\.v1 are compacted"):
        ModelSpec("odd", request=table, learner=HalfSpaceTrees(seed=1))
    with pytest.raises(DefinitionError, match=r"labels of tables\.holders\.v1 are compacted"):
        Label(table, value=Holder.blocked, within="1d")
