"""P1: events per CPU-second of the worker, against a bare loop and against Faust's tables."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from features.embedded import EmbeddedRedis
from features.redis import RedisStore
from features.store import Group
from tests.bench import activity
from tests.bench.events import PARTITIONS, Progress, produce
from tests.bench.goal import Goal, figure
from tests.bench.processes import HEADRACE, Side, SideFailed, beside, cpu_seconds, split_cores
from tests.parts.kafka import KafkaServer

EVENTS = 1_000_000
FAUST_SHARE = 25  # Faust gets every so manyth part of the events: it is about a hundred times slower
ROUNDS = 5
_LOOK = 0.02  # seconds between two looks at a run
_STALLED = 180.0  # seconds without any progress
_TOPIC = activity.payments.topic


class Run(NamedTuple):
    """One side in one round, from before its first read on."""

    events: int
    wall: float
    own: float  # CPU-seconds of the process
    redis: float  # and of Redis
    broker: float  # and of the broker

    @property
    def rate(self) -> float:
        """Events per CPU-second of the process."""
        return self.events / self.own


class Bench:
    """The broker with the events in it, and a place for files."""

    def __init__(self, kafka: KafkaServer, folder: Path, core: int, n: int) -> None:
        self._kafka = kafka
        self._folder = folder
        self._core = core
        self._n = n
        self._runs = 0

    def headrace(self) -> Run:
        """`headrace worker` in the role features, into an empty Redis that appends every write to a file."""
        with EmbeddedRedis.start() as redis, asyncio.Runner() as runner:
            store = RedisStore(redis.url)
            groups = runner.run(_groups(store))
            project = [str(Path(activity.__file__)), "--role", "features"]
            places = ["--kafka", self._kafka.bootstrap, "--redis", redis.url]
            with Side([*HEADRACE, "worker", *project, *places], self._core) as side:
                measured = self._measure(
                    side, lambda: runner.run(_committed(store, groups)), self._n, redis.pid
                )
            runner.run(store.close())
        return measured

    def bare(self) -> Run:
        """`consume(1000)` of confluent-kafka and a typed decode of each value."""
        return self._other("bare_loop", self._n)

    def faust(self) -> Run:
        """One table with one packed record a key."""
        return self._other("faust_table", self._n // FAUST_SHARE)

    def _other(self, module: str, n: int) -> Run:
        self._runs += 1
        progress = self._folder / f"progress-{self._runs}"
        counter = Progress(progress)
        second = str(n) if module == "bare_loop" else f"bench-faust-{self._runs}"
        command = [
            sys.executable,
            "-m",
            f"tests.bench.{module}",
            self._kafka.bootstrap,
            second,
            str(progress),
        ]
        with Side(command, self._core) as side:
            return self._measure(side, counter, n, None)

    def _measure(self, side: Side, progress: Callable[[], int], n: int, redis: int | None) -> Run:
        first: tuple[int, float, float, float, float] | None = None
        done, moved = -1, time.monotonic()
        while True:
            before, done = done, progress()
            now = time.monotonic()
            marks = (done, now, cpu_seconds(side.pid), cpu_seconds(redis) if redis else 0.0, self._broker())
            if first is None and done >= 0:
                first = marks
                side.go()
            if done >= n:
                assert first is not None
                return Run(*(last - then for last, then in zip(marks, first, strict=True)))  # type: ignore[arg-type]
            moved = now if done > before else moved
            side.check()
            if now - moved > _STALLED:
                raise SideFailed(
                    f"no progress beyond {done} of {n} events for {_STALLED:.0f} s\n{side.said()}"
                )
            time.sleep(_LOOK)

    def _broker(self) -> float:
        assert self._kafka.pid is not None
        return cpu_seconds(self._kafka.pid)


def run(console: Console, n: int = EVENTS, rounds: int = ROUNDS) -> list[Goal]:
    """Measures all sides in turn, round by round, and returns what P1 asks."""
    core, others = split_cores()
    with (
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder,
        beside(others),
        KafkaServer.start(Path(folder) / "kafka") as kafka,
    ):
        kafka.create_topic(_TOPIC, PARTITIONS, {"retention.ms": "-1"})
        console.print(f"worker: writing {n:,} events")
        produce(kafka.bootstrap, _TOPIC, n)
        bench = Bench(kafka, Path(folder), core, n)
        bench.bare()  # warms up broker and page cache
        ours, bare, faust = [], [], []
        for number in range(1, rounds + 1):
            ours.append(bench.headrace())
            bare.append(bench.bare())
            faust.append(bench.faust())
            rates = ", ".join(f"{figure(side[-1].rate)}" for side in (ours, bare, faust))
            console.print(f"worker: round {number} of {rounds}: {rates} events/CPU-s (ours, bare, Faust)")
    console.print(_table({"headrace worker": ours, "bare loop": bare, "Faust table": faust}))
    return [
        Goal("P1 events/CPU-s against consume and decode", _rates(ours), _rates(bare), 0.2),
        Goal("P1 events/CPU-s against a Faust table", _rates(ours), _rates(faust), 50.0),
    ]


def _rates(runs: list[Run]) -> list[float]:
    return [each.rate for each in runs]


def _table(sides: dict[str, list[Run]]) -> Table:
    table = Table(title="The worker: medians of the rounds")
    for name in (
        "side",
        "events",
        "events/CPU-s",
        "own us/event",
        "Redis us/event",
        "broker us/event",
        "events/s",
    ):
        table.add_column(name, justify="left" if name == "side" else "right")
    for side, runs in sides.items():
        columns = (
            [float(each.events) for each in runs],
            _rates(runs),
            *(
                [1e6 * cpu / each.events for each, cpu in zip(runs, cpus, strict=True)]
                for cpus in _cpus(runs)
            ),
            [each.events / each.wall for each in runs],
        )
        table.add_row(side, *(figure(median(column)) for column in columns))
    return table


def _cpus(runs: list[Run]) -> list[list[float]]:
    return [[each.own for each in runs], [each.redis for each in runs], [each.broker for each in runs]]


async def _groups(store: RedisStore) -> list[Group]:
    project = activity.project
    return await store.groups(project.name, _TOPIC, project.plans_digest(activity.payments), PARTITIONS)


async def _committed(store: RedisStore, groups: list[Group]) -> int:
    """How many events stand in the states, by the positions in Redis; -1 until all partitions are claimed."""
    found = await store.read({group: [] for group in groups})
    positions = [read.position for read in found.values()]
    return -1 if None in positions else sum(position.next for position in positions if position is not None)
