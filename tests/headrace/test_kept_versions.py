"""`headrace verify` rebuilds versions from the nearest kept one, and comes to the same as from the first sample."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from features import keys
from features.embedded import EmbeddedRedis
from headrace.compose import deployed, snapshot_key
from headrace.loading import load
from models.records import PredictionRecord, decode_sample
from models.snapshot import seal, take
from streams.embedded import EmbeddedKafka
from streams.learn_stage import kept_field
from streams.producer import Outgoing, Producer
from streams.recompute import predictions_of, rescored
from streams.spool import Spool
from tests.headrace.conftest import PAYMENTS, Cli, Played, lines
from tests.headrace.test_loop import changed, replaced


class Versioned(NamedTuple):
    """A log whose predictions are of every version, and a store that kept one of them."""

    where: tuple[str, ...]
    predictions: int
    newest: int
    kept: int


@pytest.fixture(scope="module")
def versioned(played: Played, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versioned]:
    """The played log, with predictions as if each had come when some more samples had been learned."""
    loaded = load(PAYMENTS)
    model = loaded.project.models[0]
    newest = played.files.verdicts
    spool = Spool(played.spool)
    by_time = sorted(predictions_of(spool, model), key=lambda p: p.t)
    made = [replaced(p, version=k * newest // (len(by_time) - 1)) for k, p in enumerate(by_time)]
    scored = {p.id: replaced(p, score=score) for p, score, _ in rescored(spool, model, made)}

    def change(_: int, prediction: PredictionRecord) -> PredictionRecord:
        found: PredictionRecord = scored[prediction.id]
        return found

    folder = changed(played.spool, tmp_path_factory.mktemp("versioned") / "spool", change)
    topics = {path.stem.partition("@")[0]: 0 for path in folder.iterdir()}
    topics = {topic: len(Spool(folder).bounds(topic)) for topic in topics}
    with EmbeddedKafka.start(topics) as kafka, EmbeddedRedis.start() as store:
        asyncio.run(_copy(folder, topics, kafka.bootstrap))
        kept = asyncio.run(_keep(store.url, folder, newest // 2, topics))
        yield Versioned(
            ("--kafka", kafka.bootstrap, "--redis", store.url), played.files.payments, newest, kept
        )


async def _copy(folder: Path, topics: dict[str, int], bootstrap: str) -> None:
    async with Producer(bootstrap) as producer:
        for topic, count in topics.items():
            for number in range(count):
                for batch in Spool(folder).read(topic, number, 0, 1 << 60):
                    await producer.send(
                        [Outgoing(topic, r.key, r.value, (), r.timestamp, number) for r in batch]
                    )


async def _keep(url: str, folder: Path, version: int, topics: dict[str, int]) -> int:
    """Keeps a version as the worker does with one in 10,000."""
    loaded = load(PAYMENTS)
    model = loaded.project.models[0]
    learner = model.new_learner()
    for batch in Spool(folder).read(model.samples_topic, 0, 0, version):
        for record in batch:
            learner.on_sample(decode_sample(record.value or b""), record.offset)
    snapshot = take(
        learner.model,
        version=learner.version,
        fingerprint=model.fingerprint,
        position=learner.position,
        created_ms=0,
    )
    async with deployed(loaded, url, topics) as (store, deployment):
        key = keys.kept(deployment.groups[model.samples_topic][0].tag)
        await store.tell(
            key, kept_field(learner.version).decode(), seal(snapshot, snapshot_key(loaded, None))
        )
    return learner.version


def test_the_outcome_is_the_same_and_samples_are_saved(cli: Cli, versioned: Versioned) -> None:
    asked = ("verify", PAYMENTS, *versioned.where, "--json")
    late = ("--limit", 10)

    (whole,) = cli(*asked, *late, "--no-kept").json["models"]
    (told,) = cli(*asked, *late).json["models"]

    assert whole["equal"] == told["equal"] == 10
    first = told.pop("rescored_from"), whole.pop("rescored_from")
    replayed = told.pop("samples_replayed"), whole.pop("samples_replayed")
    assert first == (versioned.kept, 0)
    assert replayed[1] - replayed[0] == versioned.kept
    assert told == whole


def test_a_kept_version_that_comes_too_late_for_a_prediction_is_left_alone(
    cli: Cli, versioned: Versioned
) -> None:
    (told,) = cli("verify", PAYMENTS, *versioned.where, "--json").json["models"]

    assert (told["rescored_from"], told["samples_replayed"]) == (0, versioned.newest)
    assert (told["equal"], told["kept_refused"]) == (versioned.predictions, {})


def test_a_kept_version_of_another_secret_is_named_and_not_used(cli: Cli, versioned: Versioned) -> None:
    asked = ("verify", PAYMENTS, *versioned.where, "--limit", 10, "--secret", "another secret of ours")

    (told,) = cli(*asked, "--json").json["models"]
    shown = cli(*asked)

    assert (told["rescored_from"], told["equal"], told["different"]) == (0, 10, 0)
    assert "not ours" in told["kept_refused"][str(versioned.kept)]
    assert lines(shown, ["fraud", str(versioned.kept), "not ours"])


def test_a_kept_version_that_was_changed_is_named_and_not_used(cli: Cli, versioned: Versioned) -> None:
    asked = ("verify", PAYMENTS, *versioned.where, "--limit", 10, "--json")
    with redis.Redis.from_url(versioned.where[-1]) as client:
        (key,) = client.keys("*kept")
        field = kept_field(versioned.kept)
        sealed = client.hget(key, field)
        assert isinstance(sealed, bytes)
        client.hset(key, mapping={field: sealed[:-1] + bytes([sealed[-1] ^ 1])})
        (told,) = cli(*asked).json["models"]
        client.hset(key, mapping={field: sealed})

    assert (told["rescored_from"], told["equal"]) == (0, 10)
    assert list(told["kept_refused"]) == [str(versioned.kept)]
