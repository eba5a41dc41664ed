"""One simulated life of a house, from a seed: what is drawn, what is checked, and how a failure is made short."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from features import keys
from features.clock import NEVER
from features.group import FoldGroup
from features.plan import plan_for
from features.read import Reader
from features.state import decode, encode
from features.store import Answer, Group, Position, Status, Writes
from features.window import Sliding
from models.deployment import Deployment
from models.project import Project
from models.snapshot import open_sealed
from streams.log import Partition, Record
from streams.producer import Outgoing
from tests.features import oracle
from tests.simulation.loop import SimulatedLoop
from tests.simulation.world import NO_FAULTS, Faults, World
from tests.streams.audit import audit, fold_of_samples, model_digest, samples
from tests.streams.memory_log import House
from tests.streams.shop import DAY, Payment, Verdict, build, business, sent

PARTITIONS = 2


class Case(NamedTuple):
    """What a life is drawn from; with the seed it decides everything."""

    seed: int
    payments: int = 40
    faults: Faults | None = None  # None draws which kinds of faults this life knows
    odd: bool = True  # events that are late, from the future, doubled, contradicting, or no events at all


class Violation(AssertionError):
    """Something that must hold does not."""


def live(case: Case) -> World:
    """Lives it, and returns the world at its end.

    Raises:
        Violation: what must hold does not; the world's story is in `story`.
    """
    chance = random.Random(case.seed)
    faults = faults_of(case)
    absent = chance.choice((UNSET, False))
    house = House(build("sim", absent=absent, outcomes=chance.random() < 0.3), PARTITIONS)
    records = list(_records(case, house.project, chance))
    world: World | None = None

    def decide() -> bool:
        assert world is not None
        return _decide(world, records, over)

    loop = SimulatedLoop(decide)
    over = loop.create_future()
    try:
        deployment = loop.run_until_complete(house.deployment())
        world = World(house, deployment, chance, faults, loop)
        world.committed = _Watch(world, deployment)
        loop.run_until_complete(_life(world, over))
        loop.run_until_complete(_check(world, absent is UNSET, records_of(house)))
    except Exception as error:
        if world is not None:
            error.add_note("\n".join(["the story:", *world.story]))
        raise
    finally:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # killed, as processes are
        loop.close()
    return world


def faults_of(case: Case) -> Faults:
    """Returns the faults of a case. Each life leaves some kinds out: rare ones would hide behind frequent ones."""
    if case.faults is not None:
        return case.faults
    chance = random.Random(f"faults of {case.seed}")
    return Faults(*[share if chance.random() < 0.7 else 0 for share in Faults()])


async def _life(world: World, over: asyncio.Future[None]) -> None:
    world.start()
    await over
    world.late.clear()
    world.faults = NO_FAULTS
    for who in sorted(world.alive)[:-1]:
        world.crash(who)
    for who in sorted(
        world.alive
    ):  # whoever is left finishes by itself, unless another has taken over from it
        if not await world.settled(who):
            raise Violation(f"{who} stands still: {world.workers[who].engine.status()['groups']}")
        world.crash(who)
    last = await world.house.worker(world.chance)
    await last.end()


def _decide(world: World, records: list[Outgoing], over: asyncio.Future[None]) -> bool:
    if world.failed is not None:
        raise world.failed
    if over.done():
        return world.decide()
    world.decisions += 1
    if records and world.chance.random() < 0.15:
        for _ in range(min(len(records), world.chance.randint(1, 6))):
            world.house.log.append(records.pop(0))
        return True
    if not records and world.decisions > 600 and world.chance.random() < 0.01:
        over.set_result(None)
        return True
    if not world.alive:
        world.start()
        return True
    return world.decide()


# what happens


def _records(case: Case, project: Project, chance: random.Random) -> Iterator[Outgoing]:
    """The records of the sources, about in the order of time, with odd ones among them."""
    happened = business(case.payments, seed=case.seed, cards=chance.choice((2, 8)), shops=3, judged=0.8)
    events: list[Payment | Verdict] = sorted(
        [*happened.payments, *happened.verdicts], key=lambda e: e.at + chance.randrange(DAY // 2)
    )
    strays = 0
    for k, event in enumerate(events):
        (record,) = sent(project, event)
        yield record
        if not case.odd or chance.random() > 0.15:
            continue
        what = chance.randrange(6)
        if what == 0:
            yield record
        elif what == 1 and isinstance(event, Payment):
            yield sent(project, msgspec.structs.replace(event, amount=event.amount + 1))[0]
        elif what == 2 and isinstance(event, Payment) and not strays and k:
            strays += 1
            yield sent(project, msgspec.structs.replace(event, id=f"stray{k}", at=event.at + 30 * DAY))[0]
        elif what == 3:
            yield record._replace(value=b"no event")
        elif what == 4:
            yield record._replace(value=None)
        elif what == 5 and isinstance(event, Payment):
            yield sent(project, msgspec.structs.replace(event, id=f"late{k}", at=event.at - 3 * DAY))[0]


def records_of(house: House) -> dict[str, dict[int, list[Record]]]:
    """The logs of the sources, by topic and partition."""
    return {
        source.topic: {
            number: [r for r in house.log.records[Partition(source.topic, number)] if r is not None]
            for number in range(house.topics[source.topic])
        }
        for source in house.project.sources
    }


# what must hold at every commit


class _Watch:
    """Folds every partition once more, by itself, and compares each applied commit with its own states."""

    def __init__(self, world: World, deployment: Deployment) -> None:
        self._world = world
        self._deployment = deployment
        self._folds: dict[Group, FoldGroup] = {}

    def __call__(
        self, group: Group, start: Position, end: Position, writes: Writes, reader: str, answer: Answer
    ) -> None:
        project = self._deployment.project
        source = next((s for s in project.sources if s.topic == group.topic), None)
        if answer.status is not Status.APPLIED or reader or source is None:
            return
        fold = self._folds.get(group)
        if fold is None or fold.position.next > start.next:
            fold = self._folds[group] = FoldGroup(
                group,
                source,
                project.plans_over(source),
                self._deployment.codes,
                Position.start(start.topic_id),
                len(self._deployment.groups[group.topic]),
            )
        log = self._world.house.log.records[Partition(group.topic, group.partition)]
        prepared = [
            fold.prepare(r.offset, r.key, r.value)
            for r in log[fold.position.next : end.next]
            if r is not None
        ]
        names = fold.missing(prepared)
        fold.load(names, [None] * len(names))
        for _ in fold.fold(prepared, end.next):
            pass
        mine = {
            prefix + entity: encode(plan, state)
            for plan, prefix in zip(fold.plans, fold.prefixes, strict=True)
            for entity, state in _entities(fold, prefix)
        }
        for key, value in writes.sets.items():
            if mine.get(key) != value:
                raise Violation(f"{group.name}: {key} at {end.next} is not the fold of the log")
        if fold.position.next != end.next:
            raise Violation(f"{group.name} stands at {end.next}, not at {fold.position.next}")
        if source.event not in (Payment, Verdict):
            return  # outcomes are told from samples
        clock = _clock(
            event.at for _, event in _events(source.event, [r for r in log[: end.next] if r is not None])
        )
        if clock != end.clock:
            raise Violation(f"the clock of {group.name} at {end.next} is {end.clock}, not {clock}")


def _clock(times: Iterable[int]) -> int:
    """The largest time that two records in a row have reached."""
    clock = previous = NEVER
    for t in times:
        clock, previous = max(clock, min(t, previous)), t
    return clock


def _entities(fold: FoldGroup, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, state in [*fold._young.items(), *fold._old.items()]:
        if key.startswith(prefix) and state is not None:
            yield key[len(prefix) :], state


# what must hold at the end


async def _check(world: World, only_labelled: bool, logs: dict[str, dict[int, list[Record]]]) -> None:
    house, model = world.house, world.house.project.models[0]
    valid = {
        source.topic: _valid(house.project, source.topic, logs[source.topic])
        for source in house.project.sources
    }
    _features(world, valid)
    found = audit(world.deployment, model, house.log)
    if found[1:] != ([], [], []):
        raise Violation(f"predictions that the log does not give: {found[1:]}")
    requests = {event.id for events in valid[model.spec.request.topic].values() for _, event in events}
    if {p.id for p in found.predictions} != requests:
        raise Violation(f"not scored: {requests - {p.id for p in found.predictions}}")
    _samples(world, valid, requests, only_labelled)


def _samples(
    world: World,
    valid: dict[str, dict[int, list[tuple[Record, Any]]]],
    requests: set[str],
    only_labelled: bool,
) -> None:
    house, model = world.house, world.house.project.models[0]
    assert model.spec.label is not None
    taken = [s for s in samples(house.log, model) if s.kind != "correction"]
    ids = [s.id for s in taken]
    if len(ids) != len(set(ids)):
        raise Violation(f"samples taken twice: {sorted(i for i in set(ids) if ids.count(i) > 1)}")
    labels: dict[str, bool] = {}
    for events in valid[model.spec.label.source.topic].values():
        for _, event in events:
            labels.setdefault(event.payment, event.fraud)
    expected = {ident: fraud for ident, fraud in labels.items() if ident in requests}
    got = {s.id: s.label for s in taken if s.kind == "label"}
    if got != expected:
        lost, other = expected.items() - got.items(), got.items() - expected.items()
        raise Violation(f"samples lost: {sorted(lost)}; not as labelled: {sorted(other)}")
    if only_labelled and len(taken) != len(got):
        raise Violation("a sample without a label")
    learner = fold_of_samples(house.log, model)
    tag = world.deployment.groups[model.samples_topic][0].tag
    sealed = house.store.values.get(keys.model(tag))
    if sealed is None:
        if learner.version:
            raise Violation(f"nothing is served of {learner.version} samples")
        return
    served = open_sealed(sealed, [house.key])
    if (served.version, served.digest) != (learner.version, model_digest(learner)):
        raise Violation(
            f"version {served.version} is served, which is not the fold of {learner.version} samples"
        )


def _valid(
    project: Project, topic: str, logs: dict[int, list[Record]]
) -> dict[int, list[tuple[Record, Any]]]:
    """The records that are events, told without the code under test."""
    event = next(source.event for source in project.sources if source.topic == topic)
    return {number: list(_events(event, records)) for number, records in logs.items()}


def _events(event: Any, records: Sequence[Record]) -> Iterator[tuple[Record, Any]]:
    for record in records:
        try:
            yield record, msgspec.json.decode(record.value or b"", type=event)
        except msgspec.DecodeError:
            continue


def _features(world: World, valid: dict[str, dict[int, list[tuple[Record, Any]]]]) -> None:
    """Compares what the stored states of payments answer with loops over the list of events."""
    deployment, store = world.deployment, world.house.store
    for view in world.house.project.views:
        source = view.source
        if source.topic not in valid or not hasattr(source.event, "__struct_fields__"):
            continue
        plan = plan_for(view, deployment.project.plans)
        assert plan is not None
        reader = Reader(view, plan)
        for number, records in valid[source.topic].items():
            group = deployment.groups[source.topic][number]
            prefix = keys.state_prefix(group.tag, deployment.codes[plan.fingerprint])
            entities: dict[str, list[oracle.Event]] = {}
            for record, event in records:
                values = {name: getattr(event, name) for name in event.__struct_fields__}
                tie = plan.source.identify(event, record.offset)
                entities.setdefault(plan.key_of(event), []).append(oracle.Event(event.at, tie, values))
            for entity, events in entities.items():
                data = store.values.get(prefix + entity)
                there, _ = oracle.accepted(_kept(plan, events), source.lateness)
                newest = max(e.t for e in there)
                state = None if data is None else decode(plan, data)
                row = reader.read([state], newest, None)
                for feature, value in zip(view.features, row.values, strict=True):
                    expected = _expected(feature, there, newest)
                    if oracle.bits(value) != oracle.bits(expected):
                        raise Violation(
                            f"{view.__name__}.{feature.name} of {entity} is {value!r}, not {expected!r}"
                        )


def _kept(plan: Any, events: Sequence[oracle.Event]) -> list[oracle.Event]:
    """Conflicts are told by what a plan keeps of an event, not by the rest of it."""
    names = list(plan.paths)
    return [oracle.Event(e.t, e.tie, {name: e.values[name] for name in names}) for e in events]


def _expected(feature: Any, events: Sequence[oracle.Event], t: int) -> Any:
    assert isinstance(feature.window, Sliding)
    window = oracle.Sliding(feature.window.width, feature.window.delay)
    a = feature.aggregation
    wanted = oracle.Wanted(type(a).__name__, a.column.name if a.column else "")
    return oracle.value(wanted, oracle.members(events, window, t), t - window.delay)


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
    for n in (case.payments // 2, case.payments * 3 // 4, case.payments - 1):
        if 0 < n < case.payments:
            yield case._replace(payments=n)
    if case.odd:
        yield case._replace(odd=False)
    faults = faults_of(case)
    for name, share in faults._asdict().items():
        if share:
            yield case._replace(faults=faults._replace(**{name: 0}))
