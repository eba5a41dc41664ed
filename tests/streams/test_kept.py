"""A rescoring goes on from what the worker kept, and comes to the same scores as one from the first sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import msgspec
import pytest

from features import keys
from models.canonical import Digest
from models.records import PredictionRecord
from models.snapshot import Snapshot, development_key, open_sealed, seal
from streams import learn_stage
from streams.kept import Kept
from streams.learn_stage import MONITOR, kept_field, kept_version
from streams.recompute import predictions_of, rescored
from tests.streams.memory_log import House
from tests.streams.shop import build, business, sent

EVERY = 110


class Ended:
    """A project that has run, its predictions, and what the store keeps beside its model."""

    def __init__(self, house: House, cells: dict[bytes, bytes]) -> None:
        self.house, self.cells = house, cells
        self.model = house.project.models[0]
        self.predictions = list(predictions_of(house.log, self.model))
        self.versions = sorted(kept_version(field) for field in cells if field != MONITOR)

    def kept(self, changed: Mapping[int, bytes] = MappingProxyType({})) -> Kept:
        """What is kept, with some versions changed."""
        cells = self.cells | {kept_field(version): data for version, data in changed.items()}
        return Kept(self.model, cells, [self.house.key])

    def opened(self, version: int) -> Snapshot:
        """A kept version."""
        return open_sealed(self.cells[kept_field(version)], [self.house.key])

    def late(self) -> list[PredictionRecord]:
        """Predictions of the last kept version and of those after it."""
        last, count = self.versions[-1], len(self.house.log.values(self.model.samples_topic))
        return [
            msgspec.structs.replace(p, version=last + k % (count - last + 1))
            for k, p in enumerate(self.predictions)
        ]

    def scores(
        self, predictions: list[PredictionRecord], kept: Kept | None
    ) -> tuple[list[tuple[str, str, str]], int]:
        """What each prediction comes to, and how many samples that took."""
        replayed: list[int] = []
        begin = None if kept is None else kept.newest(min(p.version for p in predictions))
        found = rescored(self.house.log, self.model, predictions, replayed.append, begin)
        return [(p.id, repr(score), reason) for p, score, reason in found], len(replayed)


@pytest.fixture
async def ended(monkeypatch: pytest.MonkeyPatch) -> Ended:
    monkeypatch.setattr(learn_stage, "KEEP_EVERY", EVERY)
    monkeypatch.setattr(learn_stage, "SHORTEST", 0.0)
    monkeypatch.setattr(learn_stage, "REST", 0)
    house = House(build("shop"))
    happened = business(400)
    for outgoing in sent(house.project, *happened.payments, *happened.verdicts):
        house.log.append(outgoing)
    worker = await house.worker()
    await worker.end()
    deployment = await house.deployment()
    tag = deployment.groups[house.project.models[0].samples_topic][0].tag
    return Ended(house, dict(await house.store.fields(keys.kept(tag))))


async def test_the_worker_keeps_versions_that_save_the_samples_before_them(ended: Ended) -> None:
    late = ended.late()
    assert len(ended.versions) > 2

    from_start, all_of_them = ended.scores(late, None)
    from_kept, few = ended.scores(late, ended.kept())

    assert from_kept == from_start
    assert not any(reason for _, _, reason in from_kept)
    assert all_of_them == max(p.version for p in late) > ended.versions[-1]
    assert few == all_of_them - ended.versions[-1]


async def test_the_nearest_version_before_the_first_prediction_is_taken(ended: Ended) -> None:
    kept = ended.kept()
    first, second = ended.versions[:2]

    def newest(at_most: int) -> int | None:
        found = kept.newest(at_most)
        return None if found is None else found.version

    assert [newest(first - 1), newest(first), newest(second - 1), newest(second)] == [
        *(None, first, first, second)
    ]


async def test_what_is_handed_out_is_trained_by_nobody_else(ended: Ended) -> None:
    kept = ended.kept()

    assert ended.scores(ended.late(), kept) == ended.scores(ended.late(), kept)


def broken(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


async def test_a_version_whose_digest_differs_is_named_and_an_older_one_is_taken(
    ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, before = ended.versions[-1], ended.versions[-2]
    right, other = ended.opened(last), ended.opened(before)
    # sealed with the digest of another learner than the one inside, as a faulty writer would leave it
    monkeypatch.setattr("models.snapshot.digest_and_unseeded", lambda _: Digest(right.digest, []))
    forged = seal(replace(right, learner=other.learner), ended.house.key)
    monkeypatch.undo()
    kept = ended.kept({last: forged})

    from_kept, replayed = ended.scores(ended.late(), kept)

    assert list(kept.refused) == [last]
    assert f"the header says {right.digest}" in kept.refused[last]
    assert from_kept == ended.scores(ended.late(), None)[0]
    assert replayed == max(p.version for p in ended.late()) - before


async def test_no_version_is_trusted_that_is_not_what_it_should_be(ended: Ended) -> None:
    last, key = ended.versions[-1], ended.house.key
    cases = {
        "cut short": broken(ended.cells[kept_field(last)]),
        f"it holds version {last - 1}": seal(replace(ended.opened(last), version=last - 1), key),
        "of vector another": seal(replace(ended.opened(last), fingerprint="another"), key),
    }
    for reason, data in cases.items():
        kept = ended.kept({last: data})
        found = kept.newest(last)
        assert found is not None
        assert found.version == ended.versions[-2]
        assert reason in kept.refused[last]


async def test_a_key_of_somebody_else_opens_nothing(ended: Ended) -> None:
    kept = Kept(ended.model, ended.cells, [development_key("another")])

    assert kept.newest(1 << 60) is None
    assert sorted(kept.refused) == ended.versions
    assert "not ours" in kept.refused[ended.versions[0]]
