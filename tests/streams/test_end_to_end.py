"""The main job on real parts: events in Kafka, features in Redis, predictions out, models that learn."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from math import fsum
from pathlib import Path
from typing import Any

from features import keys
from features.store import NOBODY
from models.canonical import digest
from models.records import encode_sample
from models.scorer import Request, decode_reads
from streams.log import Partition
from tests.parts.broker import Broker
from tests.streams.audit import audit, clean, fold_of_samples, kinds, model_digest, samples
from tests.streams.memory_log import House
from tests.streams.rig import Rig, rig
from tests.streams.shop import DAY, HOUR, MINUTE, Business, Payment, build, business, sent
from tests.streams.test_engine import replayed


def builder(prefix: str, **options: Any) -> str:
    return f"from tests.streams.shop import build\n\nproject = build({prefix!r}, **{options!r})\n"


def counted(events: Business, card: str, shop: str, t: int) -> list[float | int | None]:
    """The model's features of a card and a shop at a time, counted from the lists."""

    def since(found: Sequence[Any], width: int) -> list[Any]:
        return [event for event in found if t - width < event.at <= t]

    own = [event for event in events.payments if event.card == card]
    there = [event for event in events.payments if event.shop == shop]
    judged = since([event for event in events.verdicts if event.shop == shop], 7 * DAY)
    week = [event.amount for event in since(own, 7 * DAY)]
    return [
        len(since(own, HOUR)),
        len(week),
        *([fsum(week), fsum(week) / len(week)] if week else [0.0, None]),
        len(since(there, 7 * DAY)),
        len({event.card for event in since(there, DAY)}),
        sum(event.fraud for event in judged) / len(judged) if judged else None,
    ]


async def asked(rig: Rig, probe: Payment) -> list[object]:
    """The vector of a request that was never produced, as the API would make it."""
    scorer = rig.deployment.scorers[rig.model.name]
    source = rig.model.spec.request
    request = Request(probe, probe.at, rig.deployment.home(source, probe))
    places = scorer.places(request)
    wanted = scorer.reads([places])
    states, _ = decode_reads([places], wanted, await rig.store.read(wanted))
    return list(scorer.assemble(request, places, states).vector)


async def seen_versions(rig: Rig, seen: dict[int, str]) -> None:
    """Notes the digest of the version that is served now."""
    await rig.feed.poll()
    predictor = rig.feed.predictor(rig.model.name)
    seen.setdefault(predictor.version, digest(predictor._learner))


async def test_events_of_all_codecs_become_features_predictions_and_versions(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    chance = random.Random(1)
    events = business(3_000, seed=2, step=3 * 60_000)
    late = {event.id: chance.randrange(2 * HOUR) if chance.random() < 0.1 else 0 for event in events.payments}
    payments = sorted(events.payments, key=lambda event: event.at + late[event.id])
    again = [payments[k] for k in range(0, 3_000, 100)]
    project = build(topic_prefix)
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        codecs = ("gzip", "snappy", "lz4", "zstd", "none")
        for k, codec in enumerate(codecs):
            part = slice(k * 600, (k + 1) * 600)
            records = sent(project, *payments[part], *events.verdicts[part], *again[part.start // 100 :][:6])
            await shop.produce(records, **{"compression.type": codec})
        worker = shop.start()
        seen: dict[int, str] = {}

        async def done() -> bool:
            await seen_versions(shop, seen)
            return await shop.done()

        await shop.until(done, worker)
        await shop.finish(worker)
        await seen_versions(shop, seen)

        found = audit(shop.deployment, shop.model, shop.log)
        assert clean(found, 3_000)
        taken = samples(shop.log, shop.model)
        assert len(taken) == 3_000
        assert {s.id: s.label for s in taken} == {v.payment: v.fraud for v in events.verdicts}
        assert max(seen) == 3_000
        assert [v for v in seen if model_digest(fold_of_samples(shop.log, shop.model, v)) != seen[v]] == []
        for probe in chance.sample(payments[-500:], 40):
            later = Payment("probe", probe.card, probe.shop, 7.5, payments[-1].at + HOUR)
            with_own = events._replace(payments=[*events.payments, later])
            assert await asked(shop, later) == [7.5, *counted(with_own, later.card, later.shop, later.at)]
        assert shop.letters(project.sources[0].topic) == []


async def test_roles_in_processes_of_their_own_do_the_work_of_one(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    events = business(600, seed=3)
    project = build(topic_prefix)
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        await shop.produce(sent(project, *events.payments, *events.verdicts))
        workers = [shop.start([role]) for role in ("learn", "join", "features")]
        await shop.finish(*workers)

        assert clean(audit(shop.deployment, shop.model, shop.log), 600)
        assert {s.id for s in samples(shop.log, shop.model)} == {p.id for p in events.payments}
        await shop.feed.poll()
        assert shop.feed.predictor("fraud").version == 600


async def test_two_workers_share_the_partitions(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    events = business(600, seed=4)
    project = build(topic_prefix)
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        workers = [shop.start(), shop.start()]
        await shop.produce(sent(project, *events.payments, *events.verdicts))
        await shop.finish(*workers)

        assert clean(audit(shop.deployment, shop.model, shop.log), 600)
        assert {s.id for s in samples(shop.log, shop.model)} == {p.id for p in events.payments}


async def test_what_became_of_requests_is_a_feature_as_well(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    events = business(600, seed=5, judged=0.8)
    options = {"outcomes": True, "absent": False}
    project = build(topic_prefix, outcomes=True, absent=False)
    async with rig(project, builder(topic_prefix, **options), tmp_path, kafka, redis_url) as shop:
        await shop.produce(sent(project, *events.payments, *events.verdicts))
        worker = shop.start()
        await shop.finish(worker)

        found = audit(shop.deployment, shop.model, shop.log)
        assert clean(found, 600)
        known = samples(shop.log, shop.model)
        assert {s.id for s in known if s.kind == "label"} == {v.payment for v in events.verdicts}
        last = max(s.known for s in known) + 1
        shops = {event.id: event.shop for event in events.payments}
        place = shop.model.vector.names.index("Outcomes.share_7d")
        for name in sorted(set(shops.values())):
            week = [s.label for s in known if shops[s.id] == name and last - 7 * DAY < s.known <= last]
            share = sum(map(bool, week)) / len(week) if week else None
            assert (await asked(shop, Payment("probe", "c1", name, 1.0, last)))[place] == share


async def test_requests_wait_for_the_sources_that_another_worker_folds(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    events = business(400, seed=8, step=20 * MINUTE)
    project = build(topic_prefix)
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        # the session outlasts the sleep: nobody takes the partitions of the one that is stopped
        awake, asleep = (shop.start(session_timeout=12.0) for _ in range(2))

        async def both_own_something() -> bool:
            tokens = {p.token for p in (await shop.positions()).values()}
            return len(tokens) == 2 and NOBODY not in tokens

        await shop.until(both_own_something, awake, asleep)
        await shop.produce(sent(project, *events.payments[:100]))
        await shop.until(shop.done, awake, asleep)
        asleep.send(signal.SIGSTOP)
        await shop.produce(sent(project, *events.payments[100:], *events.verdicts))

        async def begun() -> bool:
            return await shop.folded() > 110

        await shop.until(begun, awake)
        asleep.send(signal.SIGCONT)
        await shop.finish(awake, asleep)

        found = audit(shop.deployment, shop.model, shop.log)
        assert clean(found, 400)
        vectors, _ = replayed(project, events)
        assert {p.id: p.vector for p in found.predictions} == vectors


async def test_samples_of_vectors_in_the_log_are_byte_for_byte_those_of_vectors_in_redis(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    """A join with its vectors in the log, killed on the way; then its log is joined again with vectors beside it."""
    events = business(900, seed=6, step=HOUR, judged=0.6)
    project = build(topic_prefix, absent=False, vectors="log")
    async with rig(
        project, builder(topic_prefix, absent=False, vectors="log"), tmp_path, kafka, redis_url
    ) as shop:
        await shop.produce(sent(project, *events.payments, *events.verdicts))
        (group,) = shop.deployment.groups[shop.model.log_topic]
        worker = shop.start()

        async def half_joined() -> bool:
            return (await shop.positions())[Partition(group.topic, 0), "join"].next > 700

        await shop.until(half_joined, worker)
        worker.kill()
        worker = shop.start()
        await shop.finish(worker)
        taken = samples(shop.log, shop.model)
        fields = await shop.store.fields(keys.join(group.tag))

        other = House(build(topic_prefix, absent=False))
        end = shop.log.highwaters([Partition(group.topic, 0)])[Partition(group.topic, 0)]
        for batch in shop.log.read(group.topic, 0, 0, end):
            other.log.records[Partition(group.topic, 0)] += batch
        await (await other.worker()).end()

    again = other.log.values(shop.model.samples_topic)
    assert [encode_sample(sample) for sample in taken] == [record.value for record in again]
    assert kinds(taken)["absent"] > 250
    assert {name[:1] for name, _ in fields} <= {b"c", b"e", b"m"}
