"""`headrace forget` on real parts: states, waiting predictions and outcomes go, and nothing brings them back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import redis as blocking
from msgspec import Struct

from features import Count, Entity, FeatureView, Last, Source
from features.partition import partition_of
from headrace.errors import UsageRefused
from headrace.forgetting import checked, records_of
from models import Project
from models.records import PredictionRecord
from streams.producer import Outgoing
from tests.headrace.conftest import Answer, Cli
from tests.parts.broker import Broker
from tests.streams.audit import audit, clean, entries, samples
from tests.streams.rig import Rig, rig
from tests.streams.shop import HOUR, Payment, build, business, sent
from tests.streams.test_end_to_end import builder

WHO = "c1"


def stored(url: str) -> list[tuple[str, bytes]]:
    """The states in Redis, without the names that groups were given."""
    with blocking.Redis.from_url(url) as client:
        names = [name for name in client.scan_iter("{*}*.*") if client.type(name) == b"string"]
        return sorted((name.decode().partition(".")[2], client.get(name) or b"") for name in names)


async def forget(cli: Cli, shop: Rig, *words: str) -> Answer:
    where = ("--kafka", shop.bootstrap, "--redis", shop.redis, "--json")
    return await asyncio.to_thread(cli, "forget", shop.file, *words, *where)


async def test_an_entity_is_forgotten_and_nothing_brings_it_back(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str, cli: Cli
) -> None:
    project = build(topic_prefix, outcomes=True)
    events = business(90, seed=3, step=HOUR, cards=6)
    early, late = events.verdicts[:40], events.verdicts[40:]
    mine = {payment.id for payment in events.payments if payment.card == WHO}
    text = f"from tests.streams.shop import build\n\nproject = build({topic_prefix!r}, outcomes=True)\n"
    async with rig(project, text, tmp_path, kafka, redis_url) as shop:
        worker = shop.start()
        await shop.produce(sent(project, *events.payments, *early))
        await shop.until(shop.done, worker)
        learned = {sample.id for sample in samples(shop.log, shop.model)}
        assert mine & learned
        assert mine - learned
        before = stored(redis_url)
        assert WHO in dict(before)

        answer = await forget(cli, shop, "card", WHO)

        assert answer.code == 0, answer.err
        told = json.loads(answer.out)
        home = partition_of(WHO.encode(), 4)
        assert [place.partition(" ")[0] for place in told["records"]] == [
            f"{topic_prefix}.payments.v1/{home}"
        ]
        assert told["states"] == {"before": 1, "now": 0}
        assert [state for state in stored(redis_url) if state[0] != WHO] == [s for s in before if s[0] != WHO]

        # its labels come, and it pays once more
        again = Payment("again", WHO, "s1", 5.0, events.payments[-1].at + HOUR)
        await shop.produce(sent(project, again, *late))
        await shop.finish(worker)
        assert {sample.id for sample in samples(shop.log, shop.model)} & mine == mine & learned
        assert {verdict.payment for verdict in late} - mine <= {s.id for s in samples(shop.log, shop.model)}
        seen = shop.model.vector.names.index("Card.count_7d")
        (made,) = {
            entry.id: entry
            for entry in entries(shop.log, shop.model)
            if isinstance(entry, PredictionRecord) and entry.id == "again"
        }.values()
        assert made.vector[seen] == 1  # itself
        assert clean(audit(shop.deployment, shop.model, shop.log), len(events.payments) + 1)

        # the store is lost, and all of it comes from the log once more
        after = stored(redis_url)
        with blocking.Redis.from_url(redis_url) as client:
            client.flushall()
        await shop.finish(shop.start())
        assert stored(redis_url) == after


async def test_whoever_is_not_there_to_read_it_is_named_and_it_is_not_lost(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str, cli: Cli
) -> None:
    project = build(topic_prefix)
    events = business(20, seed=3, step=HOUR, cards=2)
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        await shop.produce(sent(project, *events.payments))
        await shop.finish(shop.start())
        answer = await forget(cli, shop, "card", WHO, "--timeout", "0.3")
        assert answer.code == 1
        assert f"{topic_prefix}.payments.v1/{partition_of(WHO.encode(), 4)} at " in answer.err
        assert "start the workers" in answer.err
        assert WHO in dict(stored(redis_url))

        await shop.finish(shop.start())
        assert WHO not in dict(stored(redis_url))


async def test_it_says_what_it_would_write_and_writes_nothing(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str, cli: Cli
) -> None:
    project = build(topic_prefix)
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        answer = await forget(cli, shop, "shop", "s1", "--dry-run")
        assert json.loads(answer.out)["records"] == [
            f"{topic_prefix}.{source}.v1/{n}" for source in ("payments", "verdicts") for n in range(4)
        ]
        assert all(b.highwater == 0 for b in shop.log.bounds(project.sources[0].topic).values())

        without = await forget(cli, shop, "card", WHO, "--no-wait")
        assert json.loads(without.out).keys() == {"entity", "key", "records"}
        assert sum(b.highwater for b in shop.log.bounds(project.sources[0].topic).values()) == 1


def test_what_cannot_be_a_key_is_refused(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "shop.py"
    file.write_text(builder("shop"))
    unknown = cli("forget", file, "planet", "mars")
    assert unknown.code == 1
    assert "use one of card, shop" in unknown.err


class Ride(Struct, frozen=True):
    id: str
    city: str
    driver: int
    at: int


class Driver(Struct, frozen=True):
    driver: int
    city: str
    at: int


rides = Source("forget.rides.v1", Ride, id=Ride.id, time=Ride.at, key=Ride.driver)
drivers = Source("forget.drivers.v1", Driver, time=Driver.at, key=Driver.driver, compacted=True)
driver = Entity("driver", by=(Ride.driver, Driver.driver))
city = Entity("city", by=Ride.city)
place = Entity("place", by=(Ride.city, Ride.driver))


class OfDriver(FeatureView, of=driver, source=rides):
    count_1d = Count().over("1d")


class Known(FeatureView, of=driver, source=drivers):
    city = Last(Driver.city).lifetime(unbounded=True)


class OfPlace(FeatureView, of=place, source=rides):
    count_1d = Count().over("1d")


class OfCity(FeatureView, of=city, source=rides):
    count_1d = Count().over("1d")


@pytest.mark.parametrize(
    ("name", "key", "why"),
    [
        ("driver", "7", ""),
        ("driver", "-7", ""),
        ("driver", "x", "no whole number"),
        ("driver", "07", "no whole number"),
        ("place", "Bern|7", ""),
        ("place", "a\\|b|7", ""),
        ("place", "Bern", "has 2 part"),
        ("place", "a|b|7", "has 2 part"),
        ("place", "Bern|seven", "no whole number"),
        ("city", "a|b", ""),  # nothing is joined in a key of one part
    ],
)
def test_a_key_is_one_that_states_have(name: str, key: str, why: str) -> None:
    project = Project("rides", views=[OfDriver, Known, OfPlace, OfCity])
    if why:
        with pytest.raises(UsageRefused, match=why):
            checked(project, name, key)
    else:
        assert checked(project, name, key).name == name


def test_it_goes_where_the_entity_is() -> None:
    project = Project("rides", views=[OfDriver, Known, OfPlace])
    topics = {source.topic: 4 for source in project.sources}
    home = partition_of(b"7", 4)
    assert places(records_of(project, driver, "7", topics, 0)) == [
        ("forget.rides.v1", b"7", home),
        ("forget.drivers.v1", b"7", home),
    ]
    everywhere = [("forget.rides.v1", None, n) for n in range(4)]
    assert places(records_of(project, place, "Bern|7", topics, 0)) == everywhere


def places(records: list[Outgoing]) -> list[tuple[str, bytes | None, int | None]]:
    return [(record.topic, record.key, record.partition) for record in records]
