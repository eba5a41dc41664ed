"""The whole loop without Kafka: the engine and its stages over a log and a store in memory."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
import pytest

from features.errors import StoreError
from features.memory import MemoryStore
from models.project import Project
from models.records import PredictionRecord, Sample
from models.spec import Model
from streams.fold_stage import FoldStage
from streams.learn_stage import LearnStage
from streams.log import NO_TOPIC_ID, Bounds, Partition
from streams.replay import Replay, Stream, merged
from streams.transport import Carrier, Fetched, Flow, Reading
from tests.streams.audit import audit, clean, entries, fold_of_samples, kinds, model_digest, samples
from tests.streams.memory_log import Crash, Danger, DangerousStore, House, Worker
from tests.streams.shop import DAY, HOUR, MINUTE, START, Business, Payment, Verdict, build, business, sent


def produce(house: House, *events: Payment | Verdict) -> None:
    for outgoing in sent(house.project, *events):
        house.log.append(outgoing)


def payment(ident: str, t: int, card: str = "c1", shop: str = "s1", amount: float = 5.0) -> Payment:
    return Payment(ident, card, shop, amount, START + t)


def verdict(ident: str, t: int, fraud: bool = True, shop: str = "s1") -> Verdict:
    return Verdict(ident, shop, fraud, START + t)


def predictions(house: House) -> list[PredictionRecord]:
    found = entries(house.log, house.project.models[0])
    return [entry for entry in found if isinstance(entry, PredictionRecord)]


def model(house: House) -> Model:
    return house.project.models[0]


def learnt(house: House) -> list[Sample]:
    return samples(house.log, model(house))


async def ran(house: House, **options: object) -> Worker:
    """A worker that has read everything and finished."""
    worker = await house.worker(**options)  # type: ignore[arg-type]  # the options of House.worker
    await worker.end()
    return worker


def replayed(project: Project, events: Business) -> tuple[dict[str, list[object]], Replay]:
    """The vectors of a run without lag, by id."""
    replay = Replay(project)
    payments, verdicts = project.sources[:2]  # outcomes come of themselves
    streams = [
        Stream(payments, [msgspec.json.encode(event) for event in events.payments]),
        Stream(verdicts, [msgspec.json.encode(event) for event in events.verdicts]),
    ]
    vectors: dict[str, list[object]] = {}
    for source, prepared, value in merged(replay, streams):
        for scoring in replay.prepared(source, prepared, value):
            vectors[scoring.prediction.id] = list(scoring.prediction.vector)
    return vectors, replay


@pytest.fixture
def house() -> House:
    return House(build("engine"))


# -- the loop


async def test_events_become_features_predictions_samples_and_a_model(house: House) -> None:
    events = business(300)
    produce(house, *events.payments, *events.verdicts)

    worker = await ran(house)

    assert clean(audit(await house.deployment(), model(house), house.log), 300)
    assert {s.id: s.label for s in learnt(house)} == {v.payment: v.fraud for v in events.verdicts}
    assert worker.engine.context.counts["sample:learned"] == 300
    await worker.feed.poll()
    assert worker.feed.predictor("fraud").version == 300
    assert house.letters() == []


async def test_a_held_run_gives_the_vectors_of_a_run_without_lag(house: House) -> None:
    events = business(400, judged=0.7)
    produce(house, *events.payments, *events.verdicts)
    await ran(house, chance=random.Random(5))

    vectors, _ = replayed(house.project, events)

    assert {p.id: p.vector for p in predictions(house)} == vectors


async def test_a_request_does_not_wait_longer_than_the_hold(house: House) -> None:
    produce(house, payment("p0", 0), payment("p1", HOUR, card="c2"))
    house.log.append(sent(house.project, verdict("p0", -DAY))[0])
    worker = await house.worker(hold=0.0)
    await worker.end()

    assert [p.id for p in predictions(house)] == ["p0", "p1"]
    assert clean(audit(await house.deployment(), model(house), house.log), 2)


async def test_a_request_waits_for_a_source_that_is_behind() -> None:
    house = House(build("engine"), 1)
    produce(house, payment("p0", DAY), verdict("x", 0), verdict("y", 2 * HOUR))
    worker = await house.worker(largest=1)
    payments, verdicts = (Partition(source.topic, 0) for source in house.project.sources)
    paid, judged = house.log.records[payments], house.log.records[verdicts]
    await worker.engine.polled(payments, [r for r in paid if r], 1)
    worker.seek(payments, 1)
    assert predictions(house) == []

    await worker.engine.polled(verdicts, [r for r in judged[:1] if r], 2)
    worker.seek(verdicts, 1)
    assert predictions(house) == []
    await worker.end()

    assert predictions(house)[0].as_of[house.project.sources[1].topic + "/0"] == 2


async def test_requests_wait_for_a_source_that_is_read_again_after_the_store_went_back() -> None:
    house = House(build("engine"), 1)
    produce(house, verdict("x", 0))
    payments, verdicts = (Partition(source.topic, 0) for source in house.project.sources)
    paid, judged = house.log.records[payments], house.log.records[verdicts]
    worker = await house.worker()
    point = dict(house.store.values)
    await worker.engine.polled(verdicts, [r for r in judged if r], 1)
    worker.seek(verdicts, 1)
    house.store.values = point
    produce(house, verdict("y", HOUR), payment("p0", 2 * HOUR))
    await worker.engine.polled(payments, [r for r in paid if r], 1)
    worker.seek(payments, 1)
    await worker.engine.polled(verdicts, [r for r in judged[1:] if r], 2)
    await worker.end()

    assert predictions(house)[0].as_of[verdicts.topic + "/0"] == 2


@pytest.mark.parametrize("of", ["payments", "verdicts"])
async def test_a_stray_from_the_future_holds_back_nobody_behind_it(house: House, of: str) -> None:
    events = business(200, step=HOUR, judged=0.7)
    away = payment("far", 400 * DAY, card="far", shop="far"), verdict("far", 400 * DAY, shop="far")
    (stray,) = sent(house.project, away[of == "verdicts"])
    produce(house, *events.payments[:10], *events.verdicts[:10])
    house.log.append(stray)
    produce(house, *events.payments[10:], *events.verdicts[10:])
    await ran(house)

    vectors, _ = replayed(house.project, events)
    assert {p.id: p.vector for p in predictions(house) if p.id != "far"} == vectors
    assert {s.id: s.label for s in learnt(house)} == {v.payment: v.fraud for v in events.verdicts}


async def test_a_stray_that_was_read_before_what_is_behind_it_lets_nobody_run_ahead(house: House) -> None:
    produce(
        house, payment("a", 0, card="c"), payment("b", HOUR, card="c"), payment("far", 400 * DAY, card="c")
    )
    (partition,) = [p for p, records in house.log.records.items() if records]
    worker = await house.worker()
    (fold,) = [s for s in worker.engine.stages[partition] if isinstance(s, FoldStage)]
    produce(house, payment("z", 2 * HOUR, card="c"))
    records = house.log.records[partition]
    await worker.engine.polled(partition, records[:3], len(records))
    await worker.engine.idle()

    assert (fold.next, fold.front()) == (2, fold.fold.position.clock)

    await worker.engine.polled(partition, records[3:], len(records))
    worker.seek(partition, len(records))
    await worker.engine.idle()
    assert fold.next == 4


def gauge(worker: Worker, name: str, partition: Partition) -> float | None:
    labels = {"topic": partition.topic, "partition": str(partition.number)}
    return worker.engine.context.metrics.registry.get_sample_value(name, labels)


async def test_requests_that_wait_are_counted_until_they_are_scored() -> None:
    house = House(build("engine"), 1)
    early, later, last = verdict("x", DAY - HOUR), verdict("y", DAY - HOUR + 1), verdict("z", 2 * DAY)
    produce(house, payment("p0", DAY), payment("p1", DAY + 1), early, later, last)
    worker = await house.worker(largest=1)
    payments, verdicts = (Partition(source.topic, 0) for source in house.project.sources)

    # one alone could be from the future
    await worker.engine.polled(verdicts, [r for r in house.log.records[verdicts][:2] if r], 3)
    worker.seek(verdicts, 2)
    await worker.engine.polled(payments, [r for r in house.log.records[payments] if r], 2)
    worker.seek(payments, 2)
    assert gauge(worker, "headrace_held_requests", payments) == 2

    await worker.run()
    assert gauge(worker, "headrace_held_requests", payments) == 0


async def test_a_partition_lags_by_what_is_not_delivered_whether_or_not_polls_come(house: House) -> None:
    produce(house, payment("p0", 0))
    worker = await house.worker()
    await worker.run()
    payments = house.project.sources[0].topic
    partition = next(p for p in worker.partitions if p.topic == payments and house.log.records[p])
    assert gauge(worker, "headrace_lag_records", partition) == 0

    produce(house, *(payment(f"q{k}", HOUR) for k in range(3)))  # of the same card
    await worker.engine.idle()
    assert gauge(worker, "headrace_lag_records", partition) == 3

    records = [r for r in house.log.records[partition][1:3] if r]
    await worker.engine.polled(partition, records, 4)
    assert gauge(worker, "headrace_lag_records", partition) == 1

    await worker.engine.revoked(worker.partitions)
    assert gauge(worker, "headrace_lag_records", partition) is None
    assert gauge(worker, "headrace_held_requests", partition) is None


async def test_a_request_is_scored_at_the_end_of_a_log_whose_last_offset_holds_no_record(
    house: House,
) -> None:
    produce(house, payment("p0", 0), verdict("p0", HOUR))
    house.log.mark()
    await ran(house)

    assert [p.id for p in predictions(house)] == ["p0"]
    assert [s.id for s in learnt(house)] == ["p0"]


async def test_offsets_without_records_are_passed_over(house: House) -> None:
    events = business(60)
    together: list[Payment | Verdict] = [*events.payments, *events.verdicts]
    for event in sorted(together, key=lambda event: event.at):
        produce(house, event)
        house.log.mark()
    await ran(house, largest=7)

    assert clean(audit(await house.deployment(), model(house), house.log), 60)
    assert len(learnt(house)) == 60


# -- labels


async def test_a_label_for_an_unknown_prediction_waits_for_it_until_the_horizon_and_is_counted(
    house: House,
) -> None:
    produce(house, verdict("early", 0), verdict("never", 0))
    worker = await house.worker()
    await worker.run()
    produce(house, payment("early", HOUR))
    await worker.run()
    assert [(s.id, s.kind) for s in learnt(house)] == [("early", "label")]

    produce(house, *(payment(f"later{k}", 6 * DAY + k) for k in range(3)))
    await worker.end()

    assert worker.engine.context.counts["join:label_unknown"] == 1
    assert len(learnt(house)) == 1


async def test_the_first_of_two_labels_counts(house: House) -> None:
    produce(house, payment("p0", 0), verdict("p0", HOUR, fraud=True), verdict("p0", 2 * HOUR, fraud=False))
    worker = await ran(house)

    assert [(s.id, s.label) for s in learnt(house)] == [("p0", True)]
    assert worker.engine.context.counts["join:label_duplicate"] == 1


@pytest.mark.parametrize("corrections", [False, True])
async def test_a_label_after_the_horizon_is_a_counted_correction(corrections: bool) -> None:
    after = 5 * DAY + 12 * HOUR  # the horizon of p0, the lateness of labels, and something
    house = House(build("engine", absent=False, learn_corrections=corrections), 1)
    produce(house, payment("p0", 0), *(payment(f"q{k}", after + k) for k in range(3)))
    produce(house, verdict("q0", after + HOUR), verdict("q1", after + 2 * HOUR))
    worker = await house.worker()
    await worker.run()
    assert [(s.id, s.kind, s.label) for s in learnt(house) if s.id == "p0"] == [("p0", "absent", False)]

    produce(house, verdict("p0", after + 3 * HOUR))
    await worker.end()

    wanted = ["absent", "correction"] if corrections else ["absent"]
    assert [s.kind for s in learnt(house) if s.id == "p0"] == wanted
    assert worker.engine.context.counts["join:label_correction"] == 1
    assert worker.engine.context.counts["sample:learned"] == (4 if corrections else 3)


async def test_a_correction_is_no_second_outcome() -> None:
    house = House(build("engine", absent=False, learn_corrections=True, outcomes=True), 1)
    produce(house, payment("p0", 0), *(payment(f"q{k}", 6 * DAY + k, shop="s2") for k in range(2)))
    produce(house, *(verdict(f"x{k}", 6 * DAY + k, shop="s2") for k in range(2)))
    produce(house, verdict("p0", 6 * DAY + HOUR), verdict("x2", 6 * DAY + 2 * HOUR, shop="s2"))
    await ran(house)
    assert kinds(learnt(house)) == {"absent": 1, "correction": 1}
    produce(house, payment("p1", 6 * DAY + 5 * HOUR))
    await ran(house)

    last = predictions(house)[-1]
    assert dict(zip(model(house).vector.names, last.vector, strict=True))["Outcomes.share_7d"] == 0.0


async def test_a_label_feed_that_stands_still_holds_the_absents_back() -> None:
    house = House(build("engine", absent=False), 1)
    produce(house, *(payment(f"p{k}", k * HOUR) for k in range(10)), verdict("p0", 2 * HOUR))
    produce(house, *(payment(f"q{k}", 20 * DAY + k) for k in range(5)))
    worker = await house.worker()
    await worker.run()

    assert kinds(learnt(house)) == {"label": 1}
    assert worker.engine.status()["models"]["fraud"]["pending"] == 14

    produce(house, verdict("q0", 20 * DAY + HOUR), verdict("q1", 20 * DAY + HOUR))
    await worker.end()

    assert kinds(learnt(house)) == {"label": 3, "absent": 9}


# -- failures


@pytest.mark.parametrize("seed", range(6))
async def test_polls_of_any_size_and_kills_anywhere_change_no_vector_and_no_sample(seed: int) -> None:
    chance = random.Random(seed)
    events = business(250, seed=seed, judged=0.6)
    project = build("engine", absent=False)
    vectors, replay = replayed(project, events)
    house = House(project)
    produce(house, *events.payments, *events.verdicts)
    danger = Danger(chance, 0.006)
    worker: Worker | None = None
    while True:
        try:
            worker = await house.worker(chance, danger=danger, cache=chance.choice([2, 100_000]))
            await worker.end()
        except Crash:
            continue
        break

    assert danger.crashes > 0
    found = audit(await house.deployment(), model(house), house.log)
    assert clean(found, 250)
    assert all(p.vector == vectors[p.id] for p in found.predictions)
    taken = learnt(house)
    assert len({s.id for s in taken}) == len(taken)
    assert [(s.id, s.kind, s.label) for s in taken if s.kind == "label"]
    assert {s.id for s in taken if s.kind == "label"} == {v.payment for v in events.verdicts}
    assert kinds(taken)["absent"] == replay.counts["sample:absent"]
    await worker.feed.poll()
    assert worker.feed.predictor("fraud").version == len(taken)
    stages = [s for stages in (await house.worker()).engine.stages.values() for s in stages]
    (learn,) = [s for s in stages if isinstance(s, LearnStage)]
    assert model_digest(learn.learner) == model_digest(fold_of_samples(house.log, model(house)))


async def test_the_final_model_of_a_killed_run_is_that_of_an_undisturbed_one() -> None:
    events = business(300, seed=9)
    digests = set()
    for risk in (0.0, 0.003):
        house = House(build("engine"), {"engine.verdicts.v1": 1, "engine.payments.v1": 3})
        produce(house, *events.payments, *events.verdicts)
        danger = Danger(random.Random(3), risk)
        while True:
            try:
                await (await house.worker(random.Random(4), danger=danger)).end()
            except Crash:
                continue
            break
        assert (danger.crashes > 0) == (risk > 0)
        learner = fold_of_samples(house.log, model(house))
        assert learner.version == 300
        digests.add(model_digest(learner))
    assert len(digests) == 1


def backup(store: MemoryStore) -> tuple[dict[str, bytes], dict[str, dict[bytes, bytes]]]:
    return copy.deepcopy((store.values, store.hashes))


@pytest.mark.parametrize("seed", range(6))
async def test_a_store_that_is_rewound_while_the_worker_runs_is_followed(seed: int) -> None:
    chance = random.Random(seed)
    house = House(build("engine"))
    events = business(250, seed=seed)
    produce(house, *events.payments, *events.verdicts)
    worker = await house.worker(chance, cache=chance.choice([4, 100_000]), largest=20)
    kept = backup(house.store)
    for _ in range(6):
        for _ in range(chance.randrange(1, 30)):
            await worker.step()
        kept = backup(house.store) if chance.random() < 0.5 else kept
        for _ in range(chance.randrange(1, 30)):
            await worker.step()
        house.store.values, house.store.hashes = copy.deepcopy(kept)
    await worker.end()

    assert clean(audit(await house.deployment(), model(house), house.log), 250)
    taken = learnt(house)
    assert len(taken) == 250
    assert {s.id for s in taken} == {p.id for p in events.payments}


async def test_a_store_that_was_emptied_ends_the_worker(house: House) -> None:
    produce(house, payment("p0", 0))
    worker = await house.worker()
    await worker.run()
    house.store.values.clear()
    house.store.hashes.clear()
    produce(house, payment("p1", HOUR))

    with pytest.raises(StoreError, match="holds nothing of"):
        await worker.run()


@pytest.mark.parametrize("seed", range(8))
async def test_an_owner_that_wakes_up_after_another_took_over_writes_nothing(seed: int) -> None:
    chance = random.Random(seed)
    house = House(build("engine"))
    events = business(250, seed=seed)
    produce(house, *events.payments, *events.verdicts)
    safe = Danger(chance, 0.0)
    sleeper = await house.worker(chance, danger=safe, cache=chance.choice([4, 100_000]), largest=20)
    for _ in range(chance.randrange(5, 40)):
        await sleeper.step()
    heir = await house.worker(chance, largest=20)
    store = sleeper.engine.context.store
    assert isinstance(store, DangerousStore)
    before = store.applied
    for _ in range(chance.randrange(0, 40)):
        await heir.step()
    for _ in range(40):
        await sleeper.step()
    await heir.end()
    await sleeper.engine.revoked(sleeper.partitions)

    assert store.applied == before
    assert clean(audit(await house.deployment(), model(house), house.log), 250)
    assert len({s.id for s in learnt(house)}) == len(learnt(house)) == 250


async def test_an_owner_whose_very_batch_another_one_has_committed_is_fenced() -> None:
    house = House(build("engine"), 1)
    produce(house, verdict("x", 0), verdict("y", HOUR))
    verdicts = Partition(house.project.sources[1].topic, 0)
    one, other = [r for r in house.log.records[verdicts] if r]
    first = await house.worker()
    await first.engine.polled(verdicts, [one], 2)  # now it has the state, and need not read it again
    second = await house.worker()
    for worker in (second, first):
        await worker.engine.polled(verdicts, [other], 2)

    assert [worker.engine.stages[verdicts][0].fenced for worker in (first, second)] == [True, False]


async def test_partitions_that_went_to_another_worker_are_forgotten(house: House) -> None:
    """A claim may be cancelled half-way; the next one names what is owned now."""
    worker = await house.worker()
    kept = frozenset(p for p in worker.partitions if p.number == 0)
    bounds = house.log.bounds
    await worker.engine.assigned(kept, {p: bounds(p.topic)[p.number] for p in kept})

    assert worker.engine.stages.keys() == kept


class Steering:
    """A processor that asks for everything while its partitions are taken away."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.found: list[int] = []
        self.flow: Flow

    def attach(self, flow: Flow) -> None:
        self.flow = flow

    async def assigned(
        self, partitions: frozenset[Partition], bounds: Mapping[Partition, Bounds]
    ) -> Mapping[Partition, int]:
        return dict.fromkeys(partitions, 0)

    def ask(self) -> None:
        self.found += [self.flow.position(self.partition), self.flow.highwater(self.partition)]
        self.flow.seek(self.partition, 3)

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        self.ask()

    def wants(self, partition: Partition) -> bool:
        return True

    async def polled(self, partition: Partition, records: Sequence[Any], highwater: int) -> None:
        self.begun.set()
        await self.go_on.wait()
        self.ask()

    async def idle(self) -> None:
        return


async def test_a_partition_may_be_taken_away_while_a_poll_of_it_is_in_hand() -> None:
    partition = Partition("t", 0)
    processor = Steering(partition)
    carrier = Carrier(processor, {"t": 1})
    carrier.readings[partition] = Reading(10, 20)
    (poll,) = carrier.take(carrier.open(), {partition: Fetched(10, 11, 25, [cast("Any", object())])})
    delivery = asyncio.create_task(carrier.deliver(poll))
    await processor.begun.wait()
    release = asyncio.create_task(carrier.release())
    await asyncio.sleep(0)
    processor.go_on.set()
    await asyncio.gather(delivery, release)

    carrier.check()
    assert processor.found == [10, 25, 11, 25]


# -- definitions


async def test_a_changed_definition_folds_beside_the_old_one() -> None:
    events = business(120)
    old = House(build("engine"))
    produce(old, *events.payments, *events.verdicts)
    await ran(old)
    before = backup(old.store)
    new = House(build("engine", more=True))
    new.log, new.store = old.log, old.store
    await ran(new)

    old_groups = {g.name: g.tag for gs in (await old.deployment()).groups.values() for g in gs}
    new_groups = {g.name: g.tag for gs in (await new.deployment()).groups.values() for g in gs}
    changed = {name for name in old_groups if old_groups[name] != new_groups[name]}
    assert changed == {
        *("engine.payments.v1/0", "engine.payments.v1/1"),
        *(f"{old.model_log}/0", f"{model(old).samples_topic}/0"),
    }
    tags = tuple(old_groups[name] for name in changed)
    assert {k: v for k, v in old.store.values.items() if k.startswith(tags)} == {
        k: v for k, v in before[0].items() if k.startswith(tags)
    }
    made = [p for p in predictions(new) if p.fingerprint == model(new).fingerprint]
    assert {p.id for p in made} == {p.id for p in events.payments}
    assert all(len(p.vector) == len(model(new).vector.names) for p in made)


async def test_another_feature_from_the_same_states_rebuilds_nothing() -> None:
    events = business(60)
    old = House(build("engine"))
    produce(old, *events.payments, *events.verdicts)
    await ran(old)
    new = House(build("engine", again=True))
    new.log, new.store = old.log, old.store
    worker = await ran(new)

    assert worker.engine.context.counts["events:engine.payments.v1"] == 0
    old_groups, new_groups = (await old.deployment()).groups, (await new.deployment()).groups
    assert old_groups["engine.payments.v1"] == new_groups["engine.payments.v1"]
    assert old_groups[old.model_log] != new_groups[old.model_log]


# -- partitions that tell nothing


@pytest.mark.parametrize("seed", range(3))
async def test_a_source_that_any_producer_writes_is_read_from_all_its_partitions(seed: int) -> None:
    chance = random.Random(seed)
    house = House(build("engine", partitioner="any"), 3)
    events = business(150, seed=seed)
    for outgoing in sent(house.project, *events.payments, *events.verdicts):
        house.log.append(outgoing._replace(partition=chance.randrange(3)))
    await ran(house, chance=chance)

    assert clean(audit(await house.deployment(), model(house), house.log), 150)
    vectors, _ = replayed(house.project, events)
    assert {p.id: p.vector for p in predictions(house)} == vectors


def spread(events: Business, chance: random.Random) -> Iterator[Payment]:
    """The payments, some up to two hours after their time."""
    late = {event.id: chance.randrange(2 * HOUR) if chance.random() < 0.2 else 0 for event in events.payments}
    yield from sorted(events.payments, key=lambda event: event.at + late[event.id])


@pytest.mark.parametrize("seed", range(4))
async def test_late_events_and_repeats_leave_every_vector_checkable(seed: int) -> None:
    chance = random.Random(seed)
    house = House(build("engine"))
    events = business(250, seed=seed, step=2 * MINUTE)
    for event in spread(events, chance):
        for _ in range(1 + (chance.random() < 0.1)):
            produce(house, event)
    produce(house, *events.verdicts)
    danger = Danger(chance, 0.006)
    while True:
        try:
            worker = await house.worker(chance, danger=danger)
            await worker.end()
        except Crash:
            continue
        break

    assert clean(audit(await house.deployment(), model(house), house.log), 250)
    assert len(learnt(house)) == len({s.id for s in learnt(house)}) == 250


def states(house: House) -> dict[str, bytes]:
    return {key: value for key, value in house.store.values.items() if "." in key}


async def test_a_store_that_went_back_while_nothing_came_is_filled_again(house: House) -> None:
    events = business(40)
    produce(house, *events.payments)
    worker = await house.worker()
    point = dict(house.store.values), {name: dict(cells) for name, cells in house.store.hashes.items()}
    await worker.run()
    after = states(house)
    house.store.values, house.store.hashes = point

    house.clock.now += 1.0
    await worker.run()

    assert states(house) == after


@pytest.mark.parametrize("learned", [0, 40])
async def test_a_store_that_goes_back_while_a_learner_is_read_leaves_a_whole_one(
    house: House, learned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = business(60)
    produce(house, *events.payments, *events.verdicts[:learned])
    await ran(house)
    point = backup(house.store)
    produce(house, *events.verdicts[learned:])
    worker = await ran(house)
    stage = next(
        s for some in (await house.worker()).engine.stages.values() for s in some if isinstance(s, LearnStage)
    )
    get = house.store.get

    async def goes_back(key: str) -> bytes | None:
        found = await get(key)
        house.store.values, house.store.hashes = copy.deepcopy(point)
        return found

    monkeypatch.setattr(house.store, "get", goes_back)
    await stage.load()

    assert stage.learner.version == learned < worker.engine.context.counts["sample:learned"] + learned
    assert stage.learner.monitor.progressive.samples == learned


async def test_a_model_without_its_metrics_is_told_of(house: House) -> None:
    events = business(20)
    produce(house, *events.payments, *events.verdicts)
    await ran(house)
    for cells in house.store.hashes.values():
        cells.pop(b"monitor", None)

    with pytest.raises(StoreError, match="without its metrics"):
        await house.worker()


async def test_a_worker_tells_its_status_while_it_still_claims(house: House) -> None:
    produce(house, *business(10).payments)
    told: list[int] = []

    class Telling(DangerousStore):
        async def fields(self, key: str) -> list[tuple[bytes, bytes]]:
            told.append(len(worker.engine.status()["groups"]))
            return await super().fields(key)

    worker = await house.worker()
    worker.engine.context.store = Telling(house.store, Danger(random.Random(0), 0.0))
    worker._positions.clear()  # as the transport's, which begins to read after the claim
    bounds = {p: Bounds(NO_TOPIC_ID, 0, worker.highwater(p)) for p in worker.partitions}
    worker.engine.attach(Unread())
    await worker.engine.assigned(worker.partitions, bounds)

    assert told
    groups = worker.engine.status()["groups"]
    assert sum(group["lag"] for name, group in groups.items() if name.startswith("engine.payments")) == 20


class Unread:
    """A flow that reads nothing yet."""

    def seek(self, partition: Partition, offset: int) -> None:
        raise KeyError(partition)

    def position(self, partition: Partition) -> int:
        raise KeyError(partition)

    def highwater(self, partition: Partition) -> int:
        raise KeyError(partition)

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        raise KeyError(partitions)
