"""The world of a simulation: one log, one store, a network that loses things, and workers that come and go."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from features.errors import StoreError, StoreUnavailable
from features.memory import MemoryStore
from features.store import Adoption, Answer, Group, Position, Read, Writes
from models.deployment import Deployment
from models.feed import ModelFeed
from streams.context import Context
from streams.engine import ROLES, Engine
from streams.errors import DeliveryFailed
from streams.log import Partition
from streams.metrics import Metrics
from streams.producer import Outgoing
from tests.simulation.loop import SimulatedLoop
from tests.streams.memory_log import FOREVER, House, MemoryLog, Worker
from tests.streams.shop import DAY, HOUR, START

Committed = Callable[[Group, Position, Position, Writes, str, Answer], None]

PATIENCE = 5_000  # turns within which processes without faults have done everything
REST = 0.25  # seconds that pass when everybody has nothing to do
TICK = 0.001  # seconds that a turn takes
YOUNG = 150  # decisions that a life has at least


class Faults(NamedTuple):
    """How often what goes wrong, in a thousand decisions; 0 switches it off."""

    lost_request: int = 25
    lost_reply: int = 25
    late_request: int = 15  # told as lost, carried out later
    crash: int = 12
    start: int = 14  # another owner of the same partitions, whoever else there is
    pause: int = 12
    wake: int = 25
    rewind: int = 12
    keep: int = 30  # a point that a later rewind can go back to
    clock: int = 8  # the seconds of the processes jump ahead, or the time on the wall anywhere
    change: int = 10  # whoever starts from now on has another definition


NO_FAULTS = Faults(*[0] * len(Faults._fields))


class Call(NamedTuple):
    """What somebody waits for: a call of the store or of the outputs, or a turn."""

    who: int
    what: str
    do: Callable[[], Any]
    cut: Callable[[], None]  # what a failure in the middle leaves behind
    done: asyncio.Future[Any]
    news: int  # what had happened by then


class Mute(Metrics):
    """Metrics that nobody reads."""

    def __init__(self) -> None:
        """Has no registry: making one takes as long as a whole life of a worker here."""

    def __getattr__(self, name: str) -> Any:
        return _MUTE


class _Mute:
    def labels(self, *_: object) -> _Mute:
        return self

    def nothing(self, *_: object) -> None: ...

    inc = set = observe = remove = clear = nothing


_MUTE = _Mute()


def now(coroutine: Awaitable[Any]) -> Any:
    """Runs what never waits."""
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as ended:
        return ended.value
    raise AssertionError("the store in memory waited")


class World:
    """Everything outside the workers, and the calls that they wait for.

    Args:
        houses: the definitions over one log and one store; the second comes with a change.
        sides: into how many parts the partitions are divided: who starts owns one of them.
        hold: seconds that a request may wait for the sources that it reads.
    """

    def __init__(
        self,
        houses: Sequence[House],
        deployments: Sequence[Deployment],
        chance: random.Random,
        faults: Faults,
        loop: SimulatedLoop,
        *,
        sides: int = 1,
        hold: float = FOREVER,
    ) -> None:
        self.houses, self.deployments = list(houses), list(deployments)
        self.log, self.store, self.clock = houses[0].log, houses[0].store, houses[0].clock
        self.newest = 0  # the definition of who starts now
        self.chance = chance
        self.faults = faults
        self.loop = loop
        self.sides, self.hold = sides, hold
        self.wall = 0  # milliseconds
        self.calls: list[Call] = []
        self.late: list[Callable[[], Any]] = []  # requests that are still on their way
        self.alive: dict[int, asyncio.Task[None]] = {}
        self.dead: list[asyncio.Task[None]] = []  # kept: what is collected may still run something
        self.workers: dict[int, Worker] = {}
        self.asleep: set[int] = set()
        self.side: dict[int, int] = {}
        self.file: dict[int, int] = {}
        self.born = 0
        self.news = 0  # how often something happened that a process might react to
        self.decisions = 0
        self.points: list[tuple[dict[str, bytes], dict[str, dict[bytes, bytes]]]] = []
        self.story: list[str] = []
        self.happened: Counter[str] = Counter()
        self.failed: BaseException | None = None
        self.committed: Committed = lambda *_: None

    # workers

    def start(self, side: int | None = None) -> None:
        """Lets another process begin, on the side that has the fewest."""
        who, self.born = self.born, self.born + 1
        there = Counter(self.side[other] for other in self.alive)
        self.side[who] = min(range(self.sides), key=lambda k: there[k]) if side is None else side
        self.file[who] = self.newest
        self.alive[who] = self.loop.create_task(self._process(who))

    def crash(self, who: int) -> None:
        """Ends a process where it stands: nothing of it runs any more, no cleaning up either."""
        self.calls = [call for call in self.calls if call.who != who]
        self.asleep.discard(who)
        self.dead.append(self.alive.pop(who))

    def worker(self, who: int) -> Worker:
        """Returns a process's worker, with the network between it and everything else."""
        file, side = self.file[who], self.side[who]
        house, deployment = self.houses[file], self.deployments[file]
        store, outputs = _Store(self, who), _Outputs(self, who)
        feed = ModelFeed(self.store, deployment, [house.key])
        context = Context(
            *(deployment, store, outputs, feed, house.key, (), lambda: self.wall, Mute(), house.recall),
            hold=self.hold,
            cache=self.chance.choice((4, 100_000)),
            monotonic=self.clock,
            token=self.chance.randbytes(16),
        )
        largest = self.chance.choice((3, 40))
        engine = Engine(context, ROLES)

        def owns(partition: Partition) -> bool:
            return self.sides == 1 or partition.number % self.sides == side

        return Worker(self.log, engine, feed, self.chance, largest, self.clock, owns, TICK)

    async def _process(self, who: int) -> None:
        try:
            worker = self.workers[who] = self.worker(who)
            await worker.begin()
            while True:
                busy = await worker.step()
                await self.call(who, "turn" if busy else "rest", lambda: None)
        except StoreError as error:
            if "holds nothing of" not in error.what:
                self.failed = self.failed or error
            self.crash(who)  # it was claimed after the point that the store went back to
        except Exception as error:  # noqa: BLE001 - the scheduler raises it
            self.failed = self.failed or error

    async def settle(self) -> bool:
        """Lets one process of each side go on until everything is committed; returns whether they got there."""
        for side in range(self.sides):
            mine = [who for who in sorted(self.alive) if self.side[who] == side]
            able = [who for who in mine if self.file[who] == self.newest]
            for who in mine:
                if who not in able[-1:]:
                    self.crash(who)
        self.asleep.clear()
        for _ in range(PATIENCE):
            for who in sorted(self.alive):
                if any(stage.fenced for _, stage in self._stages(who)):
                    self.crash(who)  # by one that is dead
            for side in set(range(self.sides)) - {self.side[who] for who in self.alive}:
                self.start(side)
            if all(map(self._done, self.alive)):
                return True
            await self.call(-1, "rest", lambda: None)
        return False

    def _stages(self, who: int) -> list[tuple[Partition, Any]]:
        worker = self.workers.get(who)
        held = {} if worker is None else worker.engine.stages
        return [(partition, stage) for partition, some in held.items() for stage in some]

    def _done(self, who: int) -> bool:
        stages, ends = self._stages(who), self.log.records
        return bool(stages) and all(stage.next == len(ends[partition]) for partition, stage in stages)

    # calls

    async def call(
        self, who: int, what: str, do: Callable[[], Any], cut: Callable[[], None] = lambda: None
    ) -> Any:
        """Waits until the scheduler lets a call through."""
        done = self.loop.create_future()
        if who in self.alive or who < 0:  # a timer of a process that is dead leads nowhere
            self.calls.append(Call(who, what, do, cut, done, self.news))
        return await done

    def append(self, record: Outgoing) -> None:
        """Writes a record of a source."""
        self.news += 1
        self.log.append(record)

    def decide(self) -> bool:
        """Makes one thing happen."""
        if self._mishap():
            return True
        ready = [call for call in self.calls if call.who not in self.asleep]
        busy = [call for call in ready if call.what != "rest" or call.news != self.news]
        if self.loop.planned and (not busy or self.chance.random() < 0.1) and self.loop.pass_time():
            return True
        if not busy:
            if not ready:
                return self._wake()  # nobody sleeps for ever
            self.clock.now += REST
        call = self.chance.choice(busy or ready)
        self.calls.remove(call)
        self._answer(call)
        return True

    @property
    def idle(self) -> bool:
        """Whether everybody has nothing to do."""
        return all(call.what == "rest" and call.news == self.news for call in self.calls)

    def _answer(self, call: Call) -> None:
        if call.what in ("turn", "rest"):
            call.done.set_result(None)
            return
        faults = self.faults
        draw = self.chance.randrange(1000)
        error = DeliveryFailed("lost") if call.what == "send" else StoreUnavailable("lost")
        if draw < faults.lost_request:
            call.cut()
            self._tell("lost_request", f"{call.who}: {call.what} lost")
            call.done.set_exception(error)
        elif draw < faults.lost_request + faults.lost_reply:
            self._do(call)
            self._tell("lost_reply", f"{call.who}: reply to {call.what} lost")
            call.done.set_exception(error)
        elif draw < faults.lost_request + faults.lost_reply + faults.late_request:
            self.late.append(call.do)
            self._tell("late_request", f"{call.who}: {call.what} is late")
            call.done.set_exception(error)
        else:
            self._do(call, answered=True)

    def _do(self, call: Call, answered: bool = False) -> None:
        self.news += call.what in ("commit", "send", "note")
        try:
            result = call.do()
        except StoreError as error:
            if answered:
                call.done.set_exception(error)
        else:
            if answered:
                call.done.set_result(result)

    @property
    def faults(self) -> Faults:
        """What goes wrong from now on."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        answers = ("lost_request", "lost_reply", "late_request")
        self._rare = [(name, share) for name, share in faults._asdict().items() if name not in answers]
        self._share = sum(share for _, share in self._rare)

    def _mishap(self) -> bool:
        """Lets one of the rarer things happen; returns whether one did."""
        chance = self.chance
        draw = chance.randrange(1000)
        if draw < self._share:
            for name, share in self._rare:
                if draw < share:
                    return bool(getattr(self, f"_{name}")())
                draw -= share
        if self.late and chance.random() < 0.04:
            late = self.late.pop(chance.randrange(len(self.late)))
            self._tell("arrived_late", "a late request arrives")
            self.news += 1
            try:
                late()
            except StoreError:
                self.story.append("and is refused")
            return True
        return False

    def _crash(self) -> bool:
        if not self.alive:
            return False
        who = self.chance.choice(sorted(self.alive))
        self._tell("crash", f"{who} is killed")
        self.crash(who)
        return True

    def _start(self) -> bool:
        if len(self.alive) >= 3 * self.sides:
            return False
        self._tell("start", f"{self.born} starts")
        self.start()
        return True

    def _pause(self) -> bool:
        awake = sorted(self.alive.keys() - self.asleep)
        if not awake:
            return False
        who = self.chance.choice(awake)
        self._tell("pause", f"{who} sleeps")
        self.asleep.add(who)
        return True

    def _wake(self) -> bool:
        if not self.asleep:
            return False
        who = self.chance.choice(sorted(self.asleep))
        self._tell("wake", f"{who} wakes")
        self.asleep.discard(who)
        return True

    def _keep(self) -> bool:
        hashes = {name: dict(fields) for name, fields in self.store.hashes.items()}
        self.points.append((dict(self.store.values), hashes))
        return True

    def _rewind(self) -> bool:
        if not self.points:
            return False
        k = self.chance.randrange(len(self.points))
        self._tell("rewind", f"the store goes back to point {k}")
        del self.points[k + 1 :]
        values, hashes = self.points[k]
        self.store.values = dict(values)
        self.store.hashes = {name: dict(fields) for name, fields in hashes.items()}
        self.late.clear()  # its clients were cut off
        self.news += 1
        return True

    def _clock(self) -> bool:
        if self.chance.random() < 0.5:
            jump = self.chance.choice((0.3, 2.0, 60.0, 7200.0))
            self.clock.now += jump
            self._tell("clock", f"{jump} seconds are skipped")
        else:
            self.wall = self.chance.choice((0, START + self.chance.randrange(-DAY, 20 * DAY), START + HOUR))
            self._tell("clock", f"the wall says {self.wall}")
        self.news += 1
        return True

    def _change(self) -> bool:
        if self.newest + 1 >= len(self.houses):
            return False
        self.newest += 1
        self._tell("change", "the definition changes")
        self.start()
        return True

    def _tell(self, kind: str, what: str) -> None:
        self.happened[kind] += 1
        self.story.append(what)


class _Store:
    """The store behind the network."""

    def __init__(self, world: World, who: int) -> None:
        self._world, self._who = world, who
        self._store: MemoryStore = world.store

    async def _ask(self, what: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        return await self._world.call(self._who, what, lambda: now(ask()))

    async def commit(
        self, group: Group, start: Position, end: Position, writes: Writes, reader: str = ""
    ) -> Answer:
        async def commit() -> Answer:
            answer = await self._store.commit(group, start, end, writes, reader)
            self._world.committed(group, start, end, writes, reader, answer)
            return answer

        found: Answer = await self._ask("commit", commit)
        return found

    async def claim(self, group: Group, initial: Position, reader: str = "") -> Position:
        found: Position = await self._ask("claim", lambda: self._store.claim(group, initial, reader))
        return found

    async def read(self, wanted: Mapping[Group, Sequence[str]]) -> dict[Group, Read]:
        found: dict[Group, Read] = await self._ask("read", lambda: self._store.read(wanted))
        return found

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await self._ask("get", lambda: self._store.get(key))
        return found

    async def heads(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        found: list[bytes | None] = await self._ask("heads", lambda: self._store.heads(keys, size))
        return found

    async def scan(self, prefix: str, cursor: int) -> tuple[int, list[str]]:
        found: tuple[int, list[str]] = await self._ask("scan", lambda: self._store.scan(prefix, cursor))
        return found

    async def fields(self, key: str) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = await self._ask("fields", lambda: self._store.fields(key))
        return found

    async def tell(self, key: str, field: str, value: bytes) -> None:
        await self._ask("tell", lambda: self._store.tell(key, field, value))

    async def note(self, values: Mapping[str, bytes]) -> None:
        await self._ask("note", lambda: self._store.note(values))

    async def layouts(self, project: str, topic: str) -> list[Adoption]:
        return await self._store.layouts(project, topic)

    async def adopt(self, project: str, topic: str, adoption: Adoption) -> None:
        await self._store.adopt(project, topic, adoption)

    async def groups(self, project: str, topic: str, plans: str, partitions: int) -> list[Group]:
        return await self._store.groups(project, topic, plans, partitions)

    async def codes(self, fingerprints: Sequence[str]) -> dict[str, str]:
        return await self._store.codes(fingerprints)

    async def close(self) -> None:
        """Has nothing to give back."""


class _Outputs:
    """The producer behind the network: a batch that fails may be written in part, and comes again whole."""

    def __init__(self, world: World, who: int) -> None:
        self._world, self._who = world, who

    async def send(self, batch: Sequence[Outgoing]) -> None:
        log: MemoryLog = self._world.log
        some = batch[: self._world.chance.randrange(len(batch) + 1)]

        def write(records: Sequence[Outgoing]) -> None:
            for record in records:
                log.append(record)

        await self._world.call(self._who, "send", lambda: write(batch), lambda: write(some))
