"""Recovery time: from the kill of one part until everything that was produced since has been worked off."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import msgspec

from features.embedded import EmbeddedRedis, free_port
from models.records import FALLBACK
from streams.errors import StreamsError
from streams.producer import Producer
from tests.chaos.events import stream
from tests.parts.kafka_cluster import KafkaCluster
from tests.streams import runner
from tests.streams.rig import Process, Rig, rig
from tests.streams.shop import Payment, Verdict, build, sent

PARTS = ("worker", "worker-lost", "broker", "redis", "api")
BATCH = 200  # events that are produced right after a kill
LOOK = 0.02
SESSION = 6.0  # seconds until the group gives the work of a dead worker to others


class Recovery:
    """A project at work on real parts, of which one is killed at a time."""

    def __init__(self, shop: Rig, kafka: KafkaCluster, redis: EmbeddedRedis, producer: Producer) -> None:
        self._shop, self._kafka, self._redis, self._producer = shop, kafka, redis, producer
        self._stream: Iterator[Payment | Verdict] = stream(1_000_000, 1)
        self._port = free_port()
        self._lost: int | None = None  # the worker that nobody starts again
        self._workers = [self._worker(k) for k in range(2)]
        shop.start(["learn"], instance="learner", session_timeout=SESSION)
        self._api = self._serve()

    def _worker(self, k: int) -> Process:
        return self._shop.start(["features", "join"], instance=f"worker-{k}", session_timeout=SESSION)

    def _serve(self) -> Process:
        shop = self._shop
        settings = {
            "file": str(shop.file),
            "bootstrap": shop.bootstrap,
            "redis": shop.redis,
            "port": self._port,
            "fallback": False,
        }
        process = Process(settings, shop.folder / f"api-{len(shop.processes)}.log", None, runner.serve)
        shop.processes.append(process)
        return process

    async def settle(self) -> None:
        """Produces some events and waits until they are worked off, and the API answers."""
        await self._produce()
        await self._caught_up()
        await self._answered()

    async def measure(self, part: str, k: int) -> float:
        """Kills a part for the k-th time; returns the seconds until all is well again."""
        begun = time.monotonic()
        kill: dict[str, Callable[[int], Awaitable[None]]] = {
            "worker": self._kill_worker,
            "worker-lost": self._lose_worker,
            "broker": self._kill_broker,
            "redis": self._kill_redis,
            "api": self._kill_api,
        }
        await kill[part](k)
        if part == "api":
            await self._answered()
            return time.monotonic() - begun
        await self._produce()
        await self._caught_up()
        seconds = time.monotonic() - begun
        self._lost = None
        return seconds

    async def _kill_worker(self, k: int) -> None:
        self._workers[k % 2].kill()
        self._workers[k % 2] = self._worker(k % 2)

    async def _lose_worker(self, k: int) -> None:
        self._lost = k % 2
        self._workers[k % 2].kill()

    async def _kill_broker(self, k: int) -> None:
        server = self._kafka.servers[k % len(self._kafka.servers)]
        server.kill()
        server.spawn()

    async def _kill_redis(self, k: int) -> None:
        self._redis.kill()
        self._redis.restart()

    async def _kill_api(self, k: int) -> None:
        self._api.kill()
        self._api = self._serve()

    async def _produce(self) -> None:
        batch = sent(self._shop.project, *itertools.islice(self._stream, BATCH))
        while True:
            try:
                return await self._producer.send(batch)
            except StreamsError:
                continue  # it has waited for the broker already

    async def _caught_up(self) -> None:
        """Waits until every reader has what stood in its log when it was asked for, in the order of the flow."""

        async def done() -> bool:
            for k, worker in enumerate(self._workers):
                if worker.code is not None and k != self._lost:
                    self._workers[k] = self._worker(k)  # it has ended by itself: a supervisor starts it again
            try:
                return await self._shop.done()
            except StreamsError:
                return False

        await self._shop.until(done)

    async def _answered(self) -> None:
        url = f"http://127.0.0.1:{self._port}/v1/models/{self._shop.model.name}/predict"
        event = next(event for event in self._stream if isinstance(event, Payment))
        body = msgspec.json.encode(msgspec.structs.replace(event, id="probe"))
        async with httpx.AsyncClient(timeout=10.0) as client:
            while True:
                try:
                    answer = await client.post(url, content=body)
                except httpx.TransportError:
                    await asyncio.sleep(LOOK)
                    continue
                if answer.status_code == 200 and FALLBACK not in answer.json()["flags"]:
                    return


@asynccontextmanager
async def house(folder: Path, brokers: int) -> AsyncIterator[Recovery]:
    """Starts everything."""
    project = build("recovery")
    text = "from tests.streams.shop import build\n\nproject = build('recovery')\n"
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis.start(folder / "redis"))
        kafka = stack.enter_context(KafkaCluster.start(folder / "kafka", brokers))
        shop = await stack.enter_async_context(rig(project, text, folder, kafka, redis.url))
        producer = await stack.enter_async_context(Producer(kafka.bootstrap))
        made = Recovery(shop, kafka, redis, producer)
        await made.settle()
        yield made


async def recovered(
    folder: Path, parts: Collection[str], times: int, brokers: int, tell: Callable[[str], None]
) -> dict[str, list[float]]:
    """Returns the seconds of each kill, by part, shortest first."""
    found: dict[str, list[float]] = {}
    async with house(folder, brokers) as made:
        for part in parts:
            for k in range(times):
                found.setdefault(part, []).append(await made.measure(part, k))
                tell(f"{part}: {k + 1} of {times}")
                await made.settle()
    return {part: sorted(seconds) for part, seconds in found.items()}
