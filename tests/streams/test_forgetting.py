"""A worker and a replay come to the same where something is forgotten on the way."""

from __future__ import annotations

import msgspec
import pytest

from features.forgetting import Forgetting, encode_forgetting
from headrace.forgetting import records_of
from models.join_rules import Vectors
from models.project import Project
from streams.replay import Replay
from tests.streams.audit import audit, clean, samples
from tests.streams.memory_log import House
from tests.streams.shop import HOUR, Payment, Verdict, build, business, sent
from tests.streams.test_engine import model, predictions, ran

Event = Payment | Verdict


def replayed(
    project: Project, before: list[Event], value: bytes, after: list[Event]
) -> tuple[dict[str, list[object]], Replay]:
    """The vectors of a run without lag that meets the record between the two, by id."""
    replay = Replay(project)
    sources = {source.event: source for source in project.sources[:2]}  # outcomes come of themselves
    log = [
        *((sources[type(event)], msgspec.json.encode(event)) for event in before),
        *((source, value) for source in sources.values()),
        *((sources[type(event)], msgspec.json.encode(event)) for event in after),
    ]
    scorings = (scoring for source, each in log for scoring in replay.event(source, each))
    return {s.prediction.id: list(s.prediction.vector) for s in scorings}, replay


@pytest.mark.parametrize("vectors", ["redis", "log"])
@pytest.mark.parametrize("outcomes", [False, True])
@pytest.mark.parametrize(("entity", "key"), [("card", "c1"), ("shop", "s3")])
async def test_a_worker_and_a_replay_come_to_the_same(
    entity: str, key: str, outcomes: bool, vectors: Vectors
) -> None:
    house = House(build("shop", outcomes=outcomes, vectors=vectors))
    project = house.project
    happened = business(240, step=HOUR, cards=5, shops=4)
    events: list[Event] = [*happened.payments, *happened.verdicts]
    events.sort(key=lambda event: event.at)
    middle = next(k for k, event in enumerate(events) if event.at > happened.payments[120].at)
    before, after = events[:middle], events[middle:]

    for outgoing in sent(project, *before):
        house.log.append(outgoing)
    await ran(house)
    for outgoing in records_of(project, project.entity(entity), key, house.topics, before[-1].at):
        house.log.append(outgoing)
    await ran(house)
    for outgoing in sent(project, *after):
        house.log.append(outgoing)
    await ran(house)

    value = encode_forgetting(Forgetting(entity, key))
    expected, replay = replayed(project, before, value, after)
    assert {p.id: p.vector for p in predictions(house)} == expected
    assert clean(audit(await house.deployment(), model(house), house.log), 240)
    told = [(s.id, s.label) for s in samples(house.log, model(house))]
    assert replay.counts["sample:label"] == len(told) < len(happened.verdicts)
    assert replay.learner("fraud").version == len(told)

    # without the record both would be others
    remembered, all_of_it = replayed(project, before, encode_forgetting(Forgetting("nobody", "x")), after)
    assert remembered != expected
    assert all_of_it.counts["sample:label"] == len(happened.verdicts)
