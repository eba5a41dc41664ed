"""What the API's benchmark finds in Redis: states of about thirty events, a learned model, the control's values."""

from __future__ import annotations

import random
from collections.abc import Sequence

import orjson
import redis.asyncio as aio

from features import keys
from features.clock import from_ms
from features.group import FoldGroup
from features.partition import partition_of
from features.redis import RedisStore
from features.store import NO_TOPIC, Group, Position, Writes
from models.deployment import Deployment, deploy, topics_of
from models.snapshot import Position as Learned
from models.snapshot import development_key, seal, take
from tests.bench import scoring

CARDS = 2_000
_EVENTS = 30  # a card
_DAYS = 20
_SAMPLES = 1_000
_TOKEN = b"bench-of-the-api"
_POSITION = 64  # bytes that a read of ours has beside the state


async def fill(url: str, now: int) -> int:
    """Writes states, model and the control's values; returns the mean size of what one prediction reads.

    Args:
        url: Redis.
        now: Milliseconds; the events are of the days before.
    """
    store = RedisStore(url)
    client = aio.Redis.from_url(url)
    deployment = await deploy(scoring.project, store, topics_of(scoring.project))
    sizes = 0
    for group, events in zip(_groups(deployment), _events(now), strict=True):
        sizes += await _fold(deployment, store, client, group, events)
    await _publish(deployment, store, now)
    await store.close()
    await client.aclose()
    return sizes // CARDS


def bodies(now: int, n: int, seed: int = 2) -> list[bytes]:
    """Requests of random cards, as JSON."""
    draw = random.Random(seed)
    return [orjson.dumps(_payment(f"r{k}", draw.randrange(CARDS), now, draw)) for k in range(n)]


def control_key(card: str) -> str:
    """Where the control finds as many bytes as the state of a card has."""
    return f"control:{card}"


def _groups(deployment: Deployment) -> list[Group]:
    return deployment.groups[scoring.payments.topic]


def _events(now: int) -> list[list[dict[str, object]]]:
    draw = random.Random(1)
    partitions: list[list[dict[str, object]]] = [
        [] for _ in range(topics_of(scoring.project)["scoring.payments.v1"])
    ]
    ages = sorted((draw.randrange(_DAYS * 86_400_000) for _ in range(CARDS * _EVENTS)), reverse=True)
    for k, age in enumerate(ages):
        event = _payment(f"e{k}", draw.randrange(CARDS), now - age, draw)
        partitions[partition_of(str(event["card"]).encode(), len(partitions))].append(event)
    return partitions


def _payment(name: str, card: int, t: int, draw: random.Random) -> dict[str, object]:
    return {
        "id": name,
        "card": f"card-{card}",
        "terminal": f"terminal-{draw.randrange(200)}",
        "amount": round(draw.lognormvariate(3.0, 1.0), 2),
        "at": from_ms(t).isoformat(timespec="milliseconds"),
    }


async def _fold(
    deployment: Deployment,
    store: RedisStore,
    client: aio.Redis,
    group: Group,
    events: Sequence[dict[str, object]],
) -> int:
    """Folds the events of a partition; returns the bytes that its states have."""
    source = scoring.payments
    start = await store.claim(group, Position.start(NO_TOPIC)._replace(token=_TOKEN))
    plans = scoring.project.plans_over(source)
    fold = FoldGroup(group, source, plans, deployment.codes, start, deployment.partitions(source))
    records = [
        fold.prepare(k, str(event["card"]).encode(), orjson.dumps(event)) for k, event in enumerate(events)
    ]
    missing = fold.missing(records)
    fold.load(missing, [None] * len(missing))
    sizes: dict[str, int] = {}
    for batch in fold.fold(records, len(records)):
        await store.commit(group, batch.start, batch.end, batch.writes)
        sizes |= {key.rpartition(".")[2]: len(state) for key, state in batch.writes.sets.items()}
    await client.mset({control_key(card): b"c" * (size + _POSITION) for card, size in sizes.items()})
    return sum(sizes.values())


async def _publish(deployment: Deployment, store: RedisStore, now: int) -> None:
    """Commits a model as the learner does."""
    model = scoring.project.model("fraud")
    learner = model.new_learner()
    draw = random.Random(3)
    for _ in range(_SAMPLES):
        x = {slot.name: draw.lognormvariate(3.0, 1.0) for slot in model.vector.slots}
        learner.model.learn_one(x, draw.random() < 0.1)
    snapshot = take(
        learner.model,
        version=_SAMPLES,
        fingerprint=learner.fingerprint,
        position=Learned({}, _SAMPLES),
        created_ms=now,
    )
    group = deployment.groups[model.samples_topic][0]
    start = await store.claim(group, Position.start(NO_TOPIC)._replace(token=_TOKEN), "learn")
    writes = Writes({keys.model(group.tag): seal(snapshot, development_key(scoring.project.name))})
    await store.commit(group, start, start._replace(next=start.next + 1), writes, "learn")
