"""A Kafka broker for a laptop, a demo or a test: no Docker, no Java, no account.

It is the mock cluster of librdkafka, which comes in the confluent-kafka wheel and speaks Kafka's own
protocol, run in a child process. Good for trying things out, not for keeping them:

- in memory only: everything is gone when it stops;
- a partition keeps the last 5 MiB or 100,000 batches, whichever is less, and drops the oldest; there is no
  retention by time and no compaction, and a fetch brings one batch;
- topics come from `EmbeddedKafka`, or by themselves with 4 partitions: the admin requests (create, describe
  and alter topics, groups and configurations) do not exist, nor do access control and TLS;
- a group that ever had a member takes its session timeout, less a second, to let the next one in, even where
  the last one has left in good order: keep that timeout short;
- a look-up of offsets by time answers that there are none;
- the markers of transactions carry a checksum of zero, which aiokafka refuses;
- upstream calls it experimental.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0


class EmbeddedKafkaError(RuntimeError):
    """The embedded broker could not start or refused a request; the message says why."""


class EmbeddedKafka:
    """One broker on a loopback port, in a child process that ends with this one.

    Example:
        >>> with EmbeddedKafka.start({"payments.transactions.v1": 4}) as kafka:
        ...     kafka.bootstrap.startswith("127.0.0.1:")
        True
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._bootstrap = ""

    @classmethod
    def start(cls, topics: Mapping[str, int]) -> Self:
        """Start a broker with these topics (name to number of partitions) and return when it serves them.

        Raises:
            EmbeddedKafkaError: The broker did not start, or refused a topic.
        """
        process = subprocess.Popen(
            # By path: importing the whole package would take the child longer than everything else it does.
            # -P: this file's folder must not stand before the standard library.
            [sys.executable, "-P", str(Path(__file__).resolve()), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent, which stops us when it is done
        )
        broker = cls(process)
        try:
            broker._bootstrap = broker._answer()
            for name, partitions in topics.items():
                broker.create_topic(name, partitions)
        except BaseException:
            broker.stop()
            raise
        return broker

    @property
    def bootstrap(self) -> str:
        """The `bootstrap.servers` of clients, as `127.0.0.1:<port>`."""
        return self._bootstrap

    @property
    def pid(self) -> int:
        """The process of the broker."""
        return self._process.pid

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic, as the broker cannot do it for its clients.

        Raises:
            EmbeddedKafkaError: The topic exists, its name or number is wrong, or the broker is gone.
        """
        if not name or name.split() != [name]:
            raise EmbeddedKafkaError(f"The topic name {name!r} is empty or has white space in it.")
        if partitions < 1:
            raise EmbeddedKafkaError(f"Topic {name} needs at least one partition, not {partitions}.")
        stdin = _pipe(self._process.stdin)
        if stdin.closed:
            raise EmbeddedKafkaError(f"Cannot create topic {name}: the embedded broker has been stopped.")
        stdin.write(f"{name} {partitions}\n")
        stdin.flush()
        answer = self._answer()
        if answer != "ok":
            raise EmbeddedKafkaError(f"Cannot create topic {name} with {partitions} partitions: {answer}.")

    def stop(self) -> None:
        """End the broker and forget its data; harmless when repeated."""
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _answer(self) -> str:
        stdout = _pipe(self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(_READY_SECONDS):
                raise EmbeddedKafkaError(f"The embedded broker gave no answer within {_READY_SECONDS:.0f} s.")
        line = stdout.readline()
        if not line:
            raise EmbeddedKafkaError(
                f"The embedded broker ended with code {self._process.wait()}; its errors stand above. "
                "Use a real Kafka where this platform has no confluent-kafka wheel."
            )
        return line.rstrip("\n")


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # both pipes are asked for in `start`
    return stream


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Run a broker until the requests end: answer its address, then each line `<topic> <partitions>`."""
    library = _librdkafka()
    client = _quiet_client(library)
    cluster = library.rd_kafka_mock_cluster_new(client, 1)
    # A group's first members would otherwise wait three seconds for more of them.
    library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
    print(library.rd_kafka_mock_cluster_bootstraps(cluster).decode(), file=answers, flush=True)
    for request in requests:
        name, partitions = request.split()
        code = library.rd_kafka_mock_topic_create(cluster, name.encode(), int(partitions), 1)
        print(library.rd_kafka_err2str(code).decode() if code else "ok", file=answers, flush=True)
    library.rd_kafka_mock_cluster_destroy(cluster)
    library.rd_kafka_destroy(client)


def _librdkafka() -> ctypes.CDLL:
    from confluent_kafka import cimpl  # here, so that only the child loads it

    # A symbol is looked up in the extension and in all that it links to: the wheel's librdkafka or another.
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, *arguments in (
        ("rd_kafka_conf_new", pointer),
        ("rd_kafka_conf_set", number, pointer, text, text, text, ctypes.c_size_t),
        ("rd_kafka_new", pointer, number, pointer, text, ctypes.c_size_t),
        ("rd_kafka_destroy", None, pointer),
        ("rd_kafka_err2str", text, number),
        ("rd_kafka_mock_cluster_new", pointer, pointer, number),
        ("rd_kafka_mock_cluster_bootstraps", text, pointer),
        ("rd_kafka_mock_cluster_destroy", None, pointer),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, pointer, ctypes.c_int32),
        ("rd_kafka_mock_topic_create", number, pointer, text, number, number),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _quiet_client(library: ctypes.CDLL) -> int:
    """The client handle that owns the cluster; it connects nowhere, and says nothing about that."""
    reason = ctypes.create_string_buffer(512)
    conf = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set(conf, b"log_level", b"3", reason, len(reason))
    producer = 0
    client: int | None = library.rd_kafka_new(producer, conf, reason, len(reason))
    if client is None:
        raise EmbeddedKafkaError(f"librdkafka cannot start: {reason.value.decode()}")
    return client


def _end_with(parent: int) -> None:
    """End this process when its parent does, even where a fork of the parent still holds our pipe open.

    The kernel signals the end of the *thread* that started us: we end only if the whole process is gone.
    """

    def orphaned(_signal: int, _frame: FrameType | None) -> None:
        if os.getppid() != parent:
            os._exit(0)

    signal.signal(signal.SIGUSR1, orphaned)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGUSR1), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew that we want to hear of it
        sys.exit(0)


if __name__ == "__main__":
    _end_with(int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid())
    serve(sys.stdin, sys.stdout)
