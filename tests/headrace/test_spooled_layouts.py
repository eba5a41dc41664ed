"""A spool says which states its predictions were made from, so that another file's states do not hide them."""

from __future__ import annotations

from pathlib import Path

from features.store import Adoption
from headrace.loading import Loaded
from headrace.logs import layouts_of, opened
from headrace.verifying import Verdict, verify
from streams.spool import Spool
from tests.streams.memory_log import House
from tests.streams.shop import HOUR, build, business, sent


async def spooled(folder: Path) -> House:
    """A house whose file adopted wider states than it needs, and its log on disk."""
    house, events = House(build("spooled", more=True)), business(200, delay=6 * HOUR)
    await (await house.worker()).end()  # the wider file is deployed
    house.project = build("spooled")
    await house.log.send(sent(house.project, *events.payments, *events.verdicts))
    await (await house.worker()).end()
    spool = Spool(folder)
    for topic, count in house.topics.items():
        spool.declare(topic, count)
    for partition, records in house.log.records.items():
        spool.append(*partition, [record for record in records if record is not None])
    spool.close()
    return house


async def verified(house: House, folder: Path) -> Verdict:
    async with opened(Loaded(house.project, ()), folder, "nowhere:1", "redis://nowhere:1") as places:
        return verify(places, places.deployment.project.models[0])


async def test_predictions_from_adopted_states_are_verified_from_the_spool(tmp_path: Path) -> None:
    house = await spooled(tmp_path)
    Spool(tmp_path).keep_layouts(await layouts_of(house.project, house.store))

    verdict = await verified(house, tmp_path)

    assert (verdict.logged, verdict.equal) == (200, 200)


async def test_a_spool_without_layouts_is_read_with_the_states_of_the_file(tmp_path: Path) -> None:
    house = await spooled(tmp_path)

    verdict = await verified(house, tmp_path)

    assert verdict.unchecked == {"made by another version of the project": 200}


def test_layouts_come_back_as_they_were_kept(tmp_path: Path) -> None:
    decided = {"a.b.v1": [Adoption("x", "y", b"\x00[]"), Adoption("z", "y", b"")], "c.d.v1": []}
    Spool(tmp_path).keep_layouts(decided)

    assert Spool(tmp_path).layouts() == decided
    assert not list(tmp_path.glob("*.part"))
