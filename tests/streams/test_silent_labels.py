"""Label partitions that have had too few records for a clock: they must neither stop learning nor hide an outage."""

from __future__ import annotations

import pytest

from features.partition import partition_of
from models.records import ProgressRecord
from tests.streams.audit import entries, kinds, samples
from tests.streams.memory_log import House, Worker
from tests.streams.shop import DAY, HOUR, Payment, Verdict, build
from tests.streams.test_engine import model, payment, produce, verdict

PARTITIONS = 4


def ids(numbers: set[int], count: int) -> list[str]:
    """Ids whose verdicts go to these partitions."""
    every = (f"p{k}" for k in range(100_000))
    found = [ident for ident in every if partition_of(ident.encode(), PARTITIONS) in numbers]
    return found[:count]


def a_week(idents: list[str], first: int = 0) -> list[Payment | Verdict]:
    """Payments of a week, of which every other one is judged an hour later; nine days on, twenty more, all judged."""
    events: list[Payment | Verdict] = []
    for k, ident in enumerate(idents):
        t = first + (k * HOUR if k < len(idents) - 20 else 9 * DAY + k * HOUR)
        events.append(payment(ident, t))
        if k % 2 or t > first + 8 * DAY:
            events.append(verdict(ident, t + HOUR))
    return events


async def worked(worker: Worker) -> None:
    """Gives a worker some seconds."""
    began = worker.clock()
    while worker.clock() < began + 5.0:
        await worker.step()


@pytest.fixture
def house() -> House:
    return House(build("silent", absent=False), {"silent.payments.v1": 1, "silent.verdicts.v1": PARTITIONS})


@pytest.mark.parametrize("few", [0, 1])
async def test_a_label_partition_without_a_clock_does_not_hold_absents_back(house: House, few: int) -> None:
    """One that never had a record, and one that had a single one, which makes no clock."""
    produce(house, *a_week(ids({0, 1, 3}, 60)))
    produce(house, *(verdict(ident, HOUR) for ident in ids({2}, few)))
    await worked(await house.worker())

    taken = kinds(samples(house.log, model(house)))
    assert taken["absent"] == 20

    spoken = [e for e in entries(house.log, model(house)) if isinstance(e, ProgressRecord)]
    assert 1 <= len([e for e in spoken if e.source == "silent.verdicts.v1/2"]) < 20


async def test_a_source_whose_labels_all_stand_still_holds_absents_back(house: House) -> None:
    idents = ids({0, 1, 3}, 60)
    produce(house, *(e for e in a_week(idents) if isinstance(e, Payment)))
    produce(house, *(verdict(ident, k * HOUR) for k, ident in enumerate(idents[:8])))
    worker = await house.worker()
    await worked(worker)

    assert kinds(samples(house.log, model(house))) == {"label": 8}
    assert worker.engine.status()["models"]["fraud"]["pending"] == 52


async def test_a_partition_that_has_spoken_once_is_waited_for(house: House) -> None:
    """Two labels make a clock: that it stands still may be an outage, and holds the absents back."""
    produce(house, *a_week(ids({0, 1, 3}, 60)))
    produce(house, *(verdict(ident, HOUR) for ident in ids({2}, 2)))
    await worked(await house.worker())

    assert kinds(samples(house.log, model(house)))["absent"] == 0


async def test_a_label_in_a_partition_that_was_spoken_for_still_counts(house: House) -> None:
    produce(house, *a_week(ids({0, 1, 3}, 60)))
    worker = await house.worker()
    await worked(worker)
    (late,) = ids({2}, 1)
    produce(house, payment(late, 10 * DAY), verdict(late, 10 * DAY + HOUR))
    await worked(worker)

    assert [(s.kind, s.label) for s in samples(house.log, model(house)) if s.id == late] == [("label", True)]
