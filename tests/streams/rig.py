"""A project on real parts: its topics in Kafka, its states in Redis, its workers in processes of their own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from features.errors import StoreUnavailable
from features.redis import RedisStore
from features.store import Position
from headrace.compose import snapshot_key
from headrace.loading import Loaded
from models.deployment import Deployment, deploy, topics_of
from models.feed import ModelFeed
from models.project import Project
from models.snapshot import Key
from models.spec import Model
from models.topics import dead_letter_topic
from streams.engine import ROLES
from streams.log import LogReader, Partition
from streams.producer import Outgoing, Producer
from tests.parts.broker import Broker
from tests.parts.kafka import KafkaServer
from tests.parts.kafka_cluster import KafkaCluster
from tests.streams import runner

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT = 240.0  # a guard against hanging, not a claim about speed
SESSION = 3.0  # seconds until the group notices that a worker is gone


def _nursery() -> ForkServerContext:
    """Where workers are born: a process that has imported everything, so that the next one starts at once."""
    nursery = multiprocessing.get_context("forkserver")
    nursery.set_forkserver_preload(["pytest", runner.__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "0")  # River iterates over sets of names
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        ensure_running()
    return nursery


class Process:
    """One process: a worker, or what else `runner` can be. It ends with the test."""

    def __init__(
        self,
        options: dict[str, Any],
        said: Path,
        trace: Path | None,
        target: Callable[[dict[str, Any], str, str | None], None] = runner.main,
    ) -> None:
        self._said = said
        arguments = (options, str(said), None if trace is None else str(trace))
        self._process = _nursery().Process(target=target, args=arguments, daemon=True)
        self._process.start()

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.exitcode

    def send(self, how: signal.Signals) -> None:
        self.check()
        assert self._process.pid is not None
        os.kill(self._process.pid, how)

    def kill(self) -> None:
        """Ends it at once, wherever it is."""
        self._process.kill()
        self._process.join()

    def stop(self) -> int | None:
        """Ends it in good order; returns its exit code."""
        self._process.terminate()
        self._process.join(WAIT)
        return self._process.exitcode

    def said(self) -> str:
        return self._said.read_text(errors="replace") if self._said.exists() else ""

    def check(self) -> None:
        """Fails if it has ended by itself."""
        if self._process.exitcode is not None:
            raise AssertionError(f"the worker ended with {self._process.exitcode}:\n{self.said()[-4000:]}")


class Rig:
    """A deployed project and the way to its parts. Made by `rig`."""

    def __init__(
        self, project: Project, builder: str, folder: Path, broker: Broker, redis: str, reader: LogReader
    ) -> None:
        self.project = project
        self.model: Model = project.models[0]
        self.log = reader
        self.bootstrap = broker.bootstrap
        self.redis = redis
        self.folder = folder
        self.file = folder / f"{project.name}.py"
        self.file.write_text(builder)
        self.processes: list[Process] = []
        self.key: Key
        self.store = RedisStore(redis)
        self.deployment: Deployment
        self.feed: ModelFeed

    async def open(self, topics: Mapping[str, int]) -> None:
        self.deployment = await deploy(self.project, self.store, topics)
        self.key = snapshot_key(Loaded(self.project, ()), None)
        self.feed = ModelFeed(self.store, self.deployment, [self.key])

    async def produce(self, records: Sequence[Outgoing], **client: Any) -> None:
        async with Producer(self.bootstrap, client=client) as producer:
            await producer.send(records)

    def start(self, roles: Collection[str] = ROLES, trace: Path | None = None, **options: Any) -> Process:
        """A worker; its requests wait for all that they need. `trace` gets what the store answers it."""
        settings = {
            "file": str(self.file),
            "bootstrap": self.bootstrap,
            "redis": self.redis,
            "roles": sorted(roles),
            "hold": 1e6,
            "session_timeout": SESSION,
            **options,
        }
        process = Process(settings, self.folder / f"worker-{len(self.processes)}.log", trace)
        self.processes.append(process)
        return process

    async def until(self, done: Callable[[], Awaitable[bool]], *running: Process) -> None:
        """Waits for a condition while these processes run."""
        deadline = time.monotonic() + WAIT

        async def finished() -> bool:
            try:
                return await done()
            except StoreUnavailable:
                return False

        while not await finished():
            for process in running:
                process.check()
            if time.monotonic() > deadline:
                said = "\n".join(process.said()[-2000:] for process in running)
                raise AssertionError(f"not done after {WAIT:.0f} s: {await self.positions()}\n{said}")
            await asyncio.sleep(0.05)

    async def positions(self) -> dict[tuple[Partition, str], Position]:
        """Where every reader stands, by the log's partition and the reader's name."""
        found = {}
        for topic, reader in self._readers():
            for group in self.deployment.groups[topic]:
                stored = await self.store.get(f"{group.tag}@{reader}")
                position = Position.start(bytes(16)) if stored is None else Position.unpack(stored)
                found[Partition(topic, group.partition), reader] = position
        return found

    def _readers(self) -> list[tuple[str, str]]:
        """Readers in the order of the flow: who has ended cannot be given more by those after it."""
        sources = [
            source.topic for source in self.project.sources if source.topic != self.model.samples_topic
        ]
        asked = [(self.model.spec.request.topic, "score")]
        joined = [(self.model.log_topic, "join"), (self.model.samples_topic, "learn")]
        folded = [(self.model.samples_topic, "")] if len(sources) < len(self.project.sources) else []
        return [*((topic, "") for topic in sources), *asked, *joined, *folded]

    async def folded(self) -> int:
        """How many records of the sources have been folded."""
        return sum(p.next for (_, reader), p in (await self.positions()).items() if not reader)

    async def done(self) -> bool:
        """Whether every reader has come to the end of its log."""
        standing = await self.positions()
        for (partition, _), position in standing.items():
            if position.next < self.log.highwaters([partition])[partition]:
                return False
        return True

    async def finish(self, *running: Process) -> None:
        """Waits until everything is read, then ends the workers in good order."""
        await self.until(self.done, *running)
        for process in running:
            assert process.stop() == 0, process.said()

    def letters(self, topic: str) -> list[tuple[str, int, bytes | None]]:
        """The dead letters of a topic: reason, offset, value."""
        found = []
        letters = dead_letter_topic(topic)
        for number, bounds in self.log.bounds(letters).items():
            for batch in self.log.read(letters, number, bounds.earliest, bounds.highwater):
                for record in batch:
                    told = dict(record.headers)
                    reason = told["__connect.errors.class.name"] or b""
                    offset = told["__connect.errors.offset"] or b""
                    found.append((reason.decode(), int(offset), record.value))
        return found


@asynccontextmanager
async def rig(
    project: Project,
    builder: str,
    folder: Path,
    broker: Broker,
    redis: str,
    partitions: Mapping[str, int] | None = None,
    config: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> AsyncIterator[Rig]:
    """Makes the topics and the file of a project; ends its workers and gives everything back.

    Args:
        builder: the text of the project's file, for processes.
        partitions: of the topics, where they are not the usual ones.
        config: of topics on a real Kafka, where they are not to keep everything.
    """
    topics = topics_of(project, partitions)
    for topic, count in [*topics.items(), *((dead_letter_topic(topic), 1) for topic in topics)]:
        if isinstance(broker, KafkaServer | KafkaCluster):
            # the events are old
            broker.create_topic(topic, count, config.get(topic, {"retention.ms": "-1"}))
        else:
            broker.create_topic(topic, count)
    with LogReader(broker.bootstrap) as reader:
        made = Rig(project, builder, folder, broker, redis, reader)
        try:
            await made.open(topics)
            yield made
        finally:
            for process in made.processes:
                process.kill()
            await made.store.close()
