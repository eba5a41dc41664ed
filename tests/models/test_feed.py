from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from msgspec import Struct
from river.linear_model import LogisticRegression
from river.tree import HoeffdingTreeClassifier

from features import Source, keys
from features.errors import StoreUnavailable
from features.memory import MemoryStore
from models import Label, ModelSpec, Project
from models.deployment import Deployment, deploy, topics_of
from models.feed import HEAD, ModelFeed
from models.learner import Learner
from models.snapshot import Key, Position, development_key, seal, take

KEY = development_key("till")


class Sale(Struct, frozen=True):
    id: str
    amount: float
    at: datetime


class Refund(Struct, frozen=True):
    sale: str
    back: bool
    at: datetime


sales = Source("till.sales.v1", Sale, id=Sale.id, time=Sale.at)
refunds = Source("till.refunds.v1", Refund, id=Refund.sale, time=Refund.at)


def spec(name: str, learner: Any) -> ModelSpec:
    label = Label(refunds, value=Refund.back, within="1d")
    return ModelSpec(name, request=sales, inputs=[Sale.amount], label=label, learner=learner)


project = Project("till", spec("plain", LogisticRegression()), spec("tree", HoeffdingTreeClassifier()))


class Counting(MemoryStore):
    """A store that can be away, and counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int]] = []  # keys and bytes of each look
        self.fetched: list[str] = []
        self.away = False
        self.looks = asyncio.Semaphore(0)

    async def heads(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        self.asked.append((len(keys), size))
        self.looks.release()
        if self.away:
            raise StoreUnavailable("away")
        return await super().heads(keys, size)

    async def get(self, key: str) -> bytes | None:
        self.fetched.append(key)
        return await super().get(key)


class Fed:
    """A feed over such a store."""

    def __init__(self, store: Counting, deployment: Deployment) -> None:
        self.store, self.deployment = store, deployment
        self.feed = ModelFeed(store, deployment, [KEY])

    def key(self, model: str) -> str:
        return keys.model(self.deployment.groups[project.model(model).samples_topic][0].tag)

    def put(self, model: str, envelope: bytes) -> None:
        self.store.values[self.key(model)] = envelope


@pytest.fixture
async def fed() -> Fed:
    store = Counting()
    return Fed(store, await deploy(project, store, topics_of(project)))


def learned(model: str, n: int) -> Learner:
    learner = project.model(model).new_learner()
    for k in range(n):
        learner.model.learn_one({"amount": float(k % 7)}, k % 3 == 0)
        learner.version += 1
    return learner


def sealed(learner: Learner, *, fingerprint: str = "", key: Key = KEY) -> bytes:
    made = take(
        learner.model,
        version=learner.version,
        fingerprint=fingerprint or learner.fingerprint,
        position=Position({}, learner.version),
        created_ms=1,
    )
    return seal(made, key)


async def test_without_a_snapshot_it_is_ready_with_the_untrained_version(fed: Fed) -> None:
    assert not fed.feed.ready("plain")
    await fed.feed.poll()
    assert fed.feed.ready("plain")
    assert fed.feed.predictor("plain").version == 0


async def test_the_newest_snapshot_is_taken_over_and_predicts_as_its_learner(fed: Fed) -> None:
    for n in (5, 40):
        learner = learned("plain", n)
        fed.put("plain", sealed(learner))
        await fed.feed.poll()
        predictor = fed.feed.predictor("plain")
        assert predictor.version == n
        assert predictor.predict([3.0]).score == learner.model.predict_proba_one({"amount": 3.0})[True]
    assert fed.feed.swaps == {"plain": 2}
    assert fed.feed.predictor("tree").version == 0


async def test_a_look_is_one_small_trip_for_all_models_and_nothing_is_fetched_twice(fed: Fed) -> None:
    fed.put("plain", sealed(learned("plain", 5)))
    for _ in range(3):
        await fed.feed.poll()
    assert fed.store.asked == [(2, HEAD)] * 3
    assert fed.store.fetched == [fed.key("plain")]


async def test_versions_of_equal_learners_are_told_apart(fed: Fed) -> None:
    learner = learned("plain", 5)
    fed.put("plain", sealed(learner))
    await fed.feed.poll()
    learner.version = 6  # a sample that changed nothing
    fed.put("plain", sealed(learner))
    await fed.feed.poll()
    assert fed.feed.predictor("plain").version == 6


@pytest.mark.parametrize("bad", ["stranger", "foreign", "cut", "changed", "nothing"])
async def test_a_bad_snapshot_is_counted_and_told_once_and_the_good_one_stays(
    fed: Fed, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    fed.put("plain", sealed(learned("plain", 5)))
    await fed.feed.poll()
    good = fed.feed.predictor("plain")
    whole = sealed(learned("plain", 9))
    fed.put(
        "plain",
        {
            "stranger": sealed(learned("plain", 9), key=Key("stranger", b"x" * 32)),
            "foreign": sealed(learned("plain", 9), fingerprint="of another vector"),
            "cut": whole[:-1],
            "changed": whole[:-1] + bytes([whole[-1] ^ 1]),
            "nothing": b"x",
        }[bad],
    )
    with caplog.at_level(logging.WARNING, "headrace.feed"):
        for _ in range(3):
            await fed.feed.poll()
    assert fed.feed.predictor("plain") is good
    assert fed.feed.ready("plain")
    assert fed.feed.refused.total() == 1
    assert len(caplog.records) == 1
    fed.put("plain", sealed(learned("plain", 10)))
    await fed.feed.poll()
    assert fed.feed.predictor("plain").version == 10


async def test_with_a_bad_snapshot_only_it_is_not_ready(fed: Fed) -> None:
    fed.put("plain", b"x" * 100)
    await fed.feed.poll()
    assert not fed.feed.ready("plain")
    assert fed.feed.ready("tree")


async def test_a_snapshot_that_is_gone_leaves_the_last_good_one(fed: Fed) -> None:
    fed.put("plain", sealed(learned("plain", 5)))
    await fed.feed.poll()
    fed.store.values.clear()
    await fed.feed.poll()
    assert fed.feed.predictor("plain").version == 5


async def test_a_large_snapshot_is_taken_over_too_and_the_collector_runs_again(fed: Fed) -> None:
    learner = learned("tree", 5)
    learner.model.ballast = [float(k) for k in range(100_000)]
    fed.put("tree", sealed(learner))
    await fed.feed.poll()
    assert fed.feed.predictor("tree").version == 5
    assert gc.isenabled()


async def test_it_goes_on_while_the_store_is_away(fed: Fed) -> None:
    fed.feed = ModelFeed(fed.store, fed.deployment, [KEY], interval=0.001)
    fed.store.away = True
    running = asyncio.create_task(fed.feed.run())
    for _ in range(3):
        await fed.store.looks.acquire()
    assert not running.done()
    fed.put("plain", sealed(learned("plain", 5)))
    fed.store.away = False
    for _ in range(
        3
    ):  # one that may have begun before, one that finds it, and one that comes when that is over
        await fed.store.looks.acquire()
    assert fed.feed.predictor("plain").version == 5
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
