"""The world of a simulation: one log, one store, a network that loses things, and workers that come and go."""

from __future__ import annotations

import asyncio
import random
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
from streams.metrics import Metrics
from streams.producer import Outgoing
from tests.simulation.loop import SimulatedLoop
from tests.streams.memory_log import FOREVER, House, MemoryLog, Worker

Committed = Callable[[Group, Position, Position, Writes, str, Answer], None]


PATIENCE = 20_000  # turns within which a process without faults has done everything


class Faults(NamedTuple):
    """How often what goes wrong, in a thousand decisions; 0 switches it off."""

    lost_request: int = 15
    lost_reply: int = 15
    late_request: int = 10  # told as lost, carried out later
    crash: int = 6
    start: int = 8  # another owner of everything, whoever else there is
    pause: int = 6
    wake: int = 12
    rewind: int = 3
    keep: int = 10  # a point that a later rewind can go back to


NO_FAULTS = Faults(*[0] * len(Faults._fields))


class Call(NamedTuple):
    """What somebody waits for: a call of the store or of the outputs, or a turn."""

    who: int
    what: str
    do: Callable[[], Any]
    cut: Callable[[], None]  # what a failure in the middle leaves behind
    done: asyncio.Future[Any]


def now(coroutine: Awaitable[Any]) -> Any:
    """Runs what never waits."""
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as ended:
        return ended.value
    raise AssertionError("the store in memory waited")


class World:
    """Everything outside the workers, and the calls that they wait for."""

    def __init__(
        self, house: House, deployment: Deployment, chance: random.Random, faults: Faults, loop: SimulatedLoop
    ) -> None:
        self.house = house
        self.deployment = deployment
        self.chance = chance
        self.faults = faults
        self.calls: list[Call] = []
        self.late: list[Callable[[], Any]] = []  # requests that are still on their way
        self.alive: dict[int, asyncio.Task[None]] = {}
        self.dead: list[asyncio.Task[None]] = []  # kept: what is collected may still run something
        self.workers: dict[int, Worker] = {}
        self.asleep: set[int] = set()
        self.born = 0
        self.decisions = 0
        self.points: list[tuple[dict[str, bytes], dict[str, dict[bytes, bytes]]]] = []
        self.story: list[str] = []
        self.loop = loop
        self.failed: BaseException | None = None
        self.committed: Committed = lambda *_: None

    # workers

    def start(self) -> None:
        """Lets another process begin that owns every partition."""
        who, self.born = self.born, self.born + 1
        self.alive[who] = asyncio.get_running_loop().create_task(self._process(who))

    def crash(self, who: int) -> None:
        """Ends a process where it stands: nothing of it runs any more, no cleaning up either."""
        self.calls = [call for call in self.calls if call.who != who]
        self.asleep.discard(who)
        self.dead.append(self.alive.pop(who))

    def worker(self, who: int) -> Worker:
        """Returns a process's worker, with the network between it and everything else."""
        store, outputs = _Store(self, who), _Outputs(self, who)
        feed = ModelFeed(self.house.store, self.deployment, [self.house.key])
        context = Context(
            *(
                self.deployment,
                store,
                outputs,
                feed,
                self.house.key,
                (),
                lambda: self.house.now_ms,
                Metrics(),
            ),
            hold=FOREVER,
            cache=self.chance.choice((4, 100_000)),
            monotonic=self.house.clock,
            token=self.chance.randbytes(16),
        )
        largest = self.chance.choice((3, 40))
        engine = Engine(context, ROLES)
        return Worker(self.house.log, engine, feed, self.chance, largest, self.house.clock, lambda _: True)

    async def settled(self, who: int) -> bool:
        """Lets a process go on until it has committed everything, or is fenced; returns whether it got there."""
        self.asleep.clear()
        for _ in range(PATIENCE):
            if who not in self.alive:
                return True  # it met a store without its positions
            worker = self.workers.get(who)
            held = {} if worker is None else worker.engine.stages
            stages = [(partition, stage) for partition, some in held.items() for stage in some]
            if any(stage.fenced for _, stage in stages):
                return True
            ends = self.house.log.records
            if stages and all(stage.next == len(ends[partition]) for partition, stage in stages):
                return True
            await self.call(-1, "turn", lambda: None)
            self.loop.pass_time()  # there is always a turn to take, so it would stand still
        return False

    async def _process(self, who: int) -> None:
        try:
            worker = self.workers[who] = self.worker(who)
            await worker.begin()
            while True:
                await worker.step()
                await self.call(who, "turn", lambda: None)
        except StoreError as error:
            if (
                "holds nothing of" not in error.what
            ):  # it was claimed after the point that the store went back to
                self.failed = self.failed or error
            self.crash(who)
        except Exception as error:  # noqa: BLE001 - the scheduler raises it
            self.failed = self.failed or error

    # calls

    async def call(
        self, who: int, what: str, do: Callable[[], Any], cut: Callable[[], None] = lambda: None
    ) -> Any:
        """Waits until the scheduler lets a call through."""
        done = asyncio.get_running_loop().create_future()
        self.calls.append(Call(who, what, do, cut, done))
        return await done

    def decide(self) -> bool:
        """Makes one thing happen."""
        ready = [call for call in self.calls if call.who not in self.asleep]
        if self._mishap():
            return True
        if not ready:
            return self._wake()  # nobody sleeps for ever
        call = self.chance.choice(ready)
        self.calls.remove(call)
        self._answer(call)
        return True

    def _answer(self, call: Call) -> None:
        if call.what == "turn":
            call.done.set_result(None)
            return
        faults = self.faults
        draw = self.chance.randrange(1000)
        error = DeliveryFailed("lost") if call.what == "send" else StoreUnavailable("lost")
        if draw < faults.lost_request:
            call.cut()
            self._tell(f"{call.who}: {call.what} lost")
            call.done.set_exception(error)
        elif draw < faults.lost_request + faults.lost_reply:
            self._do(call)
            self._tell(f"{call.who}: reply to {call.what} lost")
            call.done.set_exception(error)
        elif draw < faults.lost_request + faults.lost_reply + faults.late_request:
            self.late.append(call.do)
            self._tell(f"{call.who}: {call.what} is late")
            call.done.set_exception(error)
        else:
            self._do(call, answered=True)

    def _do(self, call: Call, answered: bool = False) -> None:
        try:
            result = call.do()
        except StoreError as error:
            if answered:
                call.done.set_exception(error)
        else:
            if answered:
                call.done.set_result(result)

    def _mishap(self) -> bool:
        """Lets one of the rarer things happen; returns whether one did."""
        chance, faults = self.chance, self.faults
        draw = chance.randrange(1000)
        for name, share in faults._asdict().items():
            if name.startswith(("lost", "late")):
                continue
            if draw < share:
                return bool(getattr(self, f"_{name}")())
            draw -= share
        if self.late and chance.random() < 0.02:
            late = self.late.pop(chance.randrange(len(self.late)))
            self._tell("a late request arrives")
            try:
                late()
            except StoreError:
                self._tell("and is refused")
            return True
        return False

    def _crash(self) -> bool:
        if not self.alive:
            return False
        who = self.chance.choice(sorted(self.alive))
        self._tell(f"{who} is killed")
        self.crash(who)
        return True

    def _start(self) -> bool:
        if len(self.alive) >= 3:
            return False
        self._tell(f"{self.born} starts")
        self.start()
        return True

    def _pause(self) -> bool:
        awake = sorted(self.alive.keys() - self.asleep)
        if not awake:
            return False
        who = self.chance.choice(awake)
        self._tell(f"{who} sleeps")
        self.asleep.add(who)
        return True

    def _wake(self) -> bool:
        if not self.asleep:
            return False
        who = self.chance.choice(sorted(self.asleep))
        self._tell(f"{who} wakes")
        self.asleep.discard(who)
        return True

    def _keep(self) -> bool:
        store = self.house.store
        hashes = {name: dict(fields) for name, fields in store.hashes.items()}
        self.points.append((dict(store.values), hashes))
        return True

    def _rewind(self) -> bool:
        if not self.points:
            return False
        k = self.chance.randrange(len(self.points))
        self._tell(f"the store goes back to point {k}")
        del self.points[k + 1 :]
        values, hashes = self.points[k]
        self.house.store.values = dict(values)
        self.house.store.hashes = {name: dict(fields) for name, fields in hashes.items()}
        self.late.clear()  # its clients were cut off
        return True

    def _tell(self, what: str) -> None:
        self.story.append(what)


class _Store:
    """The store behind the network."""

    def __init__(self, world: World, who: int) -> None:
        self._world, self._who = world, who
        self._store: MemoryStore = world.house.store

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
        log: MemoryLog = self._world.house.log
        some = batch[: self._world.chance.randrange(len(batch) + 1)]

        def write(records: Sequence[Outgoing]) -> None:
            for record in records:
                log.append(record)

        await self._world.call(self._who, "send", lambda: write(batch), lambda: write(some))
