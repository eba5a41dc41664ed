"""Requests that read the outcomes of earlier ones see, while catching up, what a run without lag would have seen."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec import UNSET, UnsetType

from features.clock import NEVER
from features.store import NO_TOPIC, Position, Writes
from streams.chain import Chain
from streams.elsewhere import END, Elsewhere
from streams.log import Partition
from streams.producer import Outgoing
from tests.parts.broker import Broker
from tests.streams.audit import audit, clean, kinds, samples
from tests.streams.memory_log import House
from tests.streams.rig import rig
from tests.streams.shop import DAY, HOUR, MINUTE, START, build, business, sent
from tests.streams.test_elsewhere import settled, together
from tests.streams.test_end_to_end import builder
from tests.streams.test_engine import model, payment, predictions, produce, ran, replayed, verdict


@pytest.mark.parametrize("absent", [UNSET, False])
@pytest.mark.parametrize("seed", range(3))
async def test_the_outcomes_in_a_backlog_are_those_of_a_run_without_lag(
    seed: int, absent: bool | UnsetType
) -> None:
    project = build("chain", outcomes=True, absent=absent)
    house = House(project, {"chain.payments.v1": 3, "chain.verdicts.v1": 1})
    events = business(500, seed=seed, step=25 * MINUTE, delay=(DAY, HOUR, 3 * DAY)[seed], judged=0.6)
    produce(house, *events.payments, *events.verdicts)
    await ran(house, chance=random.Random(seed))

    vectors, replay = replayed(project, events)
    assert {p.id: p.vector for p in predictions(house)} == vectors
    assert clean(audit(await house.deployment(), model(house), house.log), 500)
    taken = kinds(samples(house.log, model(house)))
    assert taken["label"] == replay.counts["sample:label"] > 250
    assert (taken["absent"] > 50) == (absent is False)


async def test_a_label_before_its_request_counts_for_the_next_request_in_the_same_poll() -> None:
    house = House(build("chain", outcomes=True), 1)
    produce(house, verdict("p0", 0), verdict("x", 1), *(payment(f"p{k}", MINUTE * (k + 1)) for k in range(4)))
    await ran(house)

    place = model(house).vector.names.index("Outcomes.share_7d")
    assert [p.vector[place] for p in predictions(house)] == [None, 1.0, 1.0, 1.0]


async def test_a_join_that_nobody_runs_is_waited_for_as_long_as_the_hold() -> None:
    house = House(build("chain", outcomes=True), 1)
    produce(house, payment("p0", 0), payment("p1", DAY), verdict("p0", 2 * DAY))
    log = Partition(house.model_log, 0)
    worker = await house.worker(hold=30.0, owns=lambda partition: partition != log)
    began = house.clock()
    while house.clock() < began + 29.0:
        await worker.step()
    assert [p.id for p in predictions(house)] == ["p0"], "before it there was nothing to join"

    await together(random.Random(1), worker)

    assert house.clock() < began + 62.0
    assert worker.engine.context.counts["hold_expired"] == 1


async def test_a_chain_is_passed_when_the_join_and_then_the_fold_have_reached_their_ends() -> None:
    house = House(build("chain", outcomes=True), 1)
    house.now_ms = START
    worker = await house.worker(owns=lambda _: False)
    groups = (await house.deployment()).groups
    ((log,), (taken,)) = groups[model(house).log_topic], groups[model(house).samples_topic]
    elsewhere = Elsewhere(worker.engine.context, worker.ends)
    chain = Chain(elsewhere, [log], [taken], house.clock)
    start = Position.start(NO_TOPIC)
    await house.store.claim(log, start, "join")
    await house.store.claim(taken, start)
    for topic in (log.topic, taken.topic):
        house.log.append(Outgoing(topic, None, b"{}", (), 0, 0))

    samples_front = NEVER

    async def gone_through() -> list[bool]:
        for _ in range(4):
            chain.turn(100, lambda _: samples_front, [], lambda: (END, ()))
            await settled(elsewhere, house, log, taken)
        return [chain.passed(("p", t), began) for t in (99, 100)]

    began = house.clock()
    house.clock.now += 1
    assert await gone_through() == [False, False]
    await house.store.commit(log, start, start._replace(next=1), Writes(), "join")
    assert await gone_through() == [False, False]
    samples_front = 50  # its next sample is of then: what was known before has been folded
    assert await gone_through() == [False, False]
    assert [chain.passed(("p", t), began) for t in (49, 50)] == [True, False]
    await house.store.commit(taken, start, start._replace(next=1), Writes())
    assert await gone_through() == [True, False]
    elsewhere.forget()
    assert not chain.passed(("p", 99), began), (
        "the store has gone back: the samples may have to be folded again"
    )
    assert await gone_through() == [True, False]


async def test_requests_out_of_order_in_their_partition_do_not_wait_for_each_other() -> None:
    house = House(build("chain", outcomes=True), 1)
    produce(
        house,
        payment("late", 3 * HOUR),
        payment("early", HOUR),
        verdict("early", 2 * HOUR),
        verdict("x", DAY),
    )
    await ran(house)

    assert {p.id for p in predictions(house)} == {"late", "early"}
    assert clean(audit(await house.deployment(), model(house), house.log), 2)


async def test_a_store_that_was_emptied_is_filled_again_although_the_samples_of_the_first_time_lie_ahead() -> (
    None
):
    house = House(build("chain", outcomes=True), 1)
    events = business(60, seed=3, step=2 * HOUR)
    produce(house, *events.payments, *events.verdicts)
    await ran(house)
    house.store.values.clear()
    house.store.hashes.clear()

    worker = await ran(house)

    assert worker.done
    assert clean(audit(await house.deployment(), model(house), house.log), 60)


async def test_the_outcomes_in_a_backlog_on_real_parts_are_those_of_a_run_without_lag(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    events = business(800, seed=5, step=20 * MINUTE, judged=0.6)
    options = {"outcomes": True, "absent": False}
    project = build(topic_prefix, outcomes=True, absent=False)
    partitions = {f"{topic_prefix}.payments.v1": 4, f"{topic_prefix}.verdicts.v1": 1}
    text = builder(topic_prefix, **options)
    async with rig(project, text, tmp_path, kafka, redis_url, partitions) as shop:
        await shop.produce(sent(project, *events.payments, *events.verdicts))
        worker = shop.start()
        await shop.finish(worker)

        found = audit(shop.deployment, shop.model, shop.log)
        assert clean(found, 800)
        vectors, replay = replayed(project, events)
        assert {p.id: p.vector for p in found.predictions} == vectors
        assert kinds(samples(shop.log, shop.model))["absent"] == replay.counts["sample:absent"] > 100
