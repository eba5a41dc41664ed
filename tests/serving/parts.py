"""The API with everything real but Kafka."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx
import msgspec
from fastapi import FastAPI

from features import keys
from features.group import FoldGroup
from features.partition import partition_of
from features.redis import RedisStore
from features.source import Source
from features.store import NO_TOPIC, Group, Position, Status, Writes
from models.deployment import Deployment, deploy, topics_of
from models.feed import ModelFeed
from models.learner import Learner
from models.snapshot import Key, development_key, seal, take
from models.snapshot import Position as Learned
from serving.app import create_app
from serving.errors import OutboxUnavailable
from serving.ports import Headers
from serving.settings import Settings
from tests.serving import shop

NOW = 1_790_000_000_000  # the wall clock of every test
TOKEN = b"1" * 16
KEY = development_key("shop")


class Sent(NamedTuple):
    """A record that reached the outbox."""

    topic: str
    key: bytes | None
    value: bytes | None
    time_ms: int
    partition: int | None
    headers: Headers


class MemoryOutbox:
    """An outbox with room for some records, and a broker that can be away."""

    def __init__(self, room: int = 10_000) -> None:
        self.offered: list[Sent] = []
        self.sent: list[Sent] = []
        self.lost = 0
        self.room = room
        self.away = False

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        time_ms: int,
        partition: int | None = None,
        headers: Headers = (),
    ) -> bool:
        if self.away or len(self.offered) >= self.room:
            self.lost += 1
            return False
        self.offered.append(Sent(topic, key, value, time_ms, partition, headers))
        return True

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        time_ms: int,
        partition: int | None = None,
        headers: Headers = (),
    ) -> None:
        if self.away:
            raise OutboxUnavailable(f"no acknowledgement for {topic}")
        self.sent.append(Sent(topic, key, value, time_ms, partition, headers))


class Served(NamedTuple):
    """One API under test."""

    app: FastAPI
    client: httpx.AsyncClient
    store: RedisStore
    deployment: Deployment
    feed: ModelFeed
    outbox: MemoryOutbox

    async def predict(self, event: Any, model: str = "fraud", **query: Any) -> Any:
        """Returns the answer to one prediction, which must be 200."""
        answer = await self.client.post(f"/v1/models/{model}/predict", json=event, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://api")


async def serve(url: str, settings: Settings | None = None, *, patience: float = 5.0) -> Served:
    """Returns an API over a Redis."""
    store = RedisStore(url, timeout=patience)
    deployment = await deploy(shop.project, store, topics_of(shop.project))
    feed = ModelFeed(store, deployment, [KEY], allow=[shop.__name__])
    await feed.poll()
    outbox = MemoryOutbox()
    app = create_app(deployment, store, feed, outbox, settings, now_ms=lambda: NOW)
    return Served(app, client_of(app), store, deployment, feed, outbox)


def payment(number: int, *, age_ms: int = 0, **more: Any) -> dict[str, Any]:
    """Returns a payment made some time before now."""
    made = {
        "id": f"p{number}",
        "card": f"c{number % 7}",
        "terminal": f"t{number % 5}",
        "amount": 10.0 + number % 90 + 0.25,
        "at": _iso(NOW - age_ms),
        "channel": ("web", "shop", None)[number % 3],
    }
    return made | more


def payments(n: int, seed: int = 1) -> list[dict[str, Any]]:
    """Returns payments of the last ten days, in the order of their times."""
    draw = random.Random(seed)
    ages = sorted((draw.randrange(10 * 86_400_000) for _ in range(n)), reverse=True)
    return [
        payment(k, age_ms=age, card=f"c{draw.randrange(6)}", terminal=f"t{draw.randrange(4)}")
        for k, age in enumerate(ages)
    ]


def _iso(ms: int) -> str:
    from features.clock import from_ms

    return from_ms(ms).isoformat()


async def fold(served: Served, source: Source[Any], events: Sequence[Any]) -> None:
    """Folds events into the store, each in the partition of its key."""
    groups = served.deployment.groups[source.topic]
    by_group: dict[Group, list[bytes]] = {group: [] for group in groups}
    for event in events:
        value = msgspec.json.encode(event)
        key = source.key_bytes(source.decode(value)) or b""
        by_group[groups[partition_of(key, len(groups))]].append(value)
    for group, values in by_group.items():
        await fold_partition(served, source, group, values)


async def fold_partition(served: Served, source: Source[Any], group: Group, values: Sequence[bytes]) -> None:
    """Folds records into one group, after those before."""
    store, deployment = served.store, served.deployment
    partitions = deployment.partitions(source)
    claimed = await store.claim(group, Position.start(NO_TOPIC)._replace(token=TOKEN))
    at = FoldGroup(group, source, shop.project.plans_over(source), deployment.codes, claimed, partitions)
    records = [at.prepare(claimed.next + k, _key(source, value), value) for k, value in enumerate(values)]
    missing = at.missing(records)
    at.load(missing, (await store.read({group: missing}))[group].values)
    for batch in at.fold(records, claimed.next + len(values)):
        answer = await store.commit(group, batch.start, batch.end, batch.writes)
        assert answer.status is Status.APPLIED


def learned(model: str, n: int, seed: int = 1) -> Learner:
    """Returns a learner that has learned n made-up samples."""
    compiled = shop.project.model(model)
    learner = compiled.new_learner()
    draw = random.Random(seed)
    for _ in range(n):
        x = {slot.name: _made(slot.type, draw) for slot in compiled.vector.slots}
        learner.model.learn_one(x, _label(model, draw))
        learner.version += 1
    return learner


def _made(kind: type, draw: random.Random) -> Any:
    return {float: draw.random() * 50, int: draw.randrange(9), bool: True, str: draw.choice(["web", "shop"])}[
        kind
    ]


def _label(model: str, draw: random.Random) -> Any:
    if model == "verdict":
        return draw.choice(["good", "bad", "odd"])
    return draw.random() < 0.5 if model == "fraud" else draw.random()


def sealed(learner: Learner, *, fingerprint: str | None = None, key: Key = KEY) -> bytes:
    """Returns the envelope of a learner."""
    snapshot = take(
        learner.model,
        version=learner.version,
        fingerprint=learner.fingerprint if fingerprint is None else fingerprint,
        position=Learned({}, learner.version),
        created_ms=NOW,
    )
    return seal(snapshot, key)


async def publish(served: Served, model: str, envelope: bytes) -> None:
    """Commits a snapshot as the learner does."""
    group = served.deployment.groups[shop.project.model(model).samples_topic][0]
    start = await served.store.claim(group, Position.start(NO_TOPIC)._replace(token=TOKEN), "learn")
    end = start._replace(next=start.next + 1)
    writes = Writes({keys.model(group.tag): envelope})
    answer = await served.store.commit(group, start, end, writes, "learn")
    assert answer.status is Status.APPLIED


async def publish_learned(served: Served, model: str, n: int, seed: int = 1) -> None:
    """Commits a learner of n samples and takes it over."""
    await publish(served, model, sealed(learned(model, n, seed)))
    await served.feed.poll()


def _key(source: Source[Any], value: bytes) -> bytes | None:
    return source.key_bytes(source.decode(value))
