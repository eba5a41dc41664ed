"""`headrace models list` beside a worker that publishes: a version is shown with its own figures."""

from __future__ import annotations

from typing import NamedTuple

from headrace.commands.models import _told
from models.learner import Learner
from models.records import decode_sample
from models.snapshot import Key, seal, take
from streams.learn_stage import MONITOR
from tests.streams.memory_log import House
from tests.streams.shop import build, business, sent


class Published(NamedTuple):
    """What a learner has committed: the model and, beside it, its monitor."""

    model: bytes
    monitor: bytes


def published(learner: Learner, key: Key) -> Published:
    sealed = (
        seal(
            take(
                what,
                version=learner.version,
                fingerprint=learner.fingerprint,
                position=learner.position,
                created_ms=learner.version,
            ),
            key,
        )
        for what in (learner.model, learner.monitor)
    )
    return Published(*sealed)


class Publishing:
    """A store in which the newer version is committed after the first read."""

    def __init__(self, older: Published, newer: Published) -> None:
        self._older, self._newer = older, newer
        self._reads = 0

    async def get(self, key: str) -> bytes:
        self._reads += 1
        return (self._older if self._reads == 1 else self._newer).model

    async def fields(self, key: str) -> list[tuple[bytes, bytes]]:
        return [(MONITOR, self._newer.monitor)]


async def test_a_version_is_shown_with_its_own_figures() -> None:
    house = House(build("shop"))
    happened = business(60)
    for outgoing in sent(house.project, *happened.payments, *happened.verdicts):
        house.log.append(outgoing)
    await (await house.worker()).end()
    model, deployment = house.project.models[0], await house.deployment()
    learner, made = model.new_learner(), []
    for record in house.log.values(model.samples_topic):
        learner.on_sample(decode_sample(record.value or b""), record.offset)
        made.append(published(learner, house.key))

    told = await _told(model, Publishing(made[-9], made[-1]), deployment, house.key)

    assert told["version"] == learner.version == len(made)
    assert told["progressive"] == learner.monitor.progressive.figures()
    assert told["created"] == f"1970-01-01T00:00:00.{learner.version:03d}000+00:00"
