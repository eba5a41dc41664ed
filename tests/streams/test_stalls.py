"""Partitions that stand still while their logs grow: what is told, and what is done about it."""

from __future__ import annotations

from pathlib import Path

from features.store import Position
from streams.log import Partition
from streams.stalls import Stall, Stalls, Stand
from tests.parts.broker import Broker
from tests.streams.audit import audit, clean
from tests.streams.memory_log import House
from tests.streams.rig import rig
from tests.streams.shop import build, business, sent
from tests.streams.test_end_to_end import builder

PARTITION = Partition("t", 0)
THIEF = b"t" * 16


def test_one_that_stands_short_of_the_end_is_told_once_for_each_patience() -> None:
    stalls = Stalls(30.0)
    told = [
        (now, stall)
        for now in range(0, 70, 5)
        for stall in stalls.look(now, {PARTITION: Stand((7, 9), 20 + now)})
    ]
    assert told == [(now, Stall(PARTITION, Stand((7, 9), 20 + now), 30.0)) for now in (30, 60)]


def test_one_that_is_at_the_end_or_moves_or_is_excused_is_not_told() -> None:
    stalls = Stalls(30.0)
    told = []
    for now in range(0, 300, 5):
        told += stalls.look(now, {PARTITION: Stand((7, 7), 7)})
    told += stalls.look(300, {PARTITION: Stand((7, 7), 8)})  # the log has just begun to grow again
    for now in range(305, 600, 5):
        told += stalls.look(now, {PARTITION: Stand((7, now), 10_000)})  # one of two moves
    for now in range(600, 900, 25):
        told += stalls.look(now, {PARTITION: Stand((600, 600), 10_000)})
        told += stalls.look(now + 20, {})
    assert told == []


async def test_a_claim_that_came_late_from_a_dead_worker_does_not_stop_a_partition_for_ever(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    """Its owner by the group was fenced, and nobody read the log on: events, samples and versions stood still."""
    events = business(300, seed=10)
    project = build(topic_prefix)
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        await shop.produce(sent(project, *events.payments[:100]))
        worker = shop.start(stall_timeout=1.0)
        await shop.until(shop.done, worker)
        for partition, reader in await shop.positions():
            group = shop.deployment.groups[partition.topic][partition.number]
            stored = (await shop.positions())[partition, reader]
            await shop.store.claim(group, stored._replace(token=THIEF), reader)

        await shop.produce(sent(project, *events.payments[100:], *events.verdicts))
        await shop.finish(worker)

        assert "claiming it again" in worker.said()
        assert clean(audit(shop.deployment, shop.model, shop.log), 300)


async def test_a_partition_that_another_worker_moves_is_left_to_it() -> None:
    house = House(build("stalls"), 1)
    events = business(400, seed=11)
    worker = await house.worker()
    await worker.run()
    group = (await house.deployment()).groups[house.project.sources[0].topic][0]
    stage = worker.engine.stages[Partition(group.topic, 0)][0]
    for record in sent(house.project, *events.payments):
        house.log.append(record)
    position = Position.start(stage.position.topic_id)._replace(token=THIEF)
    await house.store.claim(group, position)
    for k in range(1, 400):
        moved = position._replace(next=k)
        house.store.values[f"{group.tag}@"] = moved.pack()
        house.clock.now += 2.0
        await worker.engine.idle()
    assert stage.fenced
    assert worker.engine.context.metrics.restarts.labels(group.topic)._value.get() == 0

    house.clock.now += 2.0
    await worker.engine.idle()
    house.clock.now += 12.0
    await worker.engine.idle()
    assert worker.engine.context.metrics.restarts.labels(group.topic)._value.get() == 1
    again = worker.engine.stages[Partition(group.topic, 0)][0]
    assert not again.fenced
    assert again.next == 399
