"""Bases and kept versions: what stands in for the part of the log that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from features.errors import StateCorrupt
from models.deployment import Deployment
from models.records import PredictionRecord, decode_sample
from models.snapshot import take
from streams.bases import Bases
from streams.log import NO_TOPIC_ID, Bounds, Record
from streams.recompute import Recompute, make_bases, predictions_of, rescored, same_value, same_vector
from tests.streams.memory_log import House, MemoryLog
from tests.streams.shop import build, business, sent

PAYMENTS = 400


class Shortened:
    """A log whose topics of this ending have lost everything before the given share."""

    def __init__(self, log: MemoryLog, ending: str, share: float) -> None:
        self._log, self._ending, self._share = log, ending, share

    def bounds(self, topic: str) -> dict[int, Bounds]:
        return {
            number: Bounds(NO_TOPIC_ID, self._earliest(topic, bounds.highwater), bounds.highwater)
            for number, bounds in self._log.bounds(topic).items()
        }

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Record]]:
        assert start >= self.bounds(topic)[partition].earliest, "that part of the log is gone"
        yield from self._log.read(topic, partition, start, end)

    def _earliest(self, topic: str, highwater: int) -> int:
        return int(highwater * self._share) if topic.endswith(self._ending) else 0


@pytest.fixture
async def ended() -> tuple[House, Deployment, list[PredictionRecord]]:
    house = House(build("shop"))
    happened = business(PAYMENTS)
    for outgoing in sent(house.project, *happened.payments, *happened.verdicts):
        house.log.append(outgoing)
    worker = await house.worker()
    await worker.end()
    deployment = await house.deployment()
    return house, deployment, list(predictions_of(house.log, house.project.models[0]))


def bases_of(deployment: Deployment, folder: Path) -> Bases:
    project = deployment.project
    return Bases(folder, {source.topic: project.plans_digest(source) for source in project.sources})


class Half(MemoryLog):
    """The first half of a log."""

    def __init__(self, log: MemoryLog) -> None:
        self.records = {partition: records[: len(records) // 2] for partition, records in log.records.items()}


async def test_a_base_stands_in_for_the_log_before_it(
    ended: tuple[House, Deployment, list[PredictionRecord]], tmp_path: Path
) -> None:
    house, deployment, predictions = ended
    model = house.project.models[0]
    bases = bases_of(deployment, tmp_path)
    made = make_bases(deployment, Half(house.log), bases)
    assert len(made) == sum(
        len(deployment.groups[s.topic]) for s in house.project.sources if s in sources_of(house)
    )
    short = Shortened(house.log, "payments.v1", 0.4)
    without = list(Recompute(deployment, model, short).vectors(iter(predictions)))
    assert all(found.assembled is None for found in without)
    assert "begins at" in without[0].reason
    found = list(Recompute(deployment, model, short, bases=bases).vectors(iter(predictions)))
    checked = [f for f in found if f.assembled is not None]
    assert all(f.assembled and same_vector(f.assembled.vector, f.prediction.vector) for f in checked)
    assert (
        PAYMENTS // 4 < len(checked) < PAYMENTS
    )  # those before the base cannot be checked, and are not called equal


def sources_of(house: House) -> list[object]:
    return [source for source in house.project.sources if house.project.plans_over(source)]


async def test_bases_are_the_same_bytes_whether_made_at_once_or_from_an_earlier_one(
    ended: tuple[House, Deployment, list[PredictionRecord]], tmp_path: Path
) -> None:
    house, deployment, _ = ended
    at_once, in_steps = tmp_path / "once", tmp_path / "steps"
    make_bases(deployment, house.log, bases_of(deployment, at_once))
    make_bases(deployment, Half(house.log), bases_of(deployment, in_steps))
    last = make_bases(deployment, Shortened(house.log, "payments.v1", 0.5), bases_of(deployment, in_steps))
    for path in last:
        assert path.read_bytes() == (at_once / path.name).read_bytes()


async def test_a_damaged_base_is_refused(
    ended: tuple[House, Deployment, list[PredictionRecord]], tmp_path: Path
) -> None:
    house, deployment, predictions = ended
    bases = bases_of(deployment, tmp_path)
    for path in make_bases(deployment, Half(house.log), bases):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    late = [p for p in predictions if min(p.as_of.values()) > 0][-50:]
    with pytest.raises(StateCorrupt, match="damaged"):
        list(Recompute(deployment, house.project.models[0], house.log, bases=bases).vectors(iter(late)))


async def test_a_gap_between_base_and_log_is_refused(
    ended: tuple[House, Deployment, list[PredictionRecord]], tmp_path: Path
) -> None:
    house, deployment, _ = ended
    bases = bases_of(deployment, tmp_path)
    make_bases(deployment, Half(house.log), bases)
    with pytest.raises(StateCorrupt, match="begins at"):
        make_bases(deployment, Shortened(house.log, "payments.v1", 0.8), bases)


async def test_a_kept_version_stands_in_for_the_samples_before_it(
    ended: tuple[House, Deployment, list[PredictionRecord]],
) -> None:
    house, _, _ = ended
    model = house.project.models[0]
    learner = model.new_learner()
    records = house.log.values(model.samples_topic)
    for record in records[: len(records) // 2]:
        learner.on_sample(decode_sample(record.value or b""), record.offset)
    kept = take(
        learner.model,
        version=learner.version,
        fingerprint=model.fingerprint,
        position=learner.position,
        created_ms=0,
    )
    sample = decode_sample(records[-1].value or b"")
    late = PredictionRecord(
        id="x",
        t=0,
        origin="api",
        vector=sample.vector,
        score=0.0,
        version=len(records) - 1,
        fingerprint=model.fingerprint,
        as_of={},
        event=sample.event,
    )
    short = Shortened(house.log, "samples.v1", 0.5)
    ((_, _, reason),) = rescored(short, model, [late])
    assert "no kept version" in reason
    ((_, from_kept, reason),) = rescored(short, model, [late], begin=kept)
    assert not reason
    ((_, from_start, _),) = rescored(house.log, model, [late])
    assert same_value(from_kept, from_start)
