"""A log in memory, and what carries its polls to an engine: the loop of the worker without Kafka."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from features.memory import MemoryStore
from features.partition import partition_of
from features.store import Adoption, Answer, Group, Position, Read, Status, Store, Writes
from models.deployment import Deployment, deploy, topics_of
from models.feed import ModelFeed
from models.project import Project
from models.snapshot import development_key
from models.topics import dead_letter_topic
from streams.context import Context
from streams.engine import ROLES, Engine
from streams.errors import PredictionGone
from streams.learn_stage import LearnStage
from streams.log import NO_TOPIC_ID, Bounds, Partition, Record
from streams.metrics import Metrics
from streams.producer import Outgoing
from streams.score_stage import ScoreStage

FOREVER = 1e9
PATIENCE = 200_000  # steps; a guard against a loop without end


class MemoryLog:
    """Topics as lists. None is an offset without a record, as the marker of a transaction leaves it."""

    def __init__(self, topics: Mapping[str, int]) -> None:
        self.records: dict[Partition, list[Record | None]] = {
            Partition(topic, number): [] for topic, count in topics.items() for number in range(count)
        }

    async def send(self, batch: Sequence[Outgoing]) -> None:
        for outgoing in batch:
            self.append(outgoing)

    def append(self, outgoing: Outgoing) -> None:
        topic, key, value, headers, timestamp, number = outgoing
        count = sum(partition.topic == topic for partition in self.records)
        if number is None:
            number = partition_of(key, count) if key is not None else 0
        log = self.records[Partition(topic, number)]
        log.append(Record(len(log), timestamp, key, value, tuple(headers)))

    def mark(self) -> None:
        """Ends every partition with an offset that holds nothing to read."""
        for log in self.records.values():
            log.append(None)

    def values(self, topic: str) -> list[Record]:
        """All records of a topic."""
        return [r for p, log in self.records.items() if p.topic == topic for r in log if r is not None]

    def bounds(self, topic: str) -> dict[int, Bounds]:
        return {
            p.number: Bounds(NO_TOPIC_ID, 0, len(log)) for p, log in self.records.items() if p.topic == topic
        }

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Record]]:
        yield [r for r in self.records[Partition(topic, partition)][start:end] if r is not None]


class MemoryRecall:
    """Looks records up in a log in memory; `earliest` is where it begins to hold them."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.earliest = 0
        self.asked: list[tuple[int, bool]] = []  # offsets, and whether as the next in order

    async def values(
        self, partition: Partition, offsets: Sequence[int], in_order: bool
    ) -> Mapping[int, bytes]:
        self.asked += [(offset, in_order) for offset in offsets]
        for offset in offsets:
            if offset < self.earliest:
                raise PredictionGone(*partition, offset, self.earliest)
        records = [self._log.records[partition][offset] for offset in offsets]
        return {record.offset: record.value or b"" for record in records if record is not None}

    async def forget(self, partition: Partition) -> None:
        """Has nothing open."""


class Crash(Exception):
    """The process ends here."""


class Danger:
    """When the process is killed: at any call of the store or of the outputs, before or after its effect."""

    def __init__(self, chance: random.Random, risk: float) -> None:
        self._chance, self._risk = chance, risk
        self.crashes = 0

    def meet(self) -> None:
        if self._chance.random() < self._risk:
            self.crashes += 1
            raise Crash


class DangerousStore:
    """A store in whose calls the process may be killed; counts the commits of this process that were applied."""

    def __init__(self, store: MemoryStore, danger: Danger) -> None:
        self._store, self._danger = store, danger
        self.applied = 0

    async def commit(
        self, group: Group, start: Position, end: Position, writes: Writes, reader: str = ""
    ) -> Answer:
        self._danger.meet()
        answer = await self._store.commit(group, start, end, writes, reader)
        self.applied += answer.status is Status.APPLIED
        self._danger.meet()
        return answer

    async def claim(self, group: Group, initial: Position, reader: str = "") -> Position:
        self._danger.meet()
        return await self._store.claim(group, initial, reader)

    async def read(self, wanted: Mapping[Group, Sequence[str]]) -> dict[Group, Read]:
        return await self._store.read(wanted)

    async def groups(self, project: str, topic: str, plans: str, partitions: int) -> list[Group]:
        return await self._store.groups(project, topic, plans, partitions)

    async def codes(self, fingerprints: Sequence[str]) -> dict[str, str]:
        return await self._store.codes(fingerprints)

    async def layouts(self, project: str, topic: str) -> list[Adoption]:
        return await self._store.layouts(project, topic)

    async def adopt(self, project: str, topic: str, adoption: Adoption) -> None:
        await self._store.adopt(project, topic, adoption)

    async def get(self, key: str) -> bytes | None:
        return await self._store.get(key)

    async def heads(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        return await self._store.heads(keys, size)

    async def tell(self, key: str, field: str, value: bytes) -> None:
        await self._store.tell(key, field, value)

    async def note(self, values: Mapping[str, bytes]) -> None:
        await self._store.note(values)

    async def scan(self, prefix: str, cursor: int) -> tuple[int, list[str]]:
        return await self._store.scan(prefix, cursor)

    async def fields(self, key: str) -> list[tuple[bytes, bytes]]:
        return await self._store.fields(key)

    async def close(self) -> None:
        await self._store.close()


class DangerousOutputs:
    """Outputs that are cut off anywhere: what came before is in the log."""

    def __init__(self, log: MemoryLog, danger: Danger) -> None:
        self._log, self._danger = log, danger

    async def send(self, batch: Sequence[Outgoing]) -> None:
        for outgoing in batch:
            self._danger.meet()
            self._log.append(outgoing)


class Clock:
    """Monotonic seconds that pass with the steps of workers."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class House:
    """A project at work in memory: one log and one store, through which workers come and go."""

    def __init__(self, project: Project, partitions: Mapping[str, int] | int = 2) -> None:
        given = (
            partitions if not isinstance(partitions, int) else {s.topic: partitions for s in project.sources}
        )
        self.project = project
        self.topics = topics_of(project, given)
        self.log = MemoryLog(self.topics | dict.fromkeys(map(dead_letter_topic, self.topics), 1))
        self.store = MemoryStore()
        self.recall = MemoryRecall(self.log)
        self.key = development_key(project.name)
        self.clock = Clock()
        self.now_ms = 0  # the time on the wall, by which events are of long ago or of now

    @property
    def model_log(self) -> str:
        return self.project.models[0].log_topic

    async def deployment(self) -> Deployment:
        return await deploy(self.project, self.store, self.topics)

    async def worker(
        self,
        chance: random.Random | None = None,
        *,
        danger: Danger | None = None,
        hold: float = FOREVER,
        cache: int = 100_000,
        largest: int = 50,
        owns: Callable[[Partition], bool] = lambda _: True,
    ) -> Worker:
        """A new worker that owns every partition, or some."""
        store: Store = self.store if danger is None else DangerousStore(self.store, danger)
        outputs = self.log if danger is None else DangerousOutputs(self.log, danger)
        deployment = await self.deployment()
        feed = ModelFeed(store, deployment, [self.key])
        context = Context(
            *(deployment, store, outputs, feed, self.key, (), lambda: self.now_ms, Metrics(), self.recall),
            hold=hold,
            cache=cache,
            monotonic=self.clock,
        )
        engine = Engine(context, ROLES)
        worker = Worker(self.log, engine, feed, chance or random.Random(0), largest, self.clock, owns)
        await worker.begin()
        return worker

    def letters(self) -> list[tuple[str, int]]:
        """The reasons of the dead letters and the offsets that they tell of."""
        found = []
        for topic in self.topics:
            for record in self.log.values(dead_letter_topic(topic)):
                told = dict(record.headers)
                reason = told["__connect.errors.class.name"] or b""
                found.append((reason.decode(), int(told["__connect.errors.offset"] or b"")))
        return found


class Worker:
    """Carries polls to an engine, of sizes and in an order drawn by chance. It is the engine's `Flow`."""

    def __init__(
        self,
        log: MemoryLog,
        engine: Engine,
        feed: ModelFeed,
        chance: random.Random,
        largest: int,
        clock: Clock,
        owns: Callable[[Partition], bool],
        tick: float = 0.005,
    ) -> None:
        self._tick = tick  # seconds that a step takes
        self.engine, self.feed, self.clock = engine, feed, clock
        self.looks = 0  # how often the ends of logs were asked for
        self._owns = owns
        self._log, self._chance, self._largest = log, chance, largest
        self._positions: dict[Partition, int] = {}
        self._sought: set[Partition] = set()  # since the last poll
        engine.attach(self)

    @property
    def partitions(self) -> frozenset[Partition]:
        every = (
            Partition(topic, number)
            for topic, count in self.engine.topics().items()
            for number in range(count)
        )
        return frozenset(filter(self._owns, every))

    def seek(self, partition: Partition, offset: int) -> None:
        self._positions[partition] = offset
        self._sought.add(partition)

    def position(self, partition: Partition) -> int:
        return self._positions[partition]

    def highwater(self, partition: Partition) -> int:
        return len(self._log.records[partition])

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        self.looks += 1
        return {partition: self.highwater(partition) for partition in partitions}

    async def begin(self) -> None:
        """Claims every partition."""
        partitions = self.partitions
        bounds = {p: Bounds(NO_TOPIC_ID, 0, self.highwater(p)) for p in partitions}
        self._positions = dict.fromkeys(partitions, 0)
        self._positions = dict(await self.engine.assigned(partitions, bounds))

    async def step(self) -> bool:
        """Delivers one poll, or gives the engine a turn; returns whether there was one."""
        self.clock.now += self._tick
        await asyncio.sleep(0)
        await self.feed.poll()
        ready = [p for p in sorted(self._positions) if self._unread(p) and self.engine.wants(p)]
        if not ready or self._chance.random() < 0.1:
            await self.engine.idle()
            return bool(ready)
        partition = self._chance.choice(ready)
        self._sought.discard(partition)
        start = self._positions[partition]
        end = min(start + self._chance.randint(1, self._largest), self.highwater(partition))
        records = [r for r in self._log.records[partition][start:end] if r is not None]
        if records:
            await self.engine.polled(partition, records, self.highwater(partition))
        if partition not in self._sought:
            self._positions[partition] = end
        return True

    def _unread(self, partition: Partition) -> bool:
        return self._positions[partition] < self.highwater(partition)

    async def run(self) -> None:
        """Goes on until there is nothing left to read or to fold."""
        for _ in range(PATIENCE):
            before = self._standing()
            if await self.step():
                continue
            await self.engine.idle()
            scorers = [
                s for stages in self.engine.stages.values() for s in stages if isinstance(s, ScoreStage)
            ]
            waiting = any(scorer.pending for scorer in scorers)
            if self._standing() == before and not waiting and not any(map(self._unread, self._positions)):
                return
        raise AssertionError(f"no end in sight: {self.engine.status()}")

    @property
    def done(self) -> bool:
        """Whether everything that it owns has been read and folded, joined, scored or learned."""
        return all(
            (stage.read if isinstance(stage, LearnStage) else stage.next) >= self.highwater(partition)
            for partition, stages in self.engine.stages.items()
            for stage in stages
        )

    def _standing(self) -> object:
        stages = [stage for stages in self.engine.stages.values() for stage in stages]
        learnt = [stage.learner.version for stage in stages if isinstance(stage, LearnStage)]
        ends = [len(log) for log in self._log.records.values()]
        moving = [stage.next for stage in stages if not isinstance(stage, LearnStage)]
        return moving, learnt, ends

    async def end(self) -> None:
        """Finishes in good order."""
        await self.run()
        await self.engine.revoked(self.partitions)
        await asyncio.sleep(0)
