"""Another file over states that are deployed: what it needs is there, nothing is folded again, nobody else notices."""

from __future__ import annotations

import msgspec
import pytest

from models.project import Project
from models.records import PredictionRecord
from streams.replay import Replay, Stream, merged
from tests.streams.audit import audit, clean, entries
from tests.streams.memory_log import House, Worker
from tests.streams.shop import HOUR, Business, Payment, Verdict, build, business, sent

EVENTS = business(360, delay=6 * HOUR)


def part(k: int, of: int = 3) -> Business:
    """One of consecutive spans of time, with everything that happened in it."""
    first, last = EVENTS.payments[0].at, EVENTS.verdicts[-1].at
    start, end = (first + (last + 1 - first) * x // of for x in (k, k + 1))

    return Business(
        [p for p in EVENTS.payments if start <= p.at < end],
        [v for v in EVENTS.verdicts if start <= v.at < end],
    )


def over(other: House, project: Project) -> House:
    """The house of another file over the same log and store."""
    house = House(project)
    house.log, house.store = other.log, other.store
    house.log.records |= {p: [] for p in House(project).log.records if p not in house.log.records}
    return house


async def worked(house: House, events: Business) -> Worker:
    """A worker of this file reads what happened and goes."""
    moved: list[Payment | Verdict] = [*events.payments, *events.verdicts]
    for outgoing in sent(house.project, *moved):
        house.log.append(outgoing)
    worker = await house.worker()
    await worker.end()
    return worker


async def predicted(house: House, model: str) -> dict[str, PredictionRecord]:
    compiled = (await house.deployment()).project.model(model)
    found = [e for e in entries(house.log, compiled) if isinstance(e, PredictionRecord)]
    assert {p.fingerprint for p in found} == {compiled.fingerprint}
    return {p.id: p for p in found}


def without_lag(project: Project, model: str) -> dict[str, list[object]]:
    """The vectors of the whole history, from the file's own states."""
    replay = Replay(project)
    payments, verdicts = project.sources
    streams = [
        Stream(payments, [msgspec.json.encode(event) for event in EVENTS.payments]),
        Stream(verdicts, [msgspec.json.encode(event) for event in EVENTS.verdicts]),
    ]
    return {
        scoring.prediction.id: list(scoring.prediction.vector)
        for source, prepared, value in merged(replay, streams)
        for scoring in replay.prepared(source, prepared, value)
        if scoring.model == model
    }


async def test_a_second_model_reads_other_windows_at_once_and_the_first_one_goes_on() -> None:
    old = House(build("engine"))
    await worked(old, part(0))
    before = await old.deployment()
    new = over(old, build("engine", beside=True))
    worker = await worked(new, part(1))
    after = await new.deployment()

    assert worker.engine.context.counts["events:engine.payments.v1"] == len(part(1).payments), "nothing again"
    assert {topic: after.groups[topic] for topic in before.groups} == before.groups
    second = await predicted(new, "second")
    expected = without_lag(new.project, "second")
    assert {ident: p.vector for ident, p in second.items()} == {
        p.id: expected[p.id] for p in part(1).payments
    }
    await worker.feed.poll()
    assert {name: worker.feed.predictor(name).version for name in ("fraud", "second")} == {
        "fraud": len(part(0).verdicts) + len(part(1).verdicts),
        "second": len([v for v in part(1).verdicts if v.payment in second]),
    }
    await worked(old, part(2))  # a process with the old file folds on
    whole = await predicted(old, "fraud")
    assert {ident: p.vector for ident, p in whole.items()} == without_lag(old.project, "fraud")
    for house, model, count in ((old, "fraud", 360), (new, "fraud", 360), (new, "second", len(second))):
        deployment = await house.deployment()
        assert clean(audit(deployment, deployment.project.model(model), house.log), count), model


async def test_states_that_nothing_needs_any_more_are_there_when_the_old_file_comes_back() -> None:
    old = House(build("engine"))
    await worked(old, part(0))
    less = over(old, build("engine", less=True))
    assert len(less.project.plans) < len(old.project.plans)
    worker = await worked(less, part(1))
    assert worker.engine.context.counts["events:engine.payments.v1"] == len(part(1).payments)
    await worked(old, part(2))

    full = (await old.deployment()).project.model("fraud")
    found = [e for e in entries(old.log, full) if isinstance(e, PredictionRecord)]
    mine = {p.id: p.vector for p in found if p.fingerprint == full.fingerprint}
    expected = without_lag(old.project, "fraud")
    assert mine == {p.id: expected[p.id] for k in (0, 2) for p in part(k).payments}


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_file_that_needs_less_reads_the_same_values(partitions: int) -> None:
    old = House(build("engine", more=True), partitions)
    await worked(old, part(0))
    plain = House(build("engine"), partitions)
    plain.log, plain.store = old.log, old.store
    await worked(plain, part(1))
    await worked(plain, part(2))

    model = (await plain.deployment()).project.model("fraud")
    assert model.fingerprint != plain.project.model("fraud").fingerprint, "other states are read"
    found = [e for e in entries(plain.log, model) if isinstance(e, PredictionRecord)]
    mine = {p.id: p.vector for p in found if p.fingerprint == model.fingerprint}
    expected = without_lag(plain.project, "fraud")
    assert mine == {p.id: expected[p.id] for k in (1, 2) for p in part(k).payments}
