"""One run: a project at work on real parts, the faults that meet it, and everything that must hold afterwards."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import redis as blocking

from features import keys
from features.embedded import EmbeddedRedis, free_port
from features.errors import StoreError
from models.feed import HEAD
from models.snapshot import peek
from streams.errors import StreamsError
from streams.producer import Producer
from tests.chaos.asking import Callers
from tests.chaos.events import chunks, stream
from tests.chaos.judge import Judgement, judge
from tests.chaos.proxy import Cut, CuttingProxy, Late, Way
from tests.chaos.redis_files import RedisFiles, address
from tests.chaos.schedule import KILLS, KINDS, Fault, backups, schedule
from tests.parts.kafka_cluster import KafkaCluster
from tests.streams import runner
from tests.streams.rig import SESSION, Process, rig
from tests.streams.shop import build, sent

LOOK = 0.1  # seconds between two looks at processes and progress
CHUNK = 500  # events that are produced together
AHEAD = 8_000  # events that may wait to be folded
STANDSTILL = 300.0  # seconds without any progress after which a run is given up
TAIL = 65_536  # most bytes of the append-only file that are lost
COMMIT = b"EVALSHA"


class Options(NamedTuple):
    """What a run is made of; with the seed it decides which faults come, and when by progress."""

    kills: int = 20
    events: int = 20_000
    seed: int = 1
    kinds: Collection[str] = KINDS
    brokers: int = 3
    workers: int = 2
    apis: int = 2
    wide: bool = False  # outcomes are read and the model's log has several partitions: no order is fixed


class Report(NamedTuple):
    """What happened, and what the judgement found."""

    options: Options
    faults: Counter[str]
    ended: Counter[str]  # processes that ended by themselves, by what they said last
    rewound: int  # positions that went back
    asleep: int  # workers that slept while others took over
    stale: int  # commits that such a worker got through after it woke
    cuts: int
    lates: int
    answers: Counter[str]
    seconds: float
    judgement: Judgement

    @property
    def kills(self) -> int:
        """How many SIGKILLs there were."""
        return sum(n for kind, n in self.faults.items() if kind in KILLS)

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return self.judgement.good and not self.stale and not self.answers["wrong"]


class Servant:
    """A process that is started again whenever it has ended, under the same name."""

    def __init__(self, name: str, start: Callable[[], Process]) -> None:
        self.name = name
        self._start = start
        self.process = start()
        self.stopped = False  # by SIGSTOP

    def again(self) -> None:
        """Starts it again."""
        self.process = self._start()
        self.stopped = False


class Nap(NamedTuple):
    """A worker that slept: when it woke, and whose partitions others had by then."""

    trace: Path
    woken: float
    lost: frozenset[tuple[str, str]]  # group and reader


class Run:
    """A run; `live` lives it. `tell` gets a line of progress now and then."""

    def __init__(self, options: Options, folder: Path, tell: Callable[[str], None]) -> None:
        self.options = options
        self.folder = folder
        self.tell = tell
        self.faults = schedule(options.kills, options.seed, options.kinds)
        self.done: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.naps: list[Nap] = []
        self.rewound = 0
        self.versions: dict[int, str] = {}  # digests by version, as they were seen served
        self._produced = 0
        self._folded = 0
        self._fed = False
        self._room = asyncio.Event()
        self._room.set()
        self._hands: set[asyncio.Task[None]] = set()
        self._redis_busy = asyncio.Lock()
        self._broker_busy = asyncio.Lock()

    async def live(self) -> Report:
        """Lives it and judges it."""
        began = time.monotonic()
        options, prefix = self.options, f"chaos{self.options.seed}"
        project = build(prefix, outcomes=options.wide)
        partitions = {f"{prefix}.payments.v1": 4, f"{prefix}.verdicts.v1": 1}
        if options.wide:
            partitions[project.models[0].log_topic] = 2
        async with AsyncExitStack() as stack:
            redis_folder = self.folder / "redis"
            self.redis = stack.enter_context(EmbeddedRedis.start(redis_folder))
            self.files = RedisFiles(self.redis, redis_folder)
            self.proxy = stack.enter_context(CuttingProxy(*address(self.redis.url)))
            self.kafka = stack.enter_context(KafkaCluster.start(self.folder / "kafka", options.brokers))
            text = f"from tests.streams.shop import build\n\nproject = build({prefix!r}, outcomes={options.wide!r})\n"
            self.rig = await stack.enter_async_context(
                rig(project, text, self.folder, self.kafka, self.redis.url, partitions)
            )
            self.producer = await stack.enter_async_context(Producer(self.kafka.bootstrap))
            await self._live()
            self.tell("judging")
            judgement = await judge(self.rig, self.redis.url, options, self.versions, self.callers)
        return Report(
            options,
            self.done,
            self.ended,
            self.rewound,
            len(self.naps),
            sum(map(stale, self.naps)),
            self.proxy.cuts,
            self.proxy.lates,
            self.callers.counts,
            time.monotonic() - began,
            judgement,
        )

    # the processes

    def _start_all(self) -> None:
        options, address_ = self.options, f"redis://127.0.0.1:{self.proxy.port}/0"
        shop = self.rig
        self.servants: dict[str, list[Servant]] = {"worker": [], "learner": [], "api": []}
        for k in range(options.workers):
            # every other one has a name and comes back to what it had; the rest leave it to the others
            instance = f"worker-{k}" if k % 2 else None

            def worker(k: int = k, instance: str | None = instance) -> Process:
                roles, trace = ("features", "join"), self._trace(k)
                return shop.start(roles, trace, redis=address_, instance=instance)

            self.servants["worker"].append(Servant(f"worker-{k}", worker))

        def learner() -> Process:
            return shop.start(["learn"], redis=address_, instance="learner")

        self.servants["learner"].append(Servant("learner", learner))
        ports = [free_port() for _ in range(options.apis)]
        for k, port in enumerate(ports):

            def api(k: int = k, port: int = port) -> Process:
                settings = {
                    "file": str(shop.file),
                    "bootstrap": shop.bootstrap,
                    "redis": address_,
                    "port": port,
                    "fallback": k % 2 == 1,  # one refuses while Redis is away, the other answers without it
                }
                said = shop.folder / f"api-{len(shop.processes)}.log"
                process = Process(settings, said, None, runner.serve)
                shop.processes.append(process)
                return process

            self.servants["api"].append(Servant(f"api-{k}", api))
        self.callers = Callers(ports, shop.model.name, options.seed)

    def _trace(self, k: int) -> Path:
        return self.folder / f"trace-{k}-{len(self.rig.processes)}.json"

    def _revive(self) -> None:
        """Starts again what has ended by itself, as a supervisor would."""
        for kind, servants in self.servants.items():
            for servant in servants:
                if servant.process.code is not None:
                    self.ended[f"{kind}: {_last_word(servant.process.said())}"] += 1
                    servant.again()

    # the life

    async def _live(self) -> None:
        self._start_all()
        loop = asyncio.get_running_loop()
        beside = [
            loop.create_task(self._feed()),
            loop.create_task(self._watch_versions()),
            loop.create_task(self.callers.run()),
        ]
        try:
            await self._meet_faults(beside)
            await self._settle(beside)
        finally:
            for task in [*beside, *self._hands]:
                task.cancel()
            await asyncio.gather(*beside, *self._hands, return_exceptions=True)

    async def _meet_faults(self, beside: Collection[asyncio.Task[None]]) -> None:
        saves, total = backups(self.faults), self.options.events
        moved, best = time.monotonic(), -1
        pending = list(self.faults)
        while pending or not self._fed:
            await self._look(beside)
            if self._folded > best:
                moved, best = time.monotonic(), self._folded
            if time.monotonic() - moved > STANDSTILL:
                raise AssertionError(f"nothing moves: {await self.rig.positions()}")
            # payments, repeats and verdicts: about 1.6 records for each payment
            while pending and self._folded >= pending[0].at * total * 1.6:
                fault = pending.pop(0)
                if fault.number in saves:
                    async with self._redis_busy:
                        self.files.back_up()
                self._begin(fault)
            self._say(pending)

    async def _look(self, beside: Collection[asyncio.Task[None]]) -> None:
        await asyncio.sleep(LOOK)
        for task in [*beside, *self._hands]:
            if task.done():
                self._hands.discard(task)
                task.result()
        self._revive()
        try:
            positions = await self.rig.positions()
        except StoreError:
            return
        self._folded = sum(position.next for (_, reader), position in positions.items() if not reader)
        self._look_for_room()
        payments = self.rig.project.sources[0].topic
        clocks = [
            p.clock
            for (partition, reader), p in positions.items()
            if partition.topic == payments and not reader
        ]
        self.callers.now = max(0, *clocks) if min(clocks) > 0 else 0

    async def _settle(self, beside: Collection[asyncio.Task[None]]) -> None:
        """Waits until nothing is left to do, and ends everybody in good order."""
        moved, before = time.monotonic(), None
        while True:
            await self._look(beside)
            if self._hands:
                continue
            try:
                now = {key: p.next for key, p in (await self.rig.positions()).items()}
                ends = await asyncio.to_thread(self.rig.log.highwaters, {partition for partition, _ in now})
            except (StoreError, StreamsError):
                continue
            if all(position >= ends[partition] for (partition, _), position in now.items()):
                break
            if now != before:
                moved, before = time.monotonic(), now
            if time.monotonic() - moved > STANDSTILL:
                raise AssertionError(f"nothing moves: {now}, the logs end at {ends}")
        for servants in self.servants.values():
            for servant in servants:
                code = await asyncio.to_thread(servant.process.stop)
                if code != 0:
                    raise AssertionError(
                        f"{servant.name} ended with {code}: {servant.process.said()[-3000:]}"
                    )

    async def _feed(self) -> None:
        """Produces the events, not too far ahead of the workers."""
        for chunk in chunks(stream(self.options.events, self.options.seed), CHUNK):
            await self._room.wait()
            batch = sent(self.rig.project, *chunk)
            while True:
                try:
                    await self.producer.send(batch)
                    break
                except StreamsError:
                    await asyncio.sleep(LOOK)
            self._produced += len(chunk)
            self._look_for_room()
        self._fed = True

    def _look_for_room(self) -> None:
        if self._produced - self._folded <= AHEAD:
            self._room.set()
        else:
            self._room.clear()

    async def _watch_versions(self) -> None:
        """Notes which versions are served with which digest; two digests of one version end the run."""
        key = keys.model(self.rig.deployment.groups[self.rig.model.samples_topic][0].tag)
        while True:
            await asyncio.sleep(LOOK / 2)
            try:
                (head,) = await self.rig.store.heads([key], 8 * HEAD)
            except StoreError:
                continue
            if head is not None:
                header = peek(head, [self.rig.key])
                known = self.versions.setdefault(header.version, header.digest)
                if known != header.digest:
                    raise AssertionError(
                        f"version {header.version} is served as {known} and as {header.digest}"
                    )

    def _say(self, pending: list[Fault]) -> None:
        whole = sum(self.done.values()) + len(pending) + len(self._hands)
        self.tell(f"{self._folded:,} records folded, {sum(self.done.values())} of {whole} faults")

    # the faults

    def _begin(self, fault: Fault) -> None:
        """Begins a fault; what takes longer goes on by itself."""
        what: dict[str, Callable[[Fault], Coroutine[Any, Any, None]]] = {
            "worker-kill": lambda f: self._kill("worker", f),
            "learner-kill": lambda f: self._kill("learner", f),
            "api-kill": lambda f: self._kill("api", f),
            "worker-stop": self._sleep,
            "broker-kill": self._kill_broker,
            "broker-stop": self._stop_broker,
            "redis-kill": self._kill_redis,
            "redis-torn": self._kill_redis,
            "redis-restore": self._kill_redis,
            "redis-full": self._fill_redis,
            "cut": self._cut,
            "late": self._late,
        }
        self._hands.add(asyncio.get_running_loop().create_task(self._whole(what[fault.kind], fault)))

    async def _whole(self, act: Callable[[Fault], Coroutine[Any, Any, None]], fault: Fault) -> None:
        await act(fault)
        self.done[fault.kind] += 1

    async def _kill(self, kind: str, fault: Fault) -> None:
        servants = self.servants[kind]
        servant = servants[int(fault.draw * len(servants))]
        servant.process.kill()
        servant.again()

    async def _sleep(self, fault: Fault) -> None:
        """Stops a worker for longer than its session lasts, so that others take over; then it goes on."""
        servants = [servant for servant in self.servants["worker"] if not servant.stopped]
        if len(servants) < 2:
            await asyncio.sleep(LOOK)  # somebody must be left to take over
            return await self._sleep(fault)
        servant = servants[int(fault.draw * len(servants))]
        before = await self._tokens()
        process, trace = servant.process, self._newest_trace(servant)
        if process.code is not None:
            return None
        servant.stopped = True
        process.send(signal.SIGSTOP)
        await asyncio.sleep(SESSION * (1.5 + fault.draw))
        after = await self._tokens()
        if process is not servant.process or process.code is not None:
            return None  # it was killed in its sleep
        lost = frozenset(key for key in before if after.get(key) != before[key])
        self.naps.append(Nap(trace, time.monotonic(), lost))
        process.send(signal.SIGCONT)
        servant.stopped = False
        return None

    def _newest_trace(self, servant: Servant) -> Path:
        number = servant.name.rpartition("-")[2]
        found = self.folder.glob(f"trace-{number}-*.json")
        return max(found, key=lambda file: int(file.stem.rpartition("-")[2]))

    async def _tokens(self) -> dict[tuple[str, str], bytes]:
        while True:
            try:
                found = await self.rig.positions()
            except StoreError:
                await asyncio.sleep(LOOK)
                continue
            return {(f"{p.topic}/{p.number}", reader): at.token for (p, reader), at in found.items()}

    async def _kill_broker(self, fault: Fault) -> None:
        async with self._broker_busy:
            server = self.kafka.servers[int(fault.draw * len(self.kafka.servers))]
            server.kill()
            await asyncio.sleep(2 * fault.draw)
            server.spawn()
            await asyncio.to_thread(server.wait_until_ready)

    async def _stop_broker(self, fault: Fault) -> None:
        async with self._broker_busy:
            server = self.kafka.servers[int(fault.draw * len(self.kafka.servers))]
            server.send(signal.SIGSTOP)
            await asyncio.sleep(4 + 4 * fault.draw)  # its session with the controller lasts 3 s
            server.send(signal.SIGCONT)
            await asyncio.to_thread(server.wait_until_ready)

    async def _kill_redis(self, fault: Fault) -> None:
        async with self._redis_busy:
            await asyncio.sleep(0)
            tail = self.files.tail() if fault.kind == "redis-torn" else 0
            self.proxy.close_gate()
            before = self._positions()
            self.redis.kill()
            if fault.kind == "redis-torn":
                self.files.tear(min(tail, round(TAIL**fault.draw)))
            elif fault.kind == "redis-restore":
                self.files.restore()
            await asyncio.sleep(fault.draw)
            self.redis.restart()
            if fault.kind == "redis-torn":
                self.files.rewrite()
            after = self._positions()
            self.rewound += sum(after.get(key, 0) < value for key, value in before.items())
            self.proxy.open_gate()

    def _positions(self) -> dict[bytes, int]:
        """Where all readers stand, while nobody is let through to move them."""
        with blocking.Redis.from_url(self.redis.url) as client:
            names = sorted(client.keys("{*}@*"))
            values = client.mget(names)
        return {
            name: int.from_bytes(value[16:24], "little") for name, value in zip(names, values, strict=True)
        }

    async def _fill_redis(self, fault: Fault) -> None:
        async with self._redis_busy:
            with blocking.Redis.from_url(self.redis.url) as client:
                client.config_set("maxmemory", 1)
                await asyncio.sleep(1 + 2 * fault.draw)
                client.config_set("maxmemory", 0)

    async def _cut(self, fault: Fault) -> None:
        """Cuts the next commit that comes, at a byte that is as likely near its beginning as far into it."""
        way: Way = "request" if fault.draw < 0.5 else "reply"
        draw, size = 2 * fault.draw % 1, 100_000 if way == "request" else 100
        self.proxy.arm(Cut(way, round(size**draw), COMMIT))

    async def _late(self, fault: Fault) -> None:
        self.proxy.arm(Late(0.2 + SESSION * fault.draw, COMMIT))


def stale(nap: Nap) -> int:
    """How many commits a worker got through that had slept, on what others had taken over, before it claimed anew."""
    accepted = 0
    claimed: set[tuple[str, str]] = set()
    for line in nap.trace.read_text().splitlines():
        asked, name, reader, what = json.loads(line)
        if asked <= nap.woken or (name, reader) not in nap.lost:
            continue
        if what == "CLAIMED":
            claimed.add((name, reader))
        accepted += what == "APPLIED" and (name, reader) not in claimed
    return accepted


def _last_word(said: str) -> str:
    """The kind of error that a process ended with; its reason and what mends it stand indented behind."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(" ")]
    return lines[-1].partition(":")[0][-80:] if lines else "nothing"
