"""A Faust transport in which the poll of a partition is one message, resumed where the processor says.

Faust hands on record by record, through tasks, futures and queues: 80 us each. Here its consumer wraps each
partition's poll in one message, so its life cycle, rebalancing and supervision are paid for once a poll.

Who calls the processor is the `Carrier`; it knows nothing of Faust. A partition is read in *readings*: from
one offset on, without a jump. A seek or a rebalance begins another reading, and whatever still belongs to an
older one is dropped wherever it is found. At most one poll of a partition is on its way or in the processor's
hands: that is all the back-pressure there is.

aiokafka runs in a thread and event loop of its own, so heartbeats go on while the processor computes.
"""
# ruff: noqa: SLF001 - aiokafka and Faust keep what a transport needs in private members

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from .errors import BrokerUnreachable, GroupRefused, LogUnreadable, PollLost, StreamsError, TopicRecreated
from .log import Bounds, Partition


@contextlib.contextmanager
def _without_arguments() -> Iterator[None]:
    """Keep the command line from Faust: when imported it looks there for options of its own."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments


with _without_arguments():
    from faust.app.base import App, BootStrategy
    from faust.serializers.schemas import Schema
    from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, server_list
    from faust.transport.drivers.aiokafka import Consumer as FaustConsumer
    from faust.transport.drivers.aiokafka import Transport as FaustTransport
    from faust.types import TP, ConsumerMessage, Message, ServiceT
    from faust.types.settings import Settings
    from mode import Service

__all__ = [
    "App",
    "BootStrategy",
    "Carrier",
    "Client",
    "FaustTransport",
    "Flow",
    "Message",
    "Poll",
    "Processor",
    "Schema",
    "ServiceT",
    "Settings",
    "transport",
]

log = logging.getLogger("headrace.worker")

_GROUP_EVERY = 0.1  # seconds between two looks for an error of the group
_GENUINE = 0.3  # seconds for which topics that were looked at are taken for the same
_GENUINE_EVERY = (
    0.1  # seconds between two looks beside the polls, so that hardly one waits for a look of its own
)
_AGAIN = 0.5  # seconds between two attempts to look at them
_WAIT = 0.25  # seconds that a poll waits for records before it looks whether other partitions are wanted
_T = TypeVar("_T")


class Polled(Protocol):
    """A record as aiokafka has parsed it; `timestamp` is in ms."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


def _unwrap(fetcher: Fetcher) -> None:
    """Have records that wait passed on as they were parsed: to wrap one in a dataclass takes longer than to parse it.

    What comes in the meantime is wrapped, and as good.
    """
    for result in fetcher._records.values():
        records = getattr(result, "_partition_records", None)  # an error has none
        if records is not None:
            records._consumer_record = _as_parsed


def _as_parsed(_: TopicPartition, record: Polled) -> Polled:
    return record


class Flow(Protocol):
    """What a processor may ask of the transport, from within its own calls."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from `offset`; nothing that was fetched before is delivered any more. Does not block."""

    def position(self, partition: Partition) -> int:
        """Return the offset after all that was delivered, with the empty offsets that follow it.

        At the end of the log it equals `highwater`; the last record's offset plus one does not where a marker
        of a transaction or a compacted record comes last.
        """

    def highwater(self, partition: Partition) -> int:
        """Return the end of the log as last seen."""

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Ask the broker where logs end now, also those that others read; in one round trip.

        Raises:
            BrokerUnreachable: Nobody answered in time.
            TopicUnusable: A topic or partition does not exist.
        """


class Processor(Protocol):
    """What a worker carries polls to. Its calls never overlap; an exception of any one ends the worker."""

    def attach(self, flow: Flow) -> None:
        """Receive the way to steer the transport, once, before any other call."""

    async def assigned(
        self, partitions: frozenset[Partition], bounds: Mapping[Partition, Bounds]
    ) -> Mapping[Partition, int]:
        """Claim the partitions and return the offset to resume each from.

        May be cancelled when the group is rebalanced meanwhile; then it is called again, without `revoked`.
        """

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        """Commit what is in hand and let go of the partitions."""

    def wants(self, partition: Partition) -> bool:
        """Return whether the partition is to be polled now; asked before every poll."""

    async def polled(self, partition: Partition, records: Sequence[Polled], highwater: int) -> None:
        """Take the next records of a partition, in order; `highwater` is the end of its log."""

    async def idle(self) -> None:
        """Go on with work that is held: nothing was polled for a few milliseconds."""


class Reading:
    """One uninterrupted reading of a partition.

    Attributes:
        taken: The offset after all that was taken from the broker.
        delivered: The offset after all that the processor was given.
        highwater: The end of the log as last seen.
        busy: A poll is on its way or in the processor's hands, or the first position is still to be set.
    """

    __slots__ = ("busy", "delivered", "highwater", "taken")

    def __init__(self, offset: int, highwater: int, *, busy: bool = False) -> None:
        self.taken = self.delivered = offset
        self.highwater = highwater
        self.busy = busy


class Fetched(NamedTuple):
    """What one look into the client's buffer gave for a partition: the offsets `start` to `end`."""

    start: int
    end: int
    highwater: int
    records: list[Polled]


class Poll(NamedTuple):
    """The value of a Faust message."""

    partition: Partition
    reading: Reading
    fetched: Fetched


class Client(Protocol):
    """What a carrier needs of Kafka; the consumer below is one."""

    async def bounds(self, partitions: frozenset[Partition]) -> Mapping[Partition, Bounds]:
        """Return what the partitions hold."""

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Return where logs end now."""

    async def topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        """Return which topics these names mean now."""

    async def move(self, offsets: Mapping[Partition, int]) -> None:
        """Make the next records taken start at these offsets; partitions no longer owned are left out."""

    def wake(self) -> None:
        """End a wait for records, because other partitions than before are wanted."""

    async def publish(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets to the group, for those who watch its lag."""


class Carrier:
    """Calls the processor, one call at a time, and keeps the readings. Belongs to one event loop."""

    def __init__(self, processor: Processor, topics: Mapping[str, int]) -> None:
        self.readings: dict[Partition, Reading] = {}
        self._released: dict[
            Partition, Reading
        ] = {}  # while the call in hand, or `revoked`, may ask for them
        self.calls = 0
        self.failed: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self.client: Client | None = None
        self._processor = processor
        self._topics = topics
        self._turn = asyncio.Lock()
        self._claim: asyncio.Task[None] | None = None
        self._moves: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._polling: frozenset[Partition] = frozenset()
        self._calls_when_idle = -1
        self._closed = False
        self._topic_ids: dict[str, bytes] = {}  # of what was claimed
        self._genuine = 0.0  # when they were still the same
        processor.attach(self)

    def seek(self, partition: Partition, offset: int) -> None:
        """See `Flow`."""
        if partition not in self.readings:
            return  # given up while the processor had it in hand: the next claim says where to read
        reading = Reading(offset, self.readings[partition].highwater, busy=True)
        self.readings[partition] = reading
        task = asyncio.get_running_loop().create_task(self._move(partition, reading))
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    def position(self, partition: Partition) -> int:
        """See `Flow`."""
        return self._reading(partition).delivered

    def highwater(self, partition: Partition) -> int:
        """See `Flow`."""
        return self._reading(partition).highwater

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """See `Flow`."""
        ends = await self._kafka.ends(partitions)
        for partition, end in ends.items():
            # no poll tells where a log ends that is not read on for a while
            if (reading := self.readings.get(partition)) is not None:
                reading.highwater = max(reading.highwater, end)
        return ends

    def _reading(self, partition: Partition) -> Reading:
        return self.readings.get(partition) or self._released[partition]

    async def _move(self, partition: Partition, reading: Reading) -> None:
        with self._guard():
            await self._kafka.move({partition: reading.taken})
            reading.busy = False
            self._look()

    async def claim(self, partitions: frozenset[Partition]) -> None:
        """Let the processor claim what the group assigned, check its offsets, and begin to read there.

        Faust may give up waiting for this; the work goes on, and nothing is polled before it is done.
        """
        if self._claim is not None and not self._claim.done():
            await asyncio.wait([self._claim])
        self._claim = asyncio.get_running_loop().create_task(self._claiming(partitions))
        await asyncio.wait([self._claim])

    async def _claiming(self, partitions: frozenset[Partition]) -> None:
        async with self._turn:
            with self._guard():
                if self._closed or self.failed.done() or partitions == self.readings.keys():
                    return
                bounds = await self._asked(lambda: self._kafka.bounds(partitions))
                self._topic_ids = {p.topic: found.topic_id for p, found in bounds.items()}
                self.calls += 1
                offsets = await self._processor.assigned(partitions, bounds)
                for partition in partitions:
                    bounds[partition].check(partition, offsets[partition])
                await self._kafka.move({partition: offsets[partition] for partition in partitions})
                self.readings = {p: Reading(offsets[p], bounds[p].highwater) for p in partitions}
                log.info("reading %d partitions", len(partitions))
        self._look()

    async def release(self) -> None:
        """Deliver nothing any more; let the processor finish what it has in hand and let go of everything."""
        held = frozenset(self.readings)
        self._released, self.readings = self.readings or self._released, {}
        if self._claim is not None:
            self._claim.cancel()
        async with self._turn:
            with self._guard():
                if held and not self.failed.done():
                    self.calls += 1
                    await self._processor.revoked(held)

    async def close(self, grace: float) -> None:
        """Release everything, for good; after `grace` seconds the call in hand is left to be cancelled."""
        self._closed = True
        try:
            await asyncio.wait_for(self.release(), grace)
        except TimeoutError:
            log.error(  # noqa: TRY400 - its traceback would be ours
                "the processor did not finish in %.0f s; what it had in hand will be read again", grace
            )
        for task in self._moves:
            task.cancel()

    def open(self) -> dict[Partition, Reading]:
        """Return the readings that the next poll is for."""
        self._changed.clear()
        opened: dict[Partition, Reading] = {}
        if not self._closed and not self.failed.done():
            with self._guard():
                opened = {p: r for p, r in self.readings.items() if not r.busy and self._processor.wants(p)}
        self._polling = frozenset(opened)
        return opened

    async def changed(self, seconds: float) -> None:
        """Return when other partitions may be wanted, at the latest after `seconds`."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    def take(self, opened: Mapping[Partition, Reading], fetched: Mapping[Partition, Fetched]) -> list[Poll]:
        """Return the polls to deliver: those that join up with what their reading has taken before."""
        polls = []
        with self._guard():
            for partition, found in fetched.items():
                reading = opened[partition]
                if self.readings.get(partition) is not reading or reading.busy:
                    continue
                if found.start != reading.taken:
                    raise PollLost(*partition, reading.taken, found.start)
                reading.taken, reading.highwater = found.end, found.highwater
                if found.records:
                    reading.busy = True
                    polls.append(Poll(partition, reading, found))
                else:
                    reading.delivered = found.end
        return polls

    async def deliver(self, poll: Poll) -> None:
        """Hand a poll to the processor, unless its reading is over."""
        async with self._turn:
            if self._closed or self.failed.done() or self.readings.get(poll.partition) is not poll.reading:
                return
            with self._guard():
                await self._check_topics()
                self.calls += 1
                await self._processor.polled(poll.partition, poll.fetched.records, poll.fetched.highwater)
                poll.reading.delivered = poll.fetched.end
                poll.reading.busy = False
        self._look()

    async def _check_topics(self) -> None:
        """Look whether records that have come are of the topics that were claimed.

        aiokafka reads by names: where a topic is deleted and made anew under one that sleeps, or that is cut off,
        it goes on at the same offset of other records. So nothing is passed on while the last look, which
        `stay_genuine` takes now and then, is too long ago: then there is one more first.

        Raises:
            TopicRecreated: A topic is another one.
            TopicUnusable: A topic is gone.
        """
        if self._topic_ids and time.monotonic() - self._genuine > _GENUINE:
            self._compare(await self._asked(lambda: self._kafka.topic_ids(self._topic_ids)))

    def _compare(self, found: Mapping[str, bytes]) -> None:
        for topic, known in self._topic_ids.items():
            if found[topic] != known:
                raise TopicRecreated(topic)

    async def stay_genuine(self) -> NoReturn:
        """Look at the topics beside the polls, and end the worker where one is another."""
        while True:
            await asyncio.sleep(_GENUINE_EVERY)
            known, now = self._topic_ids, time.monotonic()
            if not known:
                continue
            try:
                found = await self._kafka.topic_ids(known)
            except StreamsError as error:
                log.debug("topics were not looked at: %s", error)  # the next poll asks until it knows
                continue
            if known is self._topic_ids:  # nothing was claimed meanwhile
                with self._guard():
                    self._compare(found)
                    self._genuine = max(self._genuine, now)

    async def _asked(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask the broker until it answers; notes when that was begun, for the topics were there by then."""
        told = False
        while True:
            now = time.monotonic()
            try:
                answer = await ask()
            except BrokerUnreachable as error:
                if not told:
                    log.warning("paused: %s", error)
                    told = True
                await asyncio.sleep(_AGAIN)
            else:
                self._genuine = now
                return answer

    async def idle(self) -> None:
        """Give the processor a turn if it had none since the last time and nothing is on its way to it."""
        quiet = self.calls == self._calls_when_idle and not self._turn.locked()
        self._calls_when_idle = self.calls
        if not quiet or not self.readings or self._closed or self.failed.done():
            return
        if any(reading.busy for reading in self.readings.values()):
            return
        async with self._turn:
            with self._guard():
                await self._processor.idle()
        self._look()

    @property
    def in_hand(self) -> int | None:
        """The number of the processor's call that goes on now, None when there is none."""
        return self.calls if self._turn.locked() else None

    def waiting(self) -> dict[Partition, int]:
        """Return the positions of the partitions that the processor wants to read on, or is about to get."""
        with self._guard():
            return {p: r.delivered for p, r in self.readings.items() if r.busy or self._processor.wants(p)}
        return {}

    async def publish(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets to the group, for those who watch its lag."""
        await self._kafka.publish(offsets)

    def fail(self, error: BaseException) -> None:
        """End the worker with this error; the first one counts, and nothing is delivered after it."""
        if not self.failed.done():
            self.failed.set_exception(error)
            self._changed.set()

    def check(self) -> None:
        """Raise what the worker has failed with, if it has."""
        if self.failed.done():
            self.failed.result()

    @property
    def _kafka(self) -> Client:
        assert self.client is not None  # set by the consumer when Faust makes it
        return self.client

    def _guard(self) -> _Guard:
        return _Guard(self)

    def _look(self) -> None:
        """Let a waiting poll begin again if the set of wanted partitions has grown."""
        self._changed.set()
        if self._polling:
            with self._guard():
                more = any(
                    not reading.busy and partition not in self._polling and self._processor.wants(partition)
                    for partition, reading in self.readings.items()
                )
                if more:
                    self._kafka.wake()


class _Guard:
    """Turns an exception of the processor, or of its surroundings, into the end of the worker.

    Faust would log it and restart the agent, or go on without the partitions.
    """

    __slots__ = ("_carrier",)

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if isinstance(error, asyncio.CancelledError) and not _cancelled():
            error = RuntimeError("the processor awaited something that was cancelled")
        if error is None or not isinstance(error, Exception):
            return False
        self._carrier.fail(error)
        return True


def _cancelled() -> bool:
    """Return whether somebody wants this task to end; Faust takes any CancelledError for that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Thread(AIOKafkaConsumerThread):
    """aiokafka in its own thread and event loop."""

    settings: ClassVar[Mapping[str, Any]]
    _woken = False
    _waiter: asyncio.Future[None] | None = None

    def _create_worker_consumer(self, transport: FaustTransport) -> AIOKafkaConsumer:
        # Faust's own version has the long poll of 1.5 s and resets to another offset without a word.
        conf = self.app.conf
        return AIOKafkaConsumer(
            bootstrap_servers=server_list(transport.url, transport.default_port),
            client_id=conf.broker_client_id,
            group_id=conf.id,
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            **self.settings,
        )

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the thread and return its result.

        Not by Faust's method queue: it has two workers, and one commit that hangs must not hold up a seek.
        """
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.thread_loop))

    async def take(self, partitions: frozenset[Partition], seconds: float) -> dict[Partition, Fetched]:
        """Return what there is of these partitions, after a wait of at most `seconds` for something.

        Never takes anything after a `move` or `wake` that came during the wait: it would belong to another
        reading than the caller has in mind.
        """
        consumer = self._ensure_consumer()
        deadline = time.monotonic() + seconds
        self._woken = False
        while not self._woken:
            if consumer._closed:
                raise ConsumerStoppedError
            if consumer._subscription.reassignment_in_progress:
                return {}
            fetched = await self._look(consumer, partitions)
            left = deadline - time.monotonic()
            if fetched or left <= 0:
                return fetched
            self._waiter = consumer._fetcher._create_fetch_waiter()
            await asyncio.wait([self._waiter], timeout=left)
            self._waiter.cancel()  # its result may be an error of the group, which `_watch_group` looks after
        return {}

    async def _look(
        self, consumer: AIOKafkaConsumer, partitions: frozenset[Partition]
    ) -> dict[Partition, Fetched]:
        assignment = consumer._subscription.subscription.assignment
        states = {tp: assignment.state_value(tp) for tp in (TopicPartition(*p) for p in partitions)}
        before = {tp: state.position for tp, state in states.items() if state and state.has_valid_position}
        if not before:
            return {}  # another assignment came meanwhile; aiokafka takes no names to mean all
        with consumer._subscription.fetch_context():
            found = await self._drain(consumer, before)
        fetched = {}
        for tp, start in before.items():
            state = states[tp]
            if state.position != start:
                end = state.highwater if state.lso is None or state.lso < 0 else state.lso
                records = found.get(tp, [])  # none when only markers and aborted records were passed over
                fetched[Partition(*tp)] = Fetched(start, state.position, end, records)
        return fetched

    async def _drain(
        self, consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, list[Polled]]:
        _unwrap(consumer._fetcher)
        try:
            found: Mapping[TopicPartition, list[Polled]] = await consumer._fetcher.fetched_records(
                list(positions), timeout=0, max_records=consumer._max_poll_records
            )
        except NoOffsetForPartitionError:
            return {}  # it speaks of the time before our first seek; raising removed it
        except OffsetOutOfRangeError as error:
            (offsets,) = error.args
            if any(positions.get(tp) == offset for tp, offset in offsets.items()):
                raise
            return {}  # likewise of an offset before the last seek
        return found

    async def move(self, offsets: Mapping[Partition, int]) -> None:
        """Set positions; what is buffered from elsewhere is dropped by aiokafka at the next take."""
        consumer = self._ensure_consumer()
        self._wake()
        for partition, offset in offsets.items():
            try:
                consumer.seek(TopicPartition(*partition), offset)
            except IllegalStateError:
                log.debug("%s/%d was moved to another worker before its seek", *partition)

    async def publish(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets to the group, for those who watch its lag."""
        consumer = self._ensure_consumer()
        owned = consumer.assignment()
        known = {TopicPartition(*p): OffsetAndMetadata(offset, "") for p, offset in offsets.items()}
        if mine := {tp: offset for tp, offset in known.items() if tp in owned}:
            await consumer.commit(mine)

    def wake(self) -> None:
        """End a wait in `take`; called from any thread."""
        self.thread_loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def touch(self) -> None:
        """Tell aiokafka that the main thread lives, also while no partition is wanted.

        It leaves the group when nothing was fetched for `max_poll_interval_ms`, and comes back only at a
        fetch.
        """
        if self._consumer is not None:
            self._consumer._subscription._last_fetch_ended = time.monotonic()

    @Service.task
    async def _watch_group(self) -> None:
        # After an error that it does not know, aiokafka leaves the group alone until somebody has seen it.
        while not self.should_stop:
            await self.sleep(_GROUP_EVERY)
            coordinator = self._ensure_consumer()._coordinator
            try:
                coordinator.check_errors()
            except KafkaError as error:
                again = type(error) is KafkaError and not coordinator._coordination_task.done()
                if again and "Fenced" not in str(error):
                    log.warning("joining the group %s again after: %s", coordinator.group_id, error)
                else:
                    self._refuse(GroupRefused(coordinator.group_id, str(error)))

    def _refuse(self, error: GroupRefused) -> None:
        consumer = self.consumer
        assert isinstance(consumer, Consumer)
        self.parent_loop.call_soon_threadsafe(consumer.carrier.fail, error)

    def close(self) -> None:
        """Do nothing: upstream closes aiokafka from the wrong event loop here, and well when it stops."""

    def on_crash(self, msg: str, *fmt: Any, **_: Any) -> None:
        """Log instead of printing a traceback to standard error."""
        log.debug(msg.format(*fmt), exc_info=True)


class _Unordered(dict[TP, int | None]):
    """Faust's read offsets, forgotten.

    It would drop, without a word, records below an offset that it has seen: just what comes after a rewind.
    """

    def __getitem__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        return None


class Consumer(FaustConsumer):
    """Faust's consumer, bound to a carrier."""

    carrier: ClassVar[Carrier]
    thread: ClassVar[type[Thread]]
    read_bounds: ClassVar[Callable[[frozenset[Partition]], Awaitable[Mapping[Partition, Bounds]]]]
    read_ends: ClassVar[Callable[[Collection[Partition]], Awaitable[Mapping[Partition, int]]]]
    read_ids: ClassVar[Callable[[Collection[str]], Awaitable[Mapping[str, bytes]]]]
    lull: ClassVar[float]

    _thread: Thread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _Unordered()
        self.carrier.client = self

    def _new_consumer_thread(self) -> Thread:
        # A loop of the same kind: by itself Faust would take asyncio's although we run on uvloop.
        thread_loop = type(asyncio.get_running_loop())()
        thread = self.thread(self, loop=self.loop, beacon=self.beacon, thread_loop=thread_loop)
        thread._close_thread_loop_on_stop = True
        return thread

    async def bounds(self, partitions: frozenset[Partition]) -> Mapping[Partition, Bounds]:
        """See `Client`."""
        return await type(self).read_bounds(partitions)

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """See `Client`."""
        return await type(self).read_ends(partitions)

    async def topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        """See `Client`."""
        return await type(self).read_ids(topics)

    async def move(self, offsets: Mapping[Partition, int]) -> None:
        """See `Client`."""
        await self._thread.run(self._thread.move(offsets))

    def wake(self) -> None:
        """See `Client`."""
        self._thread.wake()

    async def publish(self, offsets: Mapping[Partition, int]) -> None:
        """See `Client`."""
        await self._thread.run(self._thread.publish(offsets))

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - upstream's
        """Return one poll for each partition that has something, or None.

        None also when the flow has stopped meanwhile. Faust would seek, to read again what it drops; here
        a stopped flow always begins again with a claim, which seeks.
        """
        active = {Partition(*tp) for tp in active_partitions or ()}
        opened = {p: reading for p, reading in self.carrier.open().items() if p in active}
        if not opened:
            await self.carrier.changed(self.lull)
            return None
        try:
            fetched = await self._thread.run(self._thread.take(frozenset(opened), min(timeout, _WAIT)))
        except OffsetOutOfRangeError as error:
            self.carrier.fail(await self._out_of_range(error))
            return None
        except (ConsumerStoppedError, asyncio.CancelledError):
            raise
        except KafkaError as error:
            partition = next(iter(opened))  # aiokafka does not say which
            self.carrier.fail(LogUnreadable(*partition, opened[partition].taken, str(error)))
            return None
        except Exception as error:  # noqa: BLE001 - a bug in decoding must end the worker, not the fetcher alone
            self.carrier.fail(error)
            return None
        if not self.flow_active:
            return None
        return {TP(*poll.partition): [poll] for poll in self.carrier.take(opened, fetched)} or None

    async def _out_of_range(self, error: OffsetOutOfRangeError) -> Exception:
        (offsets,) = error.args
        ((tp, offset),) = offsets.items()
        partition = Partition(*tp)
        try:
            bounds = await self.bounds(frozenset({partition}))
            bounds[partition].check(partition, offset)
        except StreamsError as reason:
            return reason
        return LogUnreadable(*partition, offset, "the broker says that the offset is out of range")

    def _to_message(self, tp: TP, record: Poll) -> ConsumerMessage:
        last = record.fetched.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            None,
            None,
            record,  # type: ignore[arg-type]  # Faust says bytes; the schema of our one topic passes it on
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Claim the assigned partitions; called when the flow begins again after a rebalance."""
        await self.carrier.claim(frozenset(Partition(*tp) for tp in self.assignment()))
        return {}

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop the flow, then let the processor finish: rebalancing is eager, so everything is let go."""
        await super().on_partitions_revoked(revoked)
        await self.carrier.release()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: upstream watches for commits, which are not made; `worker` has its own watchdog."""

    async def commit(self, *_: Any, **__: Any) -> bool:
        """Do nothing: where to resume is stored with the state."""
        return False

    @Service.task
    async def _idler(self) -> None:
        while not self.should_stop:
            await asyncio.sleep(self.lull)
            self._thread.touch()
            await self.carrier.idle()


def transport(
    carrier: Carrier,
    read_bounds: Callable[[frozenset[Partition]], Awaitable[Mapping[Partition, Bounds]]],
    read_ends: Callable[[Collection[Partition]], Awaitable[Mapping[Partition, int]]],
    read_ids: Callable[[Collection[str]], Awaitable[Mapping[str, bytes]]],
    settings: Mapping[str, Any],
    lull: float,
) -> type[FaustTransport]:
    """Return a transport for `app.transport` that carries to this carrier.

    Faust makes its consumer from classes, so what belongs to one app goes into classes of its own.

    Args:
        carrier: Who gets the polls.
        read_bounds: Reads what partitions hold.
        read_ends: Reads where partitions end.
        read_ids: Reads the ids of topics.
        settings: Further arguments of aiokafka's consumer.
        lull: Seconds without a poll after which the processor's `idle` is called.
    """
    thread = type("Thread", (Thread,), {"settings": settings})
    members = {
        "carrier": carrier,
        "thread": thread,
        "read_bounds": staticmethod(read_bounds),
        "read_ends": staticmethod(read_ends),
        "read_ids": staticmethod(read_ids),
        "lull": lull,
    }
    consumer = type("Consumer", (Consumer,), members)
    return type("Transport", (FaustTransport,), {"Consumer": consumer})
