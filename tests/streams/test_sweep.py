"""Idle entities are removed, and nobody can tell."""

from __future__ import annotations

from features.forgetting import Forgetting, encode_forgetting
from features.group import FoldGroup
from features.memory import MemoryStore
from features.partition import partition_of
from features.store import NO_TOPIC, Position
from models.deployment import deploy, topics_of
from streams.producer import Outgoing
from streams.recompute import Recompute, predictions_of, same_vector
from tests.streams.memory_log import House
from tests.streams.shop import DAY, HOUR, START, Payment, build, business, sent


async def test_states_of_idle_entities_go_and_every_vector_is_still_that_of_the_log() -> None:
    house = House(build("shop"))
    idle = [Payment(f"i{k}", f"idle{k}", "s1", 1.0, START + k) for k in range(40)]
    happened = business(500, step=HOUR)
    again = Payment("i-again", "idle3", "s1", 2.0, happened.payments[-1].at + 1)
    for outgoing in sent(house.project, *idle, *happened.payments, again, *happened.verdicts):
        house.log.append(outgoing)
    worker = await house.worker(cache=20)
    await worker.end()
    left = [key for key in house.store.values if ".idle" in key]
    assert [key.rpartition(".")[2] for key in left] == ["idle3"]
    deployment = await house.deployment()
    model = house.project.models[0]
    found = list(Recompute(deployment, model, house.log).vectors(predictions_of(house.log, model)))
    assert len(found) == 541
    assert all(f.assembled and same_vector(f.assembled.vector, f.prediction.vector) for f in found)


async def test_what_is_forgotten_goes_also_with_a_commit_that_removes_idle_ones() -> None:
    house = House(build("shop"))
    topic = house.project.source("payments").topic
    partitions = house.topics[topic]
    for hour in range(24 * 20):
        at = START + hour * HOUR
        often, once = Payment(f"p{hour}", "c", "s", 1.0, at), Payment(f"o{hour}", f"once{hour}", "s", 1.0, at)
        for outgoing in sent(house.project, often, once):
            house.log.append(outgoing)
        if hour % 2 and hour > 60:  # the others are left to become idle
            whom = f"once{hour - 60}"
            what, card = encode_forgetting(Forgetting("card", whom)), partition_of(whom.encode(), partitions)
            house.log.append(Outgoing(topic, None, what, (), at, card))
    worker = await house.worker(largest=40)
    await worker.end()
    left = {int(key.rpartition(".once")[2]) for key in house.store.values if ".once" in key}
    assert left
    assert not [hour for hour in left if hour % 2 and hour < 24 * 20 - 60]
    assert max(left) - min(left) < 24 * 20 / 2  # idle ones have been removed meanwhile


async def test_a_state_is_the_same_bytes_whether_it_was_removed_before_its_entity_came_back() -> None:
    project = build("shop")
    store = MemoryStore()
    deployment = await deploy(project, store, topics_of(project, {"shop.payments.v1": 1}))
    source = project.source("payments")
    group, plans = deployment.groups[source.topic][0], project.plans_over(source)

    def fold() -> FoldGroup:
        return FoldGroup(group, source, plans, deployment.codes, Position.start(NO_TOPIC), 1)

    kept, swept = fold(), fold()
    events = [(0, "c1"), (1, "c2"), (20 * DAY, "c2"), (20 * DAY + 1, "c2"), (20 * DAY + 2, "c1")]
    for offset, (t, card) in enumerate(events):
        for one in (kept, swept):
            one.step(one.take(offset, Payment(f"p{offset}", card, "s1", 1.0, START + t)), {})
        if offset == 3:
            heads = [(prefix + "c1", START) for prefix in swept.prefixes]
            assert swept.removable([(heads[0])] if plans[0].entity == "card" else heads[1:])
    assert sorted(kept.dump()) == sorted(swept.dump())


async def test_an_expired_state_reads_as_none_before_it_is_removed() -> None:
    project = build("shop")
    store = MemoryStore()
    deployment = await deploy(project, store, topics_of(project, {"shop.payments.v1": 1}))
    source = project.source("payments")
    group, plans = deployment.groups[source.topic][0], project.plans_over(source)
    fold = FoldGroup(group, source, plans, deployment.codes, Position.start(NO_TOPIC), 1)
    for offset, t in enumerate((0, 20 * DAY, 20 * DAY + 1)):
        fold.step(fold.take(offset, Payment(f"p{offset}", f"c{offset}", "s1", 1.0, START + t)), {})
    key = (
        next(prefix for prefix, plan in zip(fold.prefixes, plans, strict=True) if plan.entity == "card")
        + "c0"
    )
    seen: dict[str, object] = {}
    assert fold.cached([key], seen) == []  # type: ignore[arg-type]  # values are only looked at
    assert seen == {key: None}
