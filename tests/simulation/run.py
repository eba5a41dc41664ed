"""One simulated life of a house, from a seed, and how a failure is made short."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from streams.producer import Outgoing
from tests.simulation.drawn import Case, Life, faults_of, houses_of, life_of
from tests.simulation.invariants import Invariants, Violation
from tests.simulation.loop import SimulatedLoop
from tests.simulation.world import NO_FAULTS, YOUNG, World

THOROUGH = 4  # of so many lives one is checked with the slow oracles as well


def live(case: Case) -> World:
    """Lives it, and returns the world at its end.

    Raises:
        Violation: what must hold does not; the world's story is in its notes.
    """
    chance = random.Random(case.seed)
    life = life_of(case, chance)
    houses = houses_of(life)
    records = life.records
    world: World | None = None

    def decide() -> bool:
        assert world is not None
        return _decide(world, records, over)

    loop = SimulatedLoop(decide)
    over = loop.create_future()
    try:
        deployments = [loop.run_until_complete(house.deployment()) for house in houses]
        faults = faults_of(case)
        if life.orderly:
            faults = faults._replace(clock=0)  # whether a request is live shows in its vector
        world = World(houses, deployments, chance, faults, loop, sides=life.sides, hold=life.hold)
        invariants = world.committed = Invariants(world, life.keyed)
        if life.backlog:
            while records:
                world.append(records.pop(0))
        loop.run_until_complete(_life(world, over))
        invariants.finish(orderly=life.orderly, thorough=case.seed % THOROUGH == 0)
        world.happened.update(invariants.checked)
        world.happened.update(_kind(life))
    except Exception as error:
        if world is not None:
            error.add_note("\n".join(["the story:", *world.story]))
        raise
    finally:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # killed, as processes are
        loop.close()
    return world


def _kind(life: Life) -> Iterator[str]:
    yield "lives"
    for name in ("backlog", "orderly"):
        if getattr(life, name):
            yield name
    if life.sides > 1:
        yield "shared"


async def _life(world: World, over: asyncio.Future[None]) -> None:
    world.start()
    await over
    world.late.clear()
    world.faults = NO_FAULTS
    if not await world.settle():
        standing = [world.workers[who].engine.status()["groups"] for who in world.alive]
        raise Violation(f"whoever is left stands still: {standing}")
    for who in sorted(world.alive):
        world.crash(who)
    for house in (*world.houses[::-1], *world.houses[1:]):  # each may write what the other one has to read
        last = await house.worker(world.chance)
        await last.end()


def _decide(world: World, records: list[Outgoing], over: asyncio.Future[None]) -> bool:
    if world.failed is not None:
        raise world.failed
    if over.done():
        return world.decide()
    world.decisions += 1
    if records and world.chance.random() < (0.6 if world.idle else 0.15):
        for _ in range(min(len(records), world.chance.randint(1, 6))):
            world.append(records.pop(0))
        return True
    if not records and world.decisions > YOUNG and world.chance.random() < 0.02:
        over.set_result(None)
        return True
    if len(world.alive) < world.sides and (not world.alive or world.chance.random() < 0.1):
        world.start()
        return True
    return world.decide()


# a short story


def shrunk(case: Case) -> Case:
    """Returns the smallest case of the same seed that fails: fewer events, fewer kinds of faults."""
    smaller = True
    while smaller:
        smaller = False
        for other in _smaller(case):
            if fails(other) is not None:
                case, smaller = other, True
                break
    return case


def fails(case: Case) -> BaseException | None:
    """Returns what a case fails with."""
    try:
        live(case)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return error
    return None


def _smaller(case: Case) -> Iterator[Case]:
    most = 40 if case.payments is None else case.payments
    for n in (most // 2, most * 3 // 4, most - 1, most):
        if n > 0 and n != case.payments:
            yield case._replace(payments=n)
    if case.odd:
        yield case._replace(odd=False)
    faults = faults_of(case)
    for name, share in faults._asdict().items():
        if share:
            yield case._replace(faults=faults._replace(**{name: 0}))
