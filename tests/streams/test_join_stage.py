"""The join at work in memory: vectors that wait in the log, a quota that is reached, predictions of another version."""

from __future__ import annotations

import logging
import random
from itertools import pairwise

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from features import keys
from models.join import Join
from models.join_rules import Vectors
from models.project import Project
from models.records import PredictionRecord, Sample
from streams.errors import PredictionGone
from streams.join_stage import JoinStage, rules_of
from streams.log import Partition
from tests.streams.audit import entries, fold_of_samples, kinds, model_digest, samples
from tests.streams.memory_log import Crash, Danger, House, Worker
from tests.streams.shop import DAY, HOUR, Business, build, business, sent


def filled(project: Project, events: Business, house: House | None = None) -> House:
    house = house or House(project)
    for outgoing in sent(project, *events.payments, *events.verdicts):
        house.log.append(outgoing)
    return house


async def ran(house: House, **options: object) -> Worker:
    worker = await house.worker(**options)  # type: ignore[arg-type]  # the options of House.worker
    await worker.end()
    return worker


def learnt(house: House) -> list[Sample]:
    return samples(house.log, house.project.models[0])


def join_of(worker: Worker) -> JoinStage:
    (stage,) = [s for stages in worker.engine.stages.values() for s in stages if isinstance(s, JoinStage)]
    return stage


def of_metric(worker: Worker, name: str) -> float | None:
    return worker.engine.context.metrics.registry.get_sample_value(name, {"model": "fraud", "partition": "0"})


# -- vectors in the log


@pytest.mark.parametrize(
    ("absent", "corrections", "delay"), [(False, True, 4 * DAY), (False, False, DAY), (UNSET, False, HOUR)]
)
async def test_samples_are_the_same_bytes_wherever_vectors_wait(
    absent: bool | UnsetType, corrections: bool, delay: int
) -> None:
    """The same model's log, joined twice."""
    whole = filled(
        build("engine", absent=absent, learn_corrections=corrections),
        business(400, judged=0.7, delay=delay, step=HOUR),
    )
    await ran(whole)
    logs = []
    for vectors in ("redis", "log"):
        project = build("engine", absent=absent, learn_corrections=corrections, vectors=vectors)
        again = await joined_again(whole, project)
        logs.append(
            [(r.key, r.value, r.timestamp) for r in again.log.values(project.models[0].samples_topic)]
        )

    assert len(logs[0]) > 250
    assert logs[0] == logs[1]


async def joined_again(house: House, project: Project) -> House:
    """A house whose worker finds nothing but the model's log of another one."""
    other = House(project)
    other.log.records |= {p: r for p, r in house.log.records.items() if p.topic == house.model_log}
    await ran(other, chance=random.Random(3))
    return other


async def test_what_expires_is_read_in_order_and_what_was_polled_is_not_read_again() -> None:
    house = filled(build("engine", absent=False, vectors="log"), business(300, judged=0.5, step=HOUR))
    await ran(house, largest=40)

    expired = [offset for offset, in_order in house.recall.asked if in_order]
    assert len(expired) > 50
    back = [before - offset for before, offset in pairwise(expired)]
    assert max(back) < 50, "two sources interleave in the log, no more"
    assert len(house.recall.asked) <= len(learnt(house))


@pytest.mark.parametrize("seed", range(4))
async def test_kills_change_no_sample_that_waited_in_the_log(seed: int) -> None:
    chance = random.Random(seed)
    events = business(250, seed=seed, judged=0.6, step=HOUR)
    house = filled(build("engine", absent=False, vectors="log"), events)
    danger = Danger(chance, 0.006)
    while True:
        try:
            await (await house.worker(chance, danger=danger)).end()
        except Crash:
            continue
        break

    assert danger.crashes > 0
    undisturbed = await joined_again(house, build("engine", absent=False))
    assert kinds(learnt(house))["absent"] > 50
    assert learnt(house) == learnt(undisturbed)


async def test_a_prediction_that_the_log_has_lost_halts_the_join_and_names_what_to_do() -> None:
    house = filled(build("engine", absent=False, vectors="log"), business(200, judged=0.5, step=HOUR))
    house.recall.earliest = 10**6
    worker = await house.worker()

    with pytest.raises(PredictionGone, match="Raise the retention") as caught:
        await worker.run()

    assert "headrace.engine.fraud.log.v1/0" in str(caught.value)
    position = join_of(worker).position.next
    house.recall.earliest = 0
    again = await house.worker()
    assert join_of(again).position.next == position, "nothing was skipped"
    await again.end()
    assert len({s.id for s in learnt(house)}) == len(learnt(house)) > 0


# -- the quota


async def held_up(caplog: pytest.LogCaptureFixture) -> tuple[House, Worker, Business]:
    """A house whose join is full, and the worker that found it so."""
    events = business(200, judged=0.5, delay=3 * HOUR, step=HOUR)
    house = filled(build("engine", absent=False, max_pending=10), events)
    with caplog.at_level(logging.ERROR, "headrace.worker"):
        worker = await house.worker(largest=20)
        for _ in range(2_000):
            await worker.step()
    return house, worker, events


async def test_a_full_join_says_so_once_and_reads_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    house, worker, _ = await held_up(caplog)

    position = join_of(worker).position.next
    assert position < len(house.log.values(house.model_log))
    (line,) = [record.getMessage() for record in caplog.records]
    for part in ("fraud stands still", "headrace.engine.fraud.log.v1/0", "max_pending", 'vectors="log"'):
        assert part in line
    assert of_metric(worker, "headrace_join_full") == 1
    assert worker.engine.status()["models"]["fraud"]["join_full"] is True
    for _ in range(100):
        await worker.step()
    assert join_of(worker).position.next == position
    log = house.log.records[Partition(house.model_log, 0)]
    on_its_way = [record for record in log[position : position + 3] if record is not None]
    await worker.engine.polled(Partition(house.model_log, 0), on_its_way, len(log))
    assert join_of(worker).position.next == position + 3
    assert len(caplog.records) == 1


async def test_a_full_join_is_full_after_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    _, before, _ = await held_up(caplog)
    caplog.clear()
    house, worker, _ = await held_up(caplog)
    again = await house.worker()

    assert len(caplog.records) == 2
    assert of_metric(again, "headrace_join_full") == 1
    assert join_of(again).position.next == join_of(worker).position.next == join_of(before).position.next


@pytest.mark.parametrize("remedy", [{"max_pending": 1_000}, {"vectors": "log"}])
async def test_a_full_join_goes_on_exactly_once_its_label_allows_more(
    remedy: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    house, _, events = await held_up(caplog)
    house.project = build("engine", absent=False, **remedy)  # type: ignore[arg-type]  # options of build
    worker = await ran(house)

    assert of_metric(worker, "headrace_join_full") is None, "gone with the partition"
    roomy = filled(build("engine", absent=False), events)
    await ran(roomy)
    assert {(s.id, s.kind, s.label) for s in learnt(house)} == {
        (s.id, s.kind, s.label) for s in learnt(roomy)
    }
    assert len(learnt(house)) == len(learnt(roomy)) > 100


# -- predictions of another version


@pytest.mark.parametrize("vectors", ["redis", "log"])
async def test_predictions_of_another_vector_leave_no_sample_and_the_model_is_the_same(
    vectors: Vectors,
) -> None:
    house = filled(build("engine", absent=False), business(200, judged=0.6, delay=DAY, step=HOUR))
    await ran(house)
    before = len(learnt(house))
    house.project = build("engine", absent=False, again=True, vectors=vectors)
    later = business(400, judged=0.6, delay=DAY, seed=7, step=HOUR)
    ids = {payment.id for payment in later.payments[200:]}
    new = Business(later.payments[200:], [v for v in later.verdicts if v.payment in ids])
    worker = await ran(filled(house.project, new, house))

    model = house.project.models[0]
    predictions = [e for e in entries(house.log, model) if isinstance(e, PredictionRecord)]
    assert {p.fingerprint == model.fingerprint for p in predictions} == {True, False}
    sent_since = house.log.values(model.samples_topic)[before:]
    assert [r for r in sent_since if model.fingerprint.encode() not in (r.value or b"")] == []
    assert worker.engine.context.counts["join:sample_foreign"] >= before

    learner = fold_of_samples(house.log, model)
    assert learner.version == len({s.id for s in learnt(house) if s.fingerprint == model.fingerprint}) > 50
    assert model_digest(learner) == await learned_from_all(house)


@pytest.mark.parametrize("outcomes", [False, True])
def test_samples_of_every_vector_leave_where_a_view_counts_outcomes(outcomes: bool) -> None:
    project = build("engine", absent=False, outcomes=outcomes)
    (model,) = project.models

    assert rules_of(project, model, ()).only == (None if outcomes else model.fingerprint)


async def learned_from_all(house: House) -> str:
    """The digest of the model that a join makes which lets the samples of every vector leave."""
    other = House(house.project)
    other.log.records |= {p: r for p, r in house.log.records.items() if p.topic == house.model_log}
    worker = await other.worker()
    stage = join_of(worker)
    stage.join = Join(msgspec.structs.replace(stage.rules, only=None), stage.group.name)
    await worker.end()
    return model_digest(fold_of_samples(other.log, house.project.models[0]))


async def test_a_join_has_its_keys_where_the_error_says_to_delete_them() -> None:
    """What docs/how-to/long-horizons.md tells to do after a loss: the join begins anew with what the log holds."""
    house = filled(build("engine", absent=False, vectors="log"), business(200, judged=0.5, step=HOUR))
    await ran(house)
    learned, taken = fold_of_samples(house.log, house.project.models[0]), learnt(house)
    group = (await house.deployment()).groups[house.model_log][0]
    del house.store.hashes[keys.join(group.tag)]
    del house.store.values[keys.position(group.tag, "join")]
    worker = await ran(house)

    assert worker.engine.context.counts["sample:repeated"] == len(taken)
    assert model_digest(fold_of_samples(house.log, house.project.models[0])) == model_digest(learned)
