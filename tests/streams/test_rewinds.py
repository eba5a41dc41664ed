"""What requests read is what they have waited for: also where the store goes back, or a partition changes hands."""

from __future__ import annotations

import random
from collections.abc import Collection

import pytest

from features import keys
from features.store import NO_TOPIC, Group, Position
from streams.elsewhere import Elsewhere
from streams.log import Partition
from streams.producer import Outgoing
from tests.streams.memory_log import PATIENCE, House, Worker
from tests.streams.shop import DAY, HOUR, build, business
from tests.streams.test_elsewhere import is_not_verdicts, is_verdicts, settled, together
from tests.streams.test_engine import learnt, payment, predictions, produce, ran, replayed, verdict

ENOUGH = 150  # steps in which a request that need not wait is scored; the owners look at the store every 200


def kept(house: House, groups: Collection[Group] = ()) -> dict[str, bytes]:
    """What the store holds, or a node of it with some groups."""
    tags = tuple(group.tag for group in groups)
    return {key: value for key, value in house.store.values.items() if not tags or key.startswith(tags)}


def go_back(house: House, point: dict[str, bytes], groups: Collection[Group] = ()) -> None:
    for key in kept(house, groups):
        del house.store.values[key]
    house.store.values.update(point)


async def test_what_has_gone_back_since_a_request_was_let_through_is_waited_for_again() -> None:
    chance = random.Random(1)
    house = House(build("back"), 1)
    asker = await house.worker(chance, owns=is_not_verdicts)
    folder = await house.worker(chance, owns=is_verdicts)
    (group,) = (await house.deployment()).groups[house.project.sources[1].topic]
    point = kept(house, [group])
    produce(house, payment("p0", 0), verdict("p0", HOUR), verdict("x", 5 * DAY), verdict("y", 5 * DAY))
    produce(house, payment("p1", 2 * HOUR))
    for _ in range(PATIENCE):
        if len(predictions(house)) == 2 and folder.done:
            break
        await chance.choice((asker, folder)).step()

    go_back(house, point, [group])
    produce(house, payment("p2", 3 * HOUR))
    for _ in range(ENOUGH):
        await asker.step()
    assert len(predictions(house)) == 2, "its shop's verdict is not folded again"

    await together(chance, asker, folder)
    (p1, p2) = (p for p in predictions(house) if p.id in ("p1", "p2"))
    assert p1.vector[-1] == p2.vector[-1] == 1.0, "the share of frauds in the shop"
    assert p2.as_of[group.name] >= 1


async def test_a_fold_of_this_worker_behind_which_the_store_has_gone_back_is_waited_for_as_well() -> None:
    house = House(build("back"), 1)
    worker = await house.worker(cache=2)  # so that most states are read of the store
    point = kept(house)
    events = business(40, seed=1, cards=8, shops=3, step=HOUR)
    produce(house, *events.payments, *events.verdicts)
    for _ in range(PATIENCE):
        if len(predictions(house)) >= 20:
            break
        await worker.step()
    go_back(house, point)
    house.store.hashes.clear()

    await worker.end()

    vectors, _ = replayed(house.project, events)
    first = {p.id: p.vector for p in reversed(predictions(house))}
    assert first == vectors


async def test_a_join_that_is_read_of_a_store_that_has_gone_back_joins_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(build("back"), 1)
    worker = await house.worker()
    point = kept(house)
    produce(house, payment("p0", 0), payment("p1", 1), verdict("p0", HOUR), verdict("p1", HOUR))
    await worker.end()
    for record in house.log.values(house.model_log):  # again, as by a worker whose commits were lost
        house.log.append(Outgoing(house.model_log, record.key, record.value, (), record.timestamp, 0))
    fields = house.store.fields

    async def going_back(key: str) -> list[tuple[bytes, bytes]]:
        go_back(house, point)
        house.store.hashes.clear()
        monkeypatch.undo()
        return await fields(key)

    monkeypatch.setattr(house.store, "fields", going_back)
    for _ in range(2):  # the first one stops at the partition that it has claimed too early
        await ran(house)

    assert len({(s.source, s.offset, s.index) for s in learnt(house)}) == 2


async def test_a_group_that_is_seen_to_have_gone_back_has_not_reached_the_end_of_its_log() -> None:
    house = House(build("back"), 1)
    worker = await house.worker(owns=lambda _: False)
    (group,) = (await house.deployment()).groups[house.project.sources[1].topic]
    elsewhere = Elsewhere(worker.engine.context, worker.ends)
    come = house.clock()
    produce(house, *(verdict(f"v{k}", k) for k in range(4)))
    end = Position.start(NO_TOPIC)._replace(next=4)
    for position, passed in ((end, True), (end._replace(next=3), False), (end, True)):
        house.store.values[keys.position(group.tag)] = position.pack()
        await settled(elsewhere, house, group)
        assert elsewhere.passed(group, DAY, come) == passed
        assert elsewhere.stood(group) == position.next
    elsewhere.forget()
    assert not elsewhere.passed(group, DAY, come)


@pytest.mark.parametrize("seed", range(4))
async def test_nobody_reads_ahead_of_a_request_that_was_claimed_and_has_not_come_yet(seed: int) -> None:
    house = House(build("back"), 1)
    produce(house, payment("p0", 0))
    await ran(house)
    (group,) = (await house.deployment()).groups[house.project.sources[0].topic]
    key = keys.position(group.tag, "score")
    scored = Position.unpack(house.store.values[key])
    house.store.values[key] = scored._replace(
        next=0
    ).pack()  # as if the worker had been killed before this commit
    produce(house, *(verdict(f"v{k}", 20 * DAY + k * HOUR) for k in range(5)))

    await ran(house, chance=random.Random(seed), largest=1)

    assert [(p.id, p.flags) for p in predictions(house) if p.id == "p0"] == 2 * [("p0", ["unknown:Risk"])]


@pytest.mark.parametrize("seed", range(3))
async def test_nobody_reads_ahead_of_the_requests_of_a_partition_that_was_taken_over(seed: int) -> None:
    chance = random.Random(seed)
    house = House(build("back"))
    events = business(100, seed=seed, step=HOUR, judged=0.7)
    first = await house.worker(chance)
    second = await house.worker(chance, owns=is_not_verdicts)
    produce(house, *events.payments, *events.verdicts)
    for _ in range(300):
        await first.step()
    assert not any(verdicts_done(first)), "requests wait for it that it does not score itself"

    for _ in range(PATIENCE):
        if second.done:
            break
        await chance.choice((first, second)).step()

    vectors, _ = replayed(house.project, events)
    assert {p.id: p.vector for p in predictions(house)} == vectors


def verdicts_done(worker: Worker) -> list[bool]:
    return [
        stage.next == worker.highwater(partition)
        for partition, stages in worker.engine.stages.items()
        for stage in stages
        if is_verdicts(Partition(*partition))
    ]
