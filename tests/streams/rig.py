"""A project on real parts: its topics in Kafka, its states in Redis, its workers in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from features.embedded import tied_to_parent
from features.redis import RedisStore
from features.store import Position
from headrace.compose import snapshot_key
from headrace.loading import Loaded
from models.deployment import Deployment, deploy, topics_of
from models.feed import ModelFeed
from models.project import Project
from models.spec import Model
from models.topics import dead_letter_topic
from streams.engine import ROLES
from streams.log import LogReader, Partition
from streams.producer import Outgoing, Producer
from tests.parts.broker import Broker
from tests.parts.kafka import KafkaServer

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT = 240.0  # a guard against hanging, not a claim about speed
SESSION = 3.0  # seconds until the group notices that a worker is gone


class Process:
    """One worker process. It ends with the test."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                tied_to_parent(list(command)),
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def send(self, how: signal.Signals) -> None:
        self.check()
        self._process.send_signal(how)

    def kill(self) -> None:
        """Ends it at once, wherever it is."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ends it in good order; returns its exit code."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        return self._process.wait(WAIT)

    def wait(self) -> int:
        return self._process.wait(WAIT)

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def check(self) -> None:
        """Fails if it has ended by itself."""
        if self._process.poll() is not None:
            raise AssertionError(f"the worker ended with {self._process.returncode}:\n{self.said()[-4000:]}")


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
        self.store: RedisStore
        self.deployment: Deployment
        self.feed: ModelFeed

    async def open(self, topics: Mapping[str, int]) -> None:
        self.store = RedisStore(self.redis)
        self.deployment = await deploy(self.project, self.store, topics)
        self.feed = ModelFeed(self.store, self.deployment, [snapshot_key(Loaded(self.project, ()), None)])

    async def produce(self, records: Sequence[Outgoing], **client: Any) -> None:
        async with Producer(self.bootstrap, client=client) as producer:
            await producer.send(records)

    def start(self, roles: Collection[str] = ROLES, **options: Any) -> Process:
        """A worker; its requests wait for all that they need."""
        settings = {
            "file": str(self.file),
            "bootstrap": self.bootstrap,
            "redis": self.redis,
            "roles": sorted(roles),
            "hold": 1e6,
            "session_timeout": SESSION,
            **options,
        }
        log = self.folder / f"worker-{len(self.processes)}.log"
        process = Process([sys.executable, "-m", "tests.streams.runner", json.dumps(settings)], log)
        self.processes.append(process)
        return process

    async def until(self, done: Callable[[], Awaitable[bool]], *running: Process) -> None:
        """Waits for a condition while these processes run."""
        deadline = time.monotonic() + WAIT
        while not await done():
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
        sources = [source.topic for source in self.project.sources if source.topic != self.model.samples_topic]
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
) -> AsyncIterator[Rig]:
    """Makes the topics and the file of a project; ends its workers and gives everything back.

    Args:
        builder: the text of the project's file, for processes.
        partitions: of the topics, where they are not the usual ones.
    """
    topics = topics_of(project, partitions)
    for topic, count in [*topics.items(), *((dead_letter_topic(topic), 1) for topic in topics)]:
        if isinstance(broker, KafkaServer):
            broker.create_topic(topic, count, {"retention.ms": "-1"})  # the events are old
        else:
            broker.create_topic(topic, count)
    with LogReader(broker.bootstrap) as reader:
        made = Rig(project, builder, folder, broker, redis, reader)
        await made.open(topics)
        try:
            yield made
        finally:
            for process in made.processes:
                process.kill()
            await made.store.close()
