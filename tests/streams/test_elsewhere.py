"""Several workers, none of which folds all: who waits for whom, and how far anybody reads ahead."""

from __future__ import annotations

import asyncio
import random

import pytest

from features import keys
from features.store import NO_TOPIC, Group, Position, Writes
from streams.elsewhere import RECENT, Elsewhere, Mark
from streams.log import Partition
from tests.streams.audit import audit, clean
from tests.streams.memory_log import PATIENCE, House, Worker
from tests.streams.shop import DAY, HOUR, START, build, business
from tests.streams.test_engine import model, payment, predictions, produce, replayed, verdict


async def together(chance: random.Random, *workers: Worker) -> None:
    """Gives the workers turns in any order until all are done; then ends them."""
    for _ in range(PATIENCE):
        if all(worker.done for worker in workers):
            break
        await chance.choice(workers).step()
    else:
        raise AssertionError([worker.engine.status() for worker in workers])
    for worker in workers:
        await worker.engine.revoked(worker.partitions)


def is_verdicts(partition: Partition) -> bool:
    return ".verdicts." in partition.topic


def is_not_verdicts(partition: Partition) -> bool:
    return not is_verdicts(partition)


@pytest.mark.parametrize("seed", range(3))
async def test_requests_wait_for_a_source_that_another_worker_folds(seed: int) -> None:
    chance = random.Random(seed)
    house = House(build("else"))
    events = business(300, seed=seed, step=HOUR, judged=0.7)
    produce(house, *events.payments, *events.verdicts)
    asker = await house.worker(chance, owns=is_not_verdicts)
    for _ in range(300):
        await asker.step()
    assert predictions(house) == []
    folder = await house.worker(chance, owns=is_verdicts)
    for _ in range(100):
        await folder.step()
    assert not folder.done, "it reads on only as far as states can still answer the requests that wait"

    await together(chance, asker, folder)

    vectors, _ = replayed(house.project, events)
    assert {p.id: p.vector for p in predictions(house)} == vectors
    assert clean(audit(await house.deployment(), model(house), house.log), 300)
    assert asker.engine.context.counts["hold_expired"] == 0


@pytest.mark.parametrize("seed", range(4))
async def test_workers_whose_records_are_far_apart_do_not_wait_for_each_other_for_ever(seed: int) -> None:
    chance = random.Random(seed)
    house = House(build("else"))
    events = business(60, seed=seed, step=20 * HOUR, judged=0.1)
    produce(house, *events.payments, *events.verdicts)
    first = await house.worker(chance, owns=lambda p: (p.number == 0) == is_verdicts(p))
    second = await house.worker(chance, owns=lambda p: (p.number == 0) != is_verdicts(p))

    await together(chance, first, second)

    vectors, _ = replayed(house.project, events)
    assert {p.id: p.vector for p in predictions(house)} == vectors


async def test_a_request_waits_no_longer_than_the_hold_for_a_worker_that_never_comes() -> None:
    house = House(build("else"), 1)
    produce(house, payment("p0", DAY), payment("p1", 2 * DAY), verdict("x", 0), verdict("y", HOUR))
    worker = await house.worker(hold=30.0, owns=is_not_verdicts)
    began = house.clock()
    while house.clock() < began + 29.0:
        await worker.step()
    assert predictions(house) == []

    await together(random.Random(1), worker)

    assert house.clock() < began + 62.0
    assert [p.id for p in predictions(house)] == ["p0", "p1"]
    assert worker.engine.context.counts["hold_expired"] == 2


async def test_a_worker_that_is_gone_does_not_hold_back_the_labels_of_another() -> None:
    house = House(build("else"), 1)
    produce(house, payment("p0", 0), verdict("p0", 5 * DAY), verdict("x", 6 * DAY))
    worker = await house.worker(hold=30.0, owns=is_verdicts)
    began = house.clock()
    while house.clock() < began + 29.0:
        await worker.step()
    assert not worker.done

    await together(random.Random(1), worker)

    assert house.clock() < began + 62.0


async def test_live_workers_score_at_once_and_hardly_ever_look() -> None:
    house = House(build("else"), 1)
    house.now_ms = START
    chance = random.Random(3)
    produce(house, payment("p", 0), verdict("p", 0), verdict("q", 0))
    asker, folder = [await house.worker(chance, owns=owns) for owns in (is_not_verdicts, is_verdicts)]
    for _ in range(200):
        await chance.choice((asker, folder)).step()
    before, began = asker.looks + folder.looks, house.clock()
    waited = []
    for k in range(150):
        produce(house, payment(f"p{k}", k * 20), verdict(f"p{k}", k * 20))
        come, count = house.clock(), len(predictions(house))
        while len(predictions(house)) == count:
            await chance.choice((asker, folder)).step()
        waited.append(house.clock() - come)

    assert max(waited) < 0.1
    assert asker.looks + folder.looks - before < 6 * (house.clock() - began) + 2
    await together(chance, asker, folder)


# -- what is known of one group


async def settled(elsewhere: Elsewhere, house: House, *groups: Group) -> None:
    """Looks, and waits for what the look finds."""
    house.clock.now += RECENT
    elsewhere.look(groups, {}, waiting=True)
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_group_has_passed_what_its_clock_or_the_end_of_its_log_says() -> None:
    house = House(build("else"), 1)
    worker = await house.worker(owns=lambda _: False)
    (group,) = (await house.deployment()).groups[house.project.sources[1].topic]
    elsewhere = Elsewhere(worker.engine.context, worker.ends)
    produce(house, *(verdict(f"v{k}", k) for k in range(4)))
    await settled(elsewhere, house, group)
    assert not elsewhere.passed(group, -DAY, house.clock())

    start = Position.start(NO_TOPIC)
    await house.store.claim(group, start)
    half = start._replace(next=2, clock=77)
    await house.store.commit(group, start, half, Writes())
    await settled(elsewhere, house, group)
    assert [elsewhere.passed(group, t, house.clock()) for t in (76, 77)] == [True, False]

    come = house.clock() - 2 * RECENT
    produce(house, verdict("v4", 5))
    await house.store.commit(group, half, half._replace(next=4, clock=78), Writes())
    await settled(elsewhere, house, group)
    # four records were there when it was asked for the first time: who had come by then waits no more
    assert elsewhere.passed(group, 10**9, come)
    assert not elsewhere.passed(group, 10**9, house.clock())

    await settled(elsewhere, house, group)
    assert not elsewhere.passed(group, 10**9, house.clock()), "the log has grown to five"
    await house.store.commit(group, half._replace(next=4), half._replace(next=5, clock=79), Writes())
    await settled(elsewhere, house, group)
    assert elsewhere.passed(group, 10**9, house.clock() - 1.001 * RECENT)


async def test_one_look_serves_the_requests_of_a_second_but_none_of_long_ago() -> None:
    house = House(build("else"), 1)
    worker = await house.worker(owns=lambda _: False)
    (group,) = (await house.deployment()).groups[house.project.sources[1].topic]
    elsewhere = Elsewhere(worker.engine.context, worker.ends)
    looked = house.clock() + RECENT
    await settled(elsewhere, house, group)

    house.now_ms = START + DAY
    assert elsewhere.passed(group, START + DAY - 900, looked + 0.9)
    assert not elsewhere.passed(group, START + DAY - 900, looked + 1.1)
    assert not elsewhere.passed(group, START, looked + 0.9)
    assert elsewhere.passed(group, START, looked - 0.001)


async def test_a_mark_that_the_store_has_lost_is_noted_again() -> None:
    house = House(build("else"), 1)
    worker = await house.worker(owns=lambda _: False)
    (group,) = (await house.deployment()).groups[house.project.sources[1].topic]
    elsewhere = Elsewhere(worker.engine.context, worker.ends)
    mark = Mark(3, START, 2, START - HOUR)
    for _ in range(2):
        elsewhere.look([group], {group: mark}, waiting=True)
        await asyncio.sleep(0)
        assert house.store.values.pop(keys.mark(group.tag)) == mark.pack(), "and the store goes back"
        house.clock.now += RECENT


async def test_a_mark_is_believed_only_where_its_group_stands() -> None:
    house = House(build("else"), 1)
    worker = await house.worker(owns=lambda _: False)
    (group,) = (await house.deployment()).groups[house.project.sources[1].topic]
    elsewhere = Elsewhere(worker.engine.context, worker.ends)
    produce(house, *(verdict(f"v{k}", k) for k in range(4)))
    start = Position.start(NO_TOPIC)
    await house.store.claim(group, start)
    await house.store.commit(group, start, start._replace(next=2, clock=77), Writes())

    passed = []
    for at in (1, 3, 2):  # behind it, beyond it as where the store went back, and there
        await house.store.note({keys.mark(group.tag): Mark(at, 1_000, at, 1_000).pack()})
        await settled(elsewhere, house, group)
        passed.append(elsewhere.passed(group, 500, house.clock()))
    assert passed == [False, False, True]
