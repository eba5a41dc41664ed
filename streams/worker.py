"""The worker: a Faust app around one processor, from the first claim to the last commit."""
# ruff: noqa: SLF001 - Faust tells of a crash in a private member

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterable, Collection, Iterable, Iterator, Mapping
from typing import Any, NoReturn

from aiokafka.errors import KafkaConnectionError, KafkaError

from .errors import BrokerUnreachable, Stalled, StreamsError, TopicUnusable
from .log import Bounds, LogReader, Partition
from .security import Brokers, Kafka
from .stalls import Stalls, Stand
from .transport import (
    App,
    BootStrategy,
    Carrier,
    FaustTransport,
    Message,
    Poll,
    Processor,
    Schema,
    ServiceT,
    Settings,
    transport,
)

log = logging.getLogger("headrace.worker")

_POLL_RECORDS = 5_000
_PUBLISH_EVERY = 1.0
_PUBLISH_SECONDS = 5.0
_LOOKS = 6  # how often the watchdog looks before it loses patience


async def run(
    processor: Processor,
    topics: Mapping[str, int],
    *,
    bootstrap: Kafka,
    group: str,
    instance: str | None = None,
    signals: Collection[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    session_timeout: float = 10.0,
    broker_timeout: float = 10.0,
    patience: float = 30.0,
    grace: float = 30.0,
    lull: float = 0.005,
    poll_records: int = _POLL_RECORDS,
    client: Mapping[str, Any] | None = None,
) -> None:
    """Carry the polls of these topics to the processor until a signal or cancellation; finish and leave.

    Args:
        processor: Who folds the records and knows where to resume.
        topics: The topics to read, and how many partitions each has to have.
        bootstrap: Brokers as `host:port,host:port`, or with how they are reached.
        group: The consumer group that shares the partitions.
        instance: A name that stays the same over restarts. A worker with a name does not leave the group when
            it stops: started again within `session_timeout` it has its partitions back without a rebalance.
        signals: Signals that end the run in good order. Empty outside the main thread.
        session_timeout: Seconds after which the group gives the partitions of a dead worker to others.
        broker_timeout: Seconds to wait for the broker at the start.
        patience: Seconds a partition may stand still while its log grows.
        grace: Seconds for the processor to finish what it has in hand when the run ends.
        lull: Seconds without a poll after which the processor's `idle` is called.
        poll_records: The most records of one poll.
        client: Further arguments of aiokafka's consumer.

    Raises:
        BrokerUnreachable: Kafka does not answer.
        TopicUnusable: A topic is missing or has another number of partitions.
        LogTruncated: A log no longer holds the offset to resume from.
        LogAhead: A log ends before the offset to resume from.
        TopicRecreated: A topic was deleted and made anew.
        Stalled: Reading stands still.
        Exception: Whatever the processor raises.
    """
    brokers = Brokers.of(bootstrap)
    await asyncio.to_thread(_check, topics, brokers, broker_timeout)
    carrier = Carrier(processor, topics)

    async def read_bounds(partitions: frozenset[Partition]) -> Mapping[Partition, Bounds]:
        return await asyncio.to_thread(_bounds, topics, partitions, brokers, broker_timeout)

    async def read_ends(partitions: Collection[Partition]) -> Mapping[Partition, int]:
        async with turn:
            return await asyncio.to_thread(reader.highwaters, partitions)

    async def read_ids(topics: Collection[str]) -> Mapping[str, bytes]:
        async with turn:
            return await asyncio.to_thread(reader.topic_ids, topics)

    settings = {
        "group_instance_id": instance,
        "session_timeout_ms": round(session_timeout * 1000),
        "heartbeat_interval_ms": round(min(session_timeout / 3, 1.0) * 1000),
        "fetch_max_wait_ms": 100,
        "max_poll_records": poll_records,
        **brokers.aiokafka(),
        **(client or {}),
    }
    kind = transport(carrier, read_bounds, read_ends, read_ids, settings, lull)
    app = _app(group, topics, brokers.bootstrap, carrier, kind)
    turn = asyncio.Lock()
    with _stop_on(signals) as stop, LogReader(brokers, broker_timeout) as reader:
        started = _start(app, brokers.bootstrap), _crash(app)
        work = *started, _watch(carrier, patience), _publish(carrier), carrier.stay_genuine()
        try:
            await _until(stop, carrier.failed, *work)
        finally:
            await carrier.close(grace)
            await app.stop()
            carrier.check()  # also what failed while finishing


def _check(topics: Mapping[str, int], brokers: Brokers, seconds: float) -> None:
    with LogReader(brokers, seconds) as reader:
        for topic, wanted in topics.items():
            if (found := reader.partitions(topic)) != wanted:
                raise _other_count(topic, wanted, found)


def _bounds(
    topics: Mapping[str, int], partitions: frozenset[Partition], brokers: Brokers, seconds: float
) -> Mapping[Partition, Bounds]:
    for topic, number in partitions:
        if number >= topics[topic]:
            raise _other_count(topic, topics[topic], number + 1)
    with LogReader(brokers, seconds) as reader:
        return reader.bounds_of(partitions)


def _other_count(topic: str, wanted: int, found: int) -> TopicUnusable:
    return TopicUnusable(
        f"Topic {topic} has {found} partitions, but the state was built for {wanted}: keys have moved. "
        "Restore the number, or give the source a new version and rebuild it."
    )


def _app(
    group: str, topics: Mapping[str, int], bootstrap: str, carrier: Carrier, kind: type[FaustTransport]
) -> App:
    app = _App(
        group,
        broker=[f"kafka://{broker}" for broker in bootstrap.split(",")],
        autodiscover=False,
        store="memory://",
        stream_wait_empty=False,  # the carrier waits for what is in hand
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    app.transport = kind(app.conf.broker_consumer, app)
    topic = app.topic(*topics, acks=False, schema=_Schema())

    async def carry(polls: AsyncIterable[Poll]) -> None:
        async for poll in polls:
            await carrier.deliver(poll)

    app.agent(topic, name="carry")(carry)
    return app


class _Settings(Settings):
    def getenv(self, env_name: str) -> None:
        """Find nothing: a variable such as BROKER_URL in the environment would win over our arguments."""


class _BootStrategy(BootStrategy):
    enable_kafka_producer = False
    enable_web = False

    def kafka_consumer(self) -> Iterable[ServiceT]:
        """Start no leader election and no reply topic."""
        return [self.app.consumer]


class _App(App):
    BootStrategy = _BootStrategy
    Settings = _Settings

    def _create_directories(self) -> None:
        """Leave the working directory as it is; the folders are for tables."""


class _Schema(Schema[Any, Any]):
    """Passes a poll on as it is: decoding is the processor's."""

    def compile(self, app: Any, **_: Any) -> Any:
        """Return the function that makes Faust's event."""

        async def decode(message: Message, **_: Any) -> Any:
            return app.create_event(None, message.value, None, message)

        return decode


@contextlib.contextmanager
def _stop_on(signals: Collection[signal.Signals]) -> Iterator[asyncio.Event]:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _until(stop: asyncio.Event, failed: asyncio.Future[Any], *work: Any) -> None:
    """Return when `stop` is set; raise the first error; none of the work ends by itself."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in (stop.wait(), *work)]
    try:
        done, _ = await asyncio.wait([failed, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for ended in sorted(done, key=lambda task: task is not failed):  # what failed first explains the rest
            ended.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _start(app: App, bootstrap: str) -> NoReturn:
    try:
        await app.start()
    except KafkaConnectionError as error:
        raise BrokerUnreachable(bootstrap, "join the group", str(error)) from None
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets that future")


async def _crash(app: App) -> NoReturn:
    await app._crashed.wait()
    raise app.crash_reason or StreamsError("Faust stopped without a reason; its log may have one")


async def _publish(carrier: Carrier) -> NoReturn:
    """Commit positions to the group now and then, for dashboards of its lag; nobody resumes from them."""
    published: dict[Partition, int] = {}
    while True:
        await asyncio.sleep(_PUBLISH_EVERY)
        positions = {partition: reading.delivered for partition, reading in carrier.readings.items()}
        if positions and positions != published:
            try:
                async with asyncio.timeout(_PUBLISH_SECONDS):
                    await carrier.publish(positions)
                published = positions
            except (KafkaError, TimeoutError) as error:
                log.debug("positions were not published: %s", error)


async def _watch(carrier: Carrier, patience: float) -> NoReturn:
    """End the worker when a partition that the processor wants stands still short of the end of its log.

    aiokafka is known to stop fetching for good in rare cases; a new process helps.
    """
    stalls = Stalls(patience)
    call = None
    while True:
        await asyncio.sleep(patience / _LOOKS)
        # While one call lasts, it is the processor that takes its time.
        call, before = carrier.in_hand, call
        waiting = {} if call is not None and call == before else carrier.waiting()
        try:
            # of all: how far one lags is told while it is not read on, too
            ends = await carrier.ends(list(carrier.readings))
        except BrokerUnreachable:
            ends = {}
        stands = {p: Stand((position,), ends[p]) for p, position in waiting.items() if p in ends}
        for stall in stalls.look(time.monotonic(), stands):
            raise Stalled(*stall.partition, min(stall.stand.positions), stall.stand.end, stall.seconds)
