"""What bad input gets: the rows of the design's table that concern the stream, each fed and answered.

Labels (of unknown predictions, twice, after the horizon, a feed that stands still) and changed definitions are fed in
`test_engine`, codecs in `test_end_to_end`, owners that sleep in `test_kills`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import Producer as Client

from features.clock import NEVER
from features.embedded import EmbeddedRedis
from features.partition import partition_of
from features.redis import RedisStore
from features.store import Answer, Group, Position, Status, Writes
from headrace.loading import load
from models.deployment import deploy
from models.errors import UnseededLearner
from models.feed import ModelFeed
from models.records import PredictionRecord
from models.scorer import Request, decode_reads
from streams.context import Context
from streams.engine import Engine
from streams.fold_stage import FoldStage
from streams.log import Partition
from streams.metrics import Metrics
from streams.producer import Producer
from streams.worker import run
from tests.parts.broker import Broker
from tests.streams.audit import audit, clean, entries, samples
from tests.streams.memory_log import House
from tests.streams.rig import Rig, rig
from tests.streams.shop import DAY, HOUR, MINUTE, START, Payment, Verdict, build, business, sent
from tests.streams.test_end_to_end import builder


def payment(ident: str, t: int, card: str = "c1", amount: float = 5.0) -> Payment:
    return Payment(ident, card, "s1", amount, START + t)


async def made(house: House, *events: Payment | Verdict) -> dict[str, PredictionRecord]:
    """The predictions after these events, by id."""
    for outgoing in sent(house.project, *events):
        house.log.append(outgoing)
    worker = await house.worker()
    await worker.end()
    found = entries(house.log, house.project.models[0])
    return {entry.id: entry for entry in found if isinstance(entry, PredictionRecord)}


def count_7d(house: House, prediction: PredictionRecord) -> object:
    return prediction.vector[house.project.models[0].vector.names.index("Card.count_7d")]


# -- bad records, on real parts


async def test_poison_goes_to_the_dead_letters_with_reason_origin_and_bytes_and_the_partition_goes_on(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    project = build(topic_prefix, max_bytes=2_000)
    payments, verdicts = project.sources
    good = [payment(f"p{k}", k * MINUTE) for k in range(6)]
    home = partition_of(b"c1", 4)
    (other,) = sent(project, payment("elsewhere", 0))
    poison = [
        ("undecodable", b"c1", b"{", home),
        ("undecodable", b"c1", b'{"id":"x","card":"c1","shop":"s1","amount":NaN,"at":1767225600000}', home),
        ("undecodable", b"c1", b'{"id":"x","card":"c1","shop":"s1","amount":"12","at":1767225600000}', home),
        (
            "number_out_of_range",
            b"c1",
            b'{"id":"x","card":"c1","shop":"s1","amount":1e40,"at":1767225600000}',
            home,
        ),
        (
            "time_out_of_range",
            b"c1",
            b'{"id":"x","card":"c1","shop":"s1","amount":1.0,"at":9007199254740992}',
            home,
        ),
        ("too_large", b"c1", b'{"id":"' + b"x" * 3_000 + b'"}', home),
        ("no_value", b"c1", None, home),
        ("no_key", None, other.value, home),
        ("misplaced", b"c1", other.value, (home + 1) % 4),
    ]
    async with rig(project, builder(topic_prefix, max_bytes=2_000), tmp_path, kafka, redis_url) as shop:
        client = Client({"bootstrap.servers": kafka.bootstrap})
        for _, key, value, number in poison:
            client.produce(payments.topic, value, key, number, timestamp=START)
        client.produce(verdicts.topic, b"[]", b"p0", timestamp=START)
        client.flush()
        await shop.produce(sent(project, *good, Verdict("p0", "s1", True, START + HOUR)))
        await shop.finish(shop.start())

        found = shop.letters(payments.topic)
        assert sorted((reason, value) for reason, _, value in found if value is not None) == sorted(
            (reason, value) for reason, _, value, _ in poison if value is not None
        )
        assert sorted(reason for reason, _, _ in found) == sorted(reason for reason, *_ in poison)
        assert sorted(offset for _, offset, _ in found) == sorted([*range(len(poison) - 1), 0])
        assert [(reason, value) for reason, _, value in shop.letters(verdicts.topic)] == [
            ("undecodable", b"[]")
        ]
        findings = audit(shop.deployment, shop.model, shop.log)
        assert clean(findings, 6)
        assert [s.id for s in samples(shop.log, shop.model)] == ["p0"]
        counts = {
            p.id: p.vector[shop.model.vector.names.index("Card.count_7d")] for p in findings.predictions
        }
        assert counts == {f"p{k}": k + 1 for k in range(6)}


async def test_what_no_client_of_ours_wrote_in_a_models_log_is_a_dead_letter() -> None:
    house = House(build("bad"))
    model = house.project.models[0]
    (bad,) = sent(house.project, payment("p0", 0))
    house.log.append(bad._replace(topic=model.log_topic, partition=0))
    house.log.append(bad._replace(topic=model.samples_topic, partition=0, value=b"?"))
    await made(house, payment("p1", 0), Verdict("p1", "s1", True, START + HOUR))

    assert sorted(house.letters()) == [("undecodable", 0), ("undecodable", 0)]
    assert [s.id for s in samples(house.log, model)] == ["p1"]
    assert clean(audit(await house.deployment(), model, house.log), 1)


@pytest.mark.parametrize("size", [899_000, 950_000])
async def test_an_event_that_its_prediction_could_not_carry_is_folded_and_not_scored(size: int) -> None:
    house = House(build("bad"))
    (large,) = sent(house.project, payment("large", 0))
    assert large.value is not None
    more = b',"more":"' + b"x" * (size - len(large.value) - 11) + b'"}'
    house.log.append(large._replace(value=large.value[:-1] + more))
    found = await made(house, payment("p1", HOUR))

    assert count_7d(house, found["p1"]) == 2
    fits = size < 900_000
    assert house.letters() == [] if fits else [("not_logged", 0)]
    assert set(found) == ({"large", "p1"} if fits else {"p1"})


# -- events that come again, late, or too early


async def test_the_same_event_again_has_no_effect_and_is_counted() -> None:
    house = House(build("bad"))
    twice = payment("p0", 0)
    found = await made(house, twice, twice, payment("p1", HOUR))

    assert count_7d(house, found["p1"]) == 2
    worker = await house.worker()
    await worker.end()
    assert count_7d(house, (await made(house, payment("p2", 2 * HOUR)))["p2"]) == 3


async def test_a_request_counts_once_whether_it_was_folded_before_it_was_asked_or_not() -> None:
    house = House(build("bad"))
    before = payment("p0", 0)
    await made(house, before)
    asked = payment("p1", HOUR, amount=9.0)
    deployment = await house.deployment()
    scorer = deployment.scorers["fraud"]

    async def vector() -> list[object]:
        request = Request(asked, asked.at, deployment.home(house.project.sources[0], asked))
        places = scorer.places(request)
        wanted = scorer.reads([places])
        states, _ = decode_reads([places], wanted, await house.store.read(wanted))
        return list(scorer.assemble(request, places, states).vector)

    unfolded = await vector()
    logged = (await made(house, asked))["p1"].vector

    assert unfolded == logged == await vector()
    assert unfolded[house.project.models[0].vector.names.index("Card.count_7d")] == 2


async def test_a_late_event_is_folded_in_its_place_within_the_lateness_and_dropped_beyond() -> None:
    house = House(build("bad"))
    found = await made(
        house,
        payment("new", 5 * DAY),
        payment("late", 4 * DAY + 2 * HOUR),
        payment("later", 4 * DAY),
        payment("last", 5 * DAY + HOUR),
    )

    assert count_7d(house, found["last"]) == 3
    assert count_7d(house, found["late"]) == 1  # nothing that came after it in time
    worker = await house.worker()
    assert clean(audit(await house.deployment(), house.project.models[0], house.log), 4)
    await worker.end()


async def test_an_event_from_the_future_moves_no_clock_and_no_window_but_its_own() -> None:
    house = House(build("bad"), 1)
    found = await made(
        house,
        payment("p0", 0),
        payment("p1", HOUR, card="c2"),
        payment("stray", 4_000 * DAY, card="c3"),
        payment("p2", 2 * HOUR, card="c2"),
        payment("p3", 3 * HOUR),
    )

    assert [count_7d(house, found[name]) for name in ("p2", "p3")] == [2, 2]
    worker = await house.worker()
    (fold,) = [
        stage
        for stage in worker.engine.stages[Partition("bad.payments.v1", 0)]
        if isinstance(stage, FoldStage)
    ]
    assert NEVER < fold.position.clock < START + 4 * HOUR


# -- learners


UNSEEDED = """
from msgspec import Struct
from river.forest import ARFClassifier
from features import Source
from models import Label, ModelSpec, Project

class Row(Struct, frozen=True):
    id: int
    x: float
    at: int

class Truth(Struct, frozen=True):
    id: int
    y: bool
    at: int

rows = Source("rows.v1", Row, id=Row.id, time=Row.at, key=Row.id)
truth = Source("truth.v1", Truth, id=Truth.id, time=Truth.at)
model = ModelSpec(
    "forest", request=rows, inputs=[Row.x], label=Label(truth, value=Truth.y, within="1d"), learner=ARFClassifier(%s)
)
project = Project("unseeded", model)
"""


def test_a_learner_that_draws_from_an_unseeded_generator_is_refused_at_load(tmp_path: Path) -> None:
    unseeded, seeded = tmp_path / "forest_unseeded.py", tmp_path / "forest_seeded.py"
    unseeded.write_text(UNSEEDED % "n_models=3")
    seeded.write_text(UNSEEDED % "n_models=3, seed=7")

    with pytest.raises(UnseededLearner, match="seed"):
        load(unseeded)
    assert load(seeded).project.name == "unseeded"


# -- parts that are away, and owners that are too many


async def test_a_worker_whose_redis_is_down_pauses_and_goes_on(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    events = business(2_000, seed=8, step=MINUTE)
    project = build(topic_prefix)
    with EmbeddedRedis.start(tmp_path / "redis") as redis:
        async with rig(project, builder(topic_prefix), tmp_path, kafka, redis.url) as shop:
            await shop.produce(sent(project, *events.payments))
            worker = shop.start()

            async def begun() -> bool:
                return await shop.folded() > 300

            await shop.until(begun, worker)
            redis.kill()

            async def paused() -> bool:
                return "paused: cannot" in worker.said()

            await shop.produce(sent(project, *events.verdicts))
            await shop.until(paused, worker)
            redis.restart()
            await shop.finish(worker)

            assert clean(audit(shop.deployment, shop.model, shop.log), 2_000)
            taken = samples(shop.log, shop.model)
            assert len(taken) == 2_000
            assert {s.id for s in taken} == {p.id for p in events.payments}


class Call(NamedTuple):
    """One call of the store, between the two ticks at which it was sent and answered."""

    name: str
    reader: str
    what: str
    sent: int
    answered: int


class Noting(RedisStore):
    """Notes what was applied, and who claimed."""

    def __init__(self, url: str, notes: list[Call], ticks: Iterator[int], name: str) -> None:
        super().__init__(url)
        self._notes, self._ticks, self._name = notes, ticks, name

    async def commit(
        self, group: Group, start: Position, end: Position, writes: Writes, reader: str = ""
    ) -> Answer:
        sent = next(self._ticks)
        answer = await super().commit(group, start, end, writes, reader)
        self._note(group, reader, answer.status.name, sent)
        return answer

    async def claim(self, group: Group, initial: Position, reader: str = "") -> Position:
        sent = next(self._ticks)
        position = await super().claim(group, initial, reader)
        self._note(group, reader, "CLAIMED", sent)
        return position

    def _note(self, group: Group, reader: str, what: str, sent: int) -> None:
        self._notes.append(Call(self._name, f"{group.tag}@{reader}", what, sent, next(self._ticks)))


async def owner(made: Rig, name: str, notes: list[Call], ticks: Iterator[int]) -> None:
    """A worker in a group of its own: it is given every partition, whoever else has it."""
    store = Noting(made.redis, notes, ticks, name)
    deployment = await deploy(made.project, store, {t: len(g) for t, g in made.deployment.groups.items()})
    feed = ModelFeed(store, deployment, [made.key])
    async with Producer(made.bootstrap) as producer:
        context = Context(deployment, store, producer, feed, made.key, (), lambda: 0, Metrics(), hold=1e6)
        engine = Engine(context)
        following = asyncio.create_task(feed.run())
        try:
            await run(
                engine,
                engine.topics(),
                bootstrap=made.bootstrap,
                group=f"{made.project.name}.{name}",
                signals=(),
                poll_records=100,
            )
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await store.close()


async def test_of_two_workers_that_own_a_partition_only_one_advances_it(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    events = business(2_000, seed=9)
    project = build(topic_prefix)
    notes: list[Call] = []
    ticks = count()
    async with rig(project, builder(topic_prefix), tmp_path, kafka, redis_url) as shop:
        await shop.produce(sent(project, *events.payments, *events.verdicts))
        first = asyncio.create_task(owner(shop, "first", notes, ticks))

        async def begun() -> bool:
            assert not first.done(), first.exception()
            return await shop.folded() > 100

        await shop.until(begun)
        second = asyncio.create_task(owner(shop, "second", notes, ticks))

        async def done() -> bool:
            assert not any(task.done() for task in (first, second))
            return await shop.done()

        await shop.until(done)
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)

        assert {note.name for note in notes if note.what == "CLAIMED"} == {"first", "second"}
        assert _applied_by_others(notes) == []
        assert clean(audit(shop.deployment, shop.model, shop.log), 2_000)
        taken = samples(shop.log, shop.model)
        assert len(taken) == 2_000
        assert {s.id for s in taken} == {p.id for p in events.payments}


def _applied_by_others(notes: list[Call]) -> list[Call]:
    """The commits applied although another had claimed.

    Its claim was answered before the commit was sent, and the committer had not claimed since. Calls that overlap are
    in an order that only the server knows, and prove nothing.
    """
    claims = [note for note in notes if note.what == "CLAIMED"]

    def lost(commit: Call) -> bool:
        own = [c for c in claims if c.reader == commit.reader and c.name == commit.name]
        return any(
            c.answered < commit.sent and all(mine.answered < c.sent for mine in own)
            for c in claims
            if c.reader == commit.reader and c.name != commit.name
        )

    return [note for note in notes if note.what == Status.APPLIED.name and lost(note)]
