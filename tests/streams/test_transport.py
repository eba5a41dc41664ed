"""The worker's shell on both Kafkas: polls arrive once, in order, from where they should."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.errors import BrokerUnreachable, LogAhead, LogTruncated, PollLost, TopicRecreated, TopicUnusable
from streams.log import NO_TOPIC_ID, Bounds, Partition, Record
from streams.transport import Carrier, Fetched, Flow, Polled, Reading
from streams.worker import run
from tests.parts.broker import Broker

WAIT = 120.0  # a guard against hanging, not a claim about speed


@pytest.fixture(params=["embedded_kafka", "kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(request.param)
    return found


class Store:
    """What outlives a worker: where to resume and what was folded. It refuses what does not join up."""

    def __init__(self) -> None:
        self.positions: dict[Partition, int] = {}
        self.values: dict[Partition, list[bytes]] = {}
        self.owners: dict[Partition, object] = {}
        self._changed = asyncio.Event()

    def commit(self, partition: Partition, offsets: Sequence[int], values: Sequence[bytes]) -> None:
        assert offsets[0] >= self.positions.get(partition, 0)
        assert list(offsets) == sorted(set(offsets))
        self.positions[partition] = offsets[-1] + 1
        self.values.setdefault(partition, []).extend(values)
        self.tell()

    def tell(self) -> None:
        self._changed.set()

    @property
    def count(self) -> int:
        return sum(map(len, self.values.values()))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


class Folding:
    """A processor that keeps its position with what it folds, as the real one does."""

    flow: Flow

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[str] = []
        self.bounds: dict[Partition, Bounds] = {}
        self.unwanted: set[Partition] = set()
        self.idles = 0

    def attach(self, flow: Flow) -> None:
        self.flow = flow

    async def assigned(
        self, partitions: frozenset[Partition], bounds: Mapping[Partition, Bounds]
    ) -> Mapping[Partition, int]:
        self.calls.append("assigned")
        self.bounds.update(bounds)
        self.store.owners.update(dict.fromkeys(partitions, self))
        self.store.tell()
        return {partition: self.store.positions.get(partition, 0) for partition in partitions}

    async def revoked(self, partitions: frozenset[Partition]) -> None:
        self.calls.append("revoked")
        self.store.tell()

    def wants(self, partition: Partition) -> bool:
        return partition not in self.unwanted

    async def polled(self, partition: Partition, records: Sequence[Polled], highwater: int) -> None:
        assert self.store.owners[partition] is self
        assert highwater > records[-1].offset
        self.calls.append("polled")
        self.store.commit(partition, [r.offset for r in records], [r.value or b"" for r in records])

    async def idle(self) -> None:
        self.idles += 1
        self.store.tell()


@asynccontextmanager
async def working(
    processor: Any, topics: Mapping[str, int], broker: Broker, **options: Any
) -> AsyncIterator[None]:
    """A running worker, ended in good order; raises what it raised."""
    options = {"group": next(iter(topics)), "session_timeout": 6.0, "signals": (), **options}
    task = asyncio.create_task(run(processor, topics, bootstrap=broker.bootstrap, **options))
    failed = asyncio.create_task(_fail_with(task, asyncio.current_task()))
    try:
        yield
    finally:
        failed.cancel()
        task.cancel()
        async with asyncio.timeout(WAIT):
            await asyncio.gather(task, failed, return_exceptions=True)
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


async def _fail_with(task: asyncio.Task[None], test: asyncio.Task[Any] | None) -> None:
    await asyncio.wait([task])
    if test is not None and not task.cancelled() and task.exception() is not None:
        test.cancel()


async def ends(processor: Any, topics: Mapping[str, int], broker: Broker, **options: Any) -> None:
    """Run a worker until it ends by itself."""
    options = {"group": next(iter(topics)), "session_timeout": 6.0, "signals": (), **options}
    async with asyncio.timeout(WAIT):
        await run(processor, topics, bootstrap=broker.bootstrap, **options)


def write(
    broker: Broker, topic: str, values: Sequence[bytes], partitions: int = 1, *, codec: str = "none"
) -> None:
    """Write the values round robin over the partitions."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 5, "compression.type": codec})
    for number, value in enumerate(values):
        producer.produce(topic, value, partition=number % partitions)
    assert producer.flush(WAIT) == 0


def numbers(first: int, last: int) -> list[bytes]:
    return [str(number).encode() for number in range(first, last)]


async def test_every_record_comes_once_in_order_from_the_offset_that_the_processor_names(
    broker: Broker, topic_prefix: str
) -> None:
    topics = {f"{topic_prefix}.a": 3, f"{topic_prefix}.b": 1}
    for topic, partitions in topics.items():
        broker.create_topic(topic, partitions)
        write(broker, topic, numbers(0, 3000), partitions)
    store = Store()
    started = Partition(f"{topic_prefix}.a", 1)
    store.positions[started] = 400
    processor = Folding(store)
    async with working(processor, topics, broker, poll_records=97):
        await store.until(lambda: store.count == 5600)
        for topic, partitions in topics.items():
            write(broker, topic, numbers(3000, 3300), partitions)
        await store.until(lambda: store.count == 6200)
    for topic, partitions in topics.items():
        for number in range(partitions):
            partition = Partition(topic, number)
            expected = numbers(0, 3300)[number::partitions]
            assert store.values[partition] == expected[400 if partition == started else 0 :]
    assert processor.calls[0] == "assigned"
    assert processor.calls[-1] == "revoked"
    assert processor.calls.count("revoked") == 1


async def test_the_processor_learns_the_bounds_and_the_id_of_each_topic(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 7))
    store = Store()
    processor = Folding(store)
    async with working(processor, {topic: 1}, broker):
        await store.until(lambda: store.count == 7)
    bounds = processor.bounds[Partition(topic, 0)]
    assert (bounds.earliest, bounds.highwater, len(bounds.topic_id)) == (0, 7, 16)
    assert (bounds.topic_id == NO_TOPIC_ID) == (type(broker).__name__ == "EmbeddedKafka")


async def test_a_second_worker_takes_over_partitions_where_the_first_left_them(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 4)
    write(broker, topic, numbers(0, 2000), 4)
    store = Store()
    first, second = Folding(store), Folding(store)
    async with working(first, {topic: 4}, broker):
        await store.until(lambda: store.count == 2000)
        async with working(second, {topic: 4}, broker):
            await store.until(lambda: {first, second} == set(store.owners.values()))
            write(broker, topic, numbers(2000, 4000), 4)
            await store.until(lambda: store.count == 4000)
            assert list(store.owners.values()).count(second) == 2
        await store.until(lambda: set(store.owners.values()) == {first})
        write(broker, topic, numbers(4000, 5000), 4)
        await store.until(lambda: store.count == 5000)
    for number in range(4):
        assert store.values[Partition(topic, number)] == numbers(0, 5000)[number::4]


async def test_a_partition_that_is_not_wanted_waits_and_the_others_go_on(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 3)
    write(broker, topic, numbers(0, 900), 3)
    store = Store()
    processor = Folding(store)
    held = Partition(topic, 1)
    processor.unwanted.add(held)
    async with working(processor, {topic: 3}, broker):
        await store.until(lambda: store.count == 600)
        write(broker, topic, numbers(900, 1800), 3)
        await store.until(lambda: store.count == 1200)
        before = processor.idles
        await store.until(lambda: processor.idles > before + 5)  # held work gets its turns meanwhile
        assert held not in store.values
        processor.unwanted.clear()
        await store.until(lambda: store.count == 1800)
    assert store.values[held] == numbers(0, 1800)[1::3]


async def test_where_a_partition_ends_is_known_while_it_is_not_wanted(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 10))
    store = Store()
    processor = Folding(store)
    partition = Partition(topic, 0)
    async with working(processor, {topic: 1}, broker, patience=0.6):
        await store.until(lambda: store.count == 10)
        processor.unwanted.add(partition)
        write(broker, topic, numbers(10, 20))
        await store.until(
            lambda: processor.flow.highwater(partition) == 20
        )  # idle turns look again and again
        processor.unwanted.clear()
        await store.until(lambda: store.count == 20)


class Rewinding(Folding):
    """Finds, once it has 50 records of a partition, that its store went back to offset 5."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.after: dict[Partition, list[int]] = {}  # where polls began after it was found

    async def polled(self, partition: Partition, records: Sequence[Polled], highwater: int) -> None:
        if partition in self.after:
            self.after[partition].append(records[0].offset)
        elif self.store.positions.get(partition, 0) >= 50:
            self.after[partition] = []
            self.store.positions[partition] = 5
            del self.store.values[partition][5:]
            self.flow.seek(partition, 5)
            return
        await super().polled(partition, records, highwater)


async def test_a_seek_drops_all_that_was_fetched_before_it(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 2)
    write(broker, topic, numbers(0, 2000), 2)
    store = Store()
    processor = Rewinding(store)
    async with working(processor, {topic: 2}, broker, poll_records=50):
        await store.until(lambda: store.count == 2000)
    for number in range(2):
        assert processor.after[Partition(topic, number)][0] == 5
        assert store.values[Partition(topic, number)] == numbers(0, 2000)[number::2]


async def test_a_seek_from_idle_drops_all_that_was_fetched_before_it(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 500))

    class Held(Folding):
        async def idle(self) -> None:
            await super().idle()
            if self.idles == 3:
                store.positions[partition] = 100
                del store.values[partition][100:]
                self.flow.seek(partition, 100)
                write(broker, topic, numbers(500, 600))

    partition = Partition(topic, 0)
    store = Store()
    async with working(Held(store), {topic: 1}, broker):
        await store.until(lambda: store.count == 600)
    assert store.values[partition] == numbers(0, 600)


async def test_sigterm_finishes_the_poll_in_hand_and_lets_go(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 100))
    store = Store()
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Folding):
        async def polled(self, *poll: Any) -> None:
            entered.set()
            await go_on.wait()
            await super().polled(*poll)

    processor = Slow(store)
    worker = asyncio.create_task(
        ends(processor, {topic: 1}, broker, signals=(signal.SIGTERM,), poll_records=10)
    )
    async with asyncio.timeout(WAIT):
        await entered.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        asyncio.get_running_loop().call_later(0.2, go_on.set)
        await worker
    assert processor.calls == ["assigned", "polled", "revoked"]
    assert store.positions[Partition(topic, 0)] == 10


async def test_a_processor_that_does_not_finish_is_given_up_after_the_grace(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 100))
    store = Store()
    entered = asyncio.Event()

    class Stuck(Folding):
        async def polled(self, *_: Any) -> None:
            entered.set()
            await asyncio.get_running_loop().create_future()

    async with working(Stuck(store), {topic: 1}, broker, grace=0.1), asyncio.timeout(WAIT):
        await entered.wait()
    assert store.count == 0


@pytest.mark.parametrize("call", ["assigned", "wants", "polled", "idle"])
async def test_an_exception_of_the_processor_ends_the_worker_with_it(
    broker: Broker, topic_prefix: str, call: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 100))

    def fail(*_: Any) -> None:
        raise ZeroDivisionError(call)

    async def fail_later(*_: Any) -> None:
        fail()

    processor = Folding(Store())
    setattr(processor, call, fail if call == "wants" else fail_later)
    with pytest.raises(ZeroDivisionError, match=call):
        await ends(processor, {topic: 1}, broker)


async def test_an_exception_while_finishing_is_raised_as_well(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 100))

    class Unwilling(Folding):
        async def polled(self, *poll: Any) -> None:
            await super().polled(*poll)
            os.kill(os.getpid(), signal.SIGTERM)

        async def revoked(self, partitions: frozenset[Partition]) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ends(Unwilling(Store()), {topic: 1}, broker, signals=(signal.SIGTERM,))


async def test_a_cancelled_wait_inside_the_processor_is_an_error_not_a_restart(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 10))

    class Waiting(Folding):
        async def polled(self, *_: Any) -> None:
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone

    with pytest.raises(RuntimeError, match="cancelled"):
        await ends(Waiting(Store()), {topic: 1}, broker)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_topics_are_read(broker: Broker, topic_prefix: str, codec: str) -> None:
    topic = f"{topic_prefix}.{codec}"
    broker.create_topic(topic, 1)
    values = [b'{"number":%d,"text":"%s"}' % (number, b"x" * 100) for number in range(500)]
    write(broker, topic, values, codec=codec)
    store = Store()
    async with working(Folding(store), {topic: 1}, broker):
        await store.until(lambda: store.count == 500)
    assert store.values[Partition(topic, 0)] == values


def truncate(broker: Broker, topic: str) -> None:
    """Make the first records of partition 0 go away, as retention does."""
    if type(broker).__name__ == "EmbeddedKafka":
        write(broker, topic, [os.urandom(100_000)] * 60)  # it keeps 5 MiB
        return
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    (answer,) = admin.delete_records([TopicPartition(topic, 0, 20)]).values()
    answer.result(WAIT)


async def test_a_log_that_lost_the_next_offset_halts_the_worker(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 50))
    truncate(broker, topic)
    store = Store()
    with pytest.raises(
        LogTruncated, match=rf"Cannot resume {topic}/0 at offset 0: the log now starts at \d+"
    ):
        await ends(Folding(store), {topic: 1}, broker)
    assert store.count == 0


async def test_a_log_that_is_truncated_while_it_is_read_halts_the_worker(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 50))
    store = Store()
    partition = Partition(topic, 0)

    class Rewound(Folding):
        async def idle(self) -> None:
            await super().idle()
            if store.count == 50 and self.idles > 3:
                truncate(broker, topic)
                self.flow.seek(partition, 0)
                self.idles = -(10**9)

    with pytest.raises(LogTruncated, match="at offset 0"):
        await ends(Rewound(store), {topic: 1}, broker)
    assert store.values[partition][:50] == numbers(0, 50)


async def test_a_log_that_ends_before_the_next_offset_halts_the_worker(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 50))
    store = Store()
    store.positions[Partition(topic, 0)] = 51
    with pytest.raises(LogAhead, match="at offset 51: the log ends at 50"):
        await ends(Folding(store), {topic: 1}, broker)


async def test_a_topic_with_another_number_of_partitions_is_refused(
    broker: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 2)
    with pytest.raises(TopicUnusable, match="has 2 partitions, but the state was built for 3"):
        await ends(Folding(Store()), {topic: 3}, broker)


async def test_a_missing_topic_is_refused(kafka: Broker, topic_prefix: str) -> None:
    with pytest.raises(TopicUnusable, match="Create it"):
        await ends(Folding(Store()), {f"{topic_prefix}.none": 1}, kafka)


async def test_a_broker_that_is_down_is_one_clear_error(
    topic_prefix: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Nobody:
        bootstrap = f"127.0.0.1:{unused_port()}"

    with pytest.raises(BrokerUnreachable) as caught:
        await ends(Folding(Store()), {f"{topic_prefix}.a": 1}, Nobody(), broker_timeout=1.0)  # type: ignore[arg-type]
    text = str(caught.value)
    assert f"Kafka does not answer at {Nobody.bootstrap}" in text
    assert "Start the broker, or correct the bootstrap address" in text
    assert "\n" not in text
    assert caught.value.__suppress_context__
    assert capfd.readouterr().err == ""
    assert not [record for record in caplog.records if record.exc_info]


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def test_markers_and_aborted_records_are_passed_over_and_count_as_read(
    kafka: Broker, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    kafka.create_topic(topic, 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic_prefix})
    producer.init_transactions()
    for first, keep in ((0, True), (10, False), (20, True), (30, False)):
        producer.begin_transaction()
        for value in numbers(first, first + 10):
            producer.produce(topic, value)
        producer.flush()
        if keep:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    store = Store()
    processor = Folding(store)
    partition = Partition(topic, 0)

    def at_end() -> bool:
        return store.count == 20 and processor.flow.position(partition) == 44 == processor.flow.highwater(
            partition
        )

    async with working(processor, {topic: 1}, kafka):
        await store.until(at_end)
    assert store.values[partition] == numbers(0, 10) + numbers(20, 30)


async def test_positions_are_published_to_the_group(broker: Broker, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.a"
    broker.create_topic(topic, 1)
    write(broker, topic, numbers(0, 30))
    store = Store()
    reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic})
    async with working(Folding(store), {topic: 1}, broker):
        async with asyncio.timeout(WAIT):
            committed = -1
            while committed != 30:
                (found,) = await asyncio.to_thread(reader.committed, [TopicPartition(topic, 0)], WAIT)
                committed = found.offset
    reader.close()


CHILD = """
import asyncio, json, os, sys
from streams.worker import run
bootstrap, topic, partitions, path, instance = sys.argv[1:]
state = json.load(open(path))

class Folding:
    def attach(self, flow):
        pass
    async def assigned(self, partitions, bounds):
        return {p: state.get(str(p.number), [0, 0])[0] for p in partitions}
    async def revoked(self, partitions):
        pass
    def wants(self, partition):
        return True
    async def polled(self, partition, records, highwater):
        _, digest = state.get(str(partition.number), [0, 0])
        for record in records:
            digest = (digest * 31 + int(record.value)) % (2**61 - 1)
        state[str(partition.number)] = [records[-1].offset + 1, digest]
        with open(path + ".new", "w") as file:
            json.dump(state, file)
        os.replace(path + ".new", path)
        print(sum(position for position, _ in state.values()), flush=True)
    async def idle(self):
        pass

asyncio.run(run(Folding(), {topic: int(partitions)}, bootstrap=bootstrap, group=topic, instance=instance,
                poll_records=200, session_timeout=6.0))
"""


Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def start_child(broker: Broker, topic_prefix: str, tmp_path: Path) -> Iterator[Start]:
    """Starts workers in processes of their own, one after the other under the same name."""
    started: list[subprocess.Popen[str]] = []
    guards: list[threading.Timer] = []
    state = str(tmp_path / "state.json")
    arguments = [sys.executable, "-c", CHILD, broker.bootstrap, f"{topic_prefix}.a", "2", state, "worker-1"]

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        guard = threading.Timer(WAIT, child.kill)
        guard.start()
        started.append(child)
        guards.append(guard)
        return child

    yield start
    for child, guard in zip(started, guards, strict=True):
        guard.cancel()
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def progress_to(child: subprocess.Popen[str], goal: int) -> bool:
    """Return when a worker has committed so many records, or False when it ends before."""
    assert child.stdout is not None
    return any(int(line) >= goal for line in child.stdout)


def test_a_worker_killed_at_any_time_is_followed_by_one_that_resumes_exactly(
    broker: Broker, topic_prefix: str, tmp_path: Path, start_child: Start
) -> None:
    topic, count = f"{topic_prefix}.a", 60_000
    broker.create_topic(topic, 2)
    path = tmp_path / "state.json"
    path.write_text("{}")
    write(broker, topic, numbers(0, count), 2)
    for goal in (1000, 20_000, 40_000):
        child = start_child()
        assert progress_to(child, goal)
        child.kill()
        child.wait()
    child = start_child()
    assert progress_to(child, count)
    child.terminate()
    assert child.wait() == 0
    for number in range(2):
        digest = 0
        for value in numbers(0, count)[number::2]:
            digest = (digest * 31 + int(value)) % (2**61 - 1)
        assert json.loads(path.read_text())[str(number)] == [count // 2, digest]


async def test_polls_that_do_not_join_up_end_the_worker() -> None:
    partition = Partition("t", 0)
    carrier = Carrier(Folding(Store()), {"t": 1})
    carrier.readings[partition] = Reading(10, 20)
    opened = carrier.open()
    assert carrier.take(opened, {partition: Fetched(12, 14, 20, [])}) == []
    with pytest.raises(PollLost, match="starts at offset 12, not 10"):
        await carrier.failed
    assert carrier.open() == {}


class AwayAtFirst:
    """A client whose broker does not answer the first questions, and has another topic from some time on."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.topic_id = b"a" * 16
        self.looks = 0

    async def bounds(self, partitions: frozenset[Partition]) -> Mapping[Partition, Bounds]:
        await self._answer()
        return {partition: Bounds(self.topic_id, 0, 20) for partition in partitions}

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        return dict.fromkeys(partitions, 20)

    async def topic_ids(self, topics: Collection[str]) -> Mapping[str, bytes]:
        self.looks += 1
        await self._answer()
        return dict.fromkeys(topics, self.topic_id)

    async def move(self, offsets: Mapping[Partition, int]) -> None: ...

    async def publish(self, offsets: Mapping[Partition, int]) -> None: ...

    def wake(self) -> None: ...

    async def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise BrokerUnreachable("broker:9092", "read the bounds of t", "it restarts")


async def test_a_claim_waits_for_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended the worker, so a restart of brokers that came with a rebalance took the workers with it."""
    monkeypatch.setattr("streams.transport._AGAIN", 0.0)
    carrier = Carrier(Folding(Store()), {"t": 1})
    carrier.client = AwayAtFirst(3)
    await carrier.claim(frozenset({Partition("t", 0)}))
    carrier.check()
    assert set(carrier.readings) == {Partition("t", 0)}


async def test_what_came_from_another_topic_of_the_name_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.transport._AGAIN", 0.0)
    monkeypatch.setattr("streams.transport._GENUINE", 0.0)
    partition, store = Partition("t", 0), Store()
    carrier = Carrier(Folding(store), {"t": 1})
    carrier.client = client = AwayAtFirst(0)
    await carrier.claim(frozenset({partition}))
    record: Any = object()
    (poll,) = carrier.take(carrier.open(), {partition: Fetched(0, 1, 20, [record])})
    client.topic_id, client.away = b"b" * 16, 3
    await carrier.deliver(poll)
    with pytest.raises(TopicRecreated, match="deleted and created again"):
        carrier.check()
    assert store.count == 0


@pytest.mark.parametrize("beside", [True, False])
async def test_a_poll_waits_for_a_look_at_its_topic_only_where_none_was_taken_beside_it(
    monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    monkeypatch.setattr("streams.transport._GENUINE_EVERY", 0.0)
    partition, store = Partition("t", 0), Store()
    carrier = Carrier(Folding(store), {"t": 1})
    carrier.client = client = AwayAtFirst(0)
    await carrier.claim(frozenset({partition}))
    carrier._genuine = long_ago = time.monotonic() - 1000
    client.away = 2  # what is not answered changes nothing
    looking = asyncio.create_task(carrier.stay_genuine())
    for _ in range(50 * beside):
        await asyncio.sleep(0)
    looking.cancel()
    assert (carrier._genuine > long_ago) is beside

    client.away, looks = 0, client.looks
    record: Any = Record(0, 0, None, b"0", ())
    (poll,) = carrier.take(carrier.open(), {partition: Fetched(0, 1, 20, [record])})
    await carrier.deliver(poll)
    assert client.looks - looks == (not beside)
    assert store.count == 1


async def test_another_topic_of_the_name_ends_the_worker_although_nothing_more_comes() -> None:
    carrier = Carrier(Folding(Store()), {"t": 1})
    carrier.client = client = AwayAtFirst(0)
    await carrier.claim(frozenset({Partition("t", 0)}))
    client.topic_id = b"b" * 16
    looking = asyncio.create_task(carrier.stay_genuine())
    with pytest.raises(TopicRecreated, match="deleted and created again"):
        await asyncio.wait_for(carrier.failed, WAIT)
    looking.cancel()


async def test_polls_of_an_older_reading_are_dropped() -> None:
    partition = Partition("t", 0)
    store = Store()
    carrier = Carrier(Folding(store), {"t": 1})
    carrier.readings[partition] = Reading(10, 20)
    opened = carrier.open()
    carrier.readings[partition] = Reading(10, 20)
    record: Any = object()
    assert carrier.take(opened, {partition: Fetched(10, 11, 20, [record])}) == []
    (poll,) = carrier.take(carrier.open(), {partition: Fetched(10, 11, 20, [record])})
    carrier.readings[partition] = Reading(10, 20)
    await carrier.deliver(poll)
    assert store.count == 0


def test_importing_the_worker_leaves_the_command_line_alone() -> None:
    program = "import sys, os, streams.worker; sys.exit('FAUST_DATADIR' in os.environ)"
    arguments = ["--datadir", "elsewhere", "-L"]
    assert subprocess.run([sys.executable, "-c", program, *arguments]).returncode == 0
