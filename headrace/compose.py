"""Composition: the rooms put together into processes. Every adapter is made here, and nowhere else."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from features import keys as stored
from features.errors import StoreError
from features.redis import RedisStore
from models.deployment import Deployment, deploy, topics_of
from models.feed import ModelFeed
from models.snapshot import Key, development_key
from serving import run as listening
from serving.app import create_app
from serving.errors import OutboxRefused, OutboxUnavailable
from serving.gate import Gate
from serving.settings import Settings as Limits
from serving.tokens import Tokens
from streams.context import Context
from streams.engine import ROLES, Engine
from streams.errors import DeliveryRefused, StreamsError
from streams.log import LogReader
from streams.metrics import Metrics
from streams.producer import Headers, Outgoing, Producer
from streams.recall import LogRecall
from streams.security import Kafka
from streams.worker import run

from .loading import Loaded
from .topics import short_of

log = logging.getLogger("headrace")


def snapshot_key(loaded: Loaded, secret: str | None) -> Key:
    """Returns the key that seals snapshots: the given secret, or one derived from the name that protects nothing."""
    if secret:
        return Key("configured", secret.encode())
    return development_key(loaded.project.name)


def partitions_now(loaded: Loaded, bootstrap: Kafka) -> dict[str, int]:
    """Returns the partitions that the project's topics have on the broker.

    Raises:
        StreamsError: the broker does not answer, or a topic is missing.
    """
    with LogReader(bootstrap) as reader:
        return {topic: reader.partitions(topic) for topic in topics_of(loaded.project)}


@asynccontextmanager
async def deployed(
    loaded: Loaded, redis: str, topics: Mapping[str, int]
) -> AsyncIterator[tuple[RedisStore, Deployment]]:
    """Gives the store and the deployment of a project in it."""
    store = RedisStore(redis)
    try:
        yield store, await deploy(loaded.project, store, topics)
    finally:
        await store.close()


async def work(
    loaded: Loaded,
    *,
    bootstrap: Kafka,
    redis: str,
    roles: Collection[str] = ROLES,
    secret: str | None = None,
    hold: float = 30.0,
    instance: str | None = None,
    session_timeout: float = 10.0,
    stall_timeout: float = 10.0,
    metrics: Metrics | None = None,
    signals: bool = True,
) -> None:
    """Runs a worker until it is told to stop.

    Raises:
        HeadraceError, StreamsError: the worker cannot go on; the message says why and what to do.
    """
    import signal

    # millions of small objects that never die: a collection that looks at all of them is a stall for nothing
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    topics = await asyncio.to_thread(partitions_now, loaded, bootstrap)
    for short in await asyncio.to_thread(short_of, loaded.project, bootstrap):
        log.warning(
            "%s of %s is %s, and the project needs %s, or records are gone when they are needed: %s",
            *(short.setting, short.topic, short.found, short.wanted, short.fix),
        )
    key = snapshot_key(loaded, secret)
    async with deployed(loaded, redis, topics) as (store, deployment), Producer(bootstrap) as producer:
        feed = ModelFeed(store, deployment, [key], allow=loaded.modules)
        recall = LogRecall(bootstrap)
        context = Context(
            deployment,
            store,
            producer,
            feed,
            key,
            loaded.modules,
            _now_ms,
            metrics or Metrics(),
            recall,
            hold=hold,
            stall=stall_timeout,
        )
        engine = Engine(context, roles)
        whole = frozenset(roles) == frozenset(ROLES)
        group = f"headrace.{loaded.project.name}" + ("" if whole else "." + "-".join(sorted(roles)))
        beside = [asyncio.create_task(feed.run()), asyncio.create_task(report(engine, store))]
        try:
            await run(
                engine,
                engine.topics(),
                bootstrap=bootstrap,
                group=group,
                instance=instance,
                session_timeout=session_timeout,
                signals=(signal.SIGTERM, signal.SIGINT) if signals else (),
            )
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await recall.close()


async def serve(
    loaded: Loaded,
    *,
    bootstrap: Kafka,
    redis: str,
    secret: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    keys: Path | None = None,
    tokens: Tokens | None = None,
    tls: listening.Tls | None = None,
    started: Callable[[str], None] | None = None,
) -> None:
    """Runs the API until it is told to stop.

    Raises:
        HeadraceError, StreamsError: the API cannot start; the message says why and what to do.
    """
    gate = None if keys is None and tokens is None else Gate(keys, tokens=tokens)
    topics = await asyncio.to_thread(partitions_now, loaded, bootstrap)
    key = snapshot_key(loaded, secret)
    async with deployed(loaded, redis, topics) as (store, deployment), Producer(bootstrap) as producer:
        feed = ModelFeed(store, deployment, [key], allow=loaded.modules)
        app = create_app(deployment, store, feed, KafkaOutbox(producer), limits, gate=gate)
        await listening.serve(app, host, port, started=started, tls=tls)


async def report(engine: Engine, store: RedisStore, every: float = 1.0) -> None:
    """Tells the API and the console how the worker is doing, once a second."""
    name = f"{engine.context.deployment.project.name}/worker-{socket.gethostname()}-{os.getpid()}"
    while True:
        await asyncio.sleep(every)
        try:
            await store.tell(stored.STATUS, name, json.dumps(engine.status()).encode())
        except StoreError as error:  # telling is not worth a worker
            log.debug("status was not told: %s", error)
        except Exception:  # a mistake of ours must be seen, and must not end the telling
            log.exception("status was not told")


class KafkaOutbox:
    """The API's way to Kafka."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    @property
    def lost(self) -> int:
        """How many offered records were not written."""
        return self._producer.lost

    def offer(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        time_ms: int,
        partition: int | None = None,
        headers: Headers = (),
    ) -> bool:
        """Writes a record some time; returns whether there was room."""
        return self._producer.offer(Outgoing(topic, key, value, headers, time_ms, partition))

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        time_ms: int,
        partition: int | None = None,
        headers: Headers = (),
    ) -> None:
        """Writes a record and returns when the broker has it."""
        try:
            await self._producer.send([Outgoing(topic, key, value, headers, time_ms, partition)])
        except DeliveryRefused as error:
            raise OutboxRefused(str(error), where=topic) from error
        except StreamsError as error:
            raise OutboxUnavailable(str(error), where=topic) from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


__all__ = ["KafkaOutbox", "deployed", "partitions_now", "serve", "snapshot_key", "work"]
