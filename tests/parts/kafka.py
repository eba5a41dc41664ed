"""A real Apache Kafka for the tests that must not trust an imitation: one node, or a part of a cluster."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from features.embedded import free_port, tied_to_parent
from tests.parts.kafka_jars import kafka_jars

_READY_SECONDS = 180.0
_STOP_SECONDS = 60.0
_ADMIN_SECONDS = 60.0
_PORT_TRIES = 5


class Node(NamedTuple):
    """Which node of which cluster a server is; by default the only one of its own."""

    number: int = 1
    cluster_id: str = ""
    controllers: Mapping[int, int] = MappingProxyType({})  # ports of all controllers, by the node's number


def new_cluster_id() -> str:
    """A name for a cluster: 16 bytes in base64, as Kafka wants them."""
    return f"h{secrets.token_urlsafe(15)}A"


class KafkaServer:
    """A broker and its controller in one JVM (KRaft) on loopback, ending with the process that started it."""

    def __init__(
        self,
        folder: Path,
        port: int,
        controller_port: int,
        heap: str,
        beside: Mapping[str, int],
        more: Mapping[str, str],
        node: Node = Node(),
    ) -> None:
        self._node = node
        self._folder = folder
        self._port = port
        self._controller_port = controller_port
        self._heap = heap
        self._beside = dict(beside)
        self._more = dict(more)
        self._cluster_id = node.cluster_id or new_cluster_id()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        folder: Path,
        port: int | None = None,
        heap: str = "384m",
        beside: Mapping[str, int] = MappingProxyType({}),
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """Start a server and return when it answers a request for metadata.

        Args:
            folder: A folder of its own for its data and log; `stop` leaves it.
            port: The broker's port, None for a free one.
            heap: The most memory for the JVM's heap.
            beside: Ports of further listeners, by their security protocols.
            more: Further properties of the server.

        Raises:
            RuntimeError: Java, Maven or the server failed; ends with what it said.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _PORT_TRIES + 1):
            server = cls(folder, port or free_port(), free_port(), heap, beside, more)
            try:
                server.format()
                server.spawn()
                server.wait_until_ready()
            except RuntimeError as error:
                # Another process may take a port between our look and the server's bind: then look again.
                if attempt == _PORT_TRIES or port is not None or "Address already in use" not in str(error):
                    raise
                shutil.rmtree(server._data)  # the controller's port stands in it
            else:
                return server
        raise AssertionError("the last try returns or raises")

    @property
    def bootstrap(self) -> str:
        """The `bootstrap.servers` of clients; the same after `restart`."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process of the server, None while it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def said(self) -> str:
        """What the server has written to its log since it was started."""
        return self._log.read_text(errors="replace")

    def create_topic(
        self, name: str, partitions: int, config: Mapping[str, str] | None = None, replicas: int = 1
    ) -> None:
        """Create a topic and return when all its partitions have a leader."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        topic = NewTopic(
            name, num_partitions=partitions, replication_factor=replicas, config=dict(config or {})
        )
        admin.create_topics([topic], operation_timeout=_ADMIN_SECONDS)[name].result(_ADMIN_SECONDS)
        deadline = time.monotonic() + _ADMIN_SECONDS
        while time.monotonic() < deadline:
            found = admin.list_topics(name, timeout=_ADMIN_SECONDS).topics[name].partitions.values()
            if len(found) == partitions and all(partition.leader >= 0 for partition in found):
                return
        raise RuntimeError(f"topic {name} has no leaders within {_ADMIN_SECONDS:.0f} s")

    def alter_topic(self, name: str, config: Mapping[str, str]) -> None:
        """Change settings of a topic."""
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.incremental_alter_configs([resource])[resource].result(_ADMIN_SECONDS)

    def stop(self) -> None:
        """End the server in good order; its folder stays. Harmless when repeated."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._end(signal.SIGKILL)

    def send(self, how: signal.Signals) -> None:
        """Send a signal to the server, which must run."""
        assert self._process is not None
        self._process.send_signal(how)

    def restart(self) -> None:
        """Start again on the same ports and data; ends the server first where it runs."""
        self.stop()
        self.spawn()
        self.wait_until_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def format(self) -> None:
        """Prepare the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._properties_file.write_text(self._properties())
        tool = subprocess.run(
            [
                *(*self._java(), "kafka.tools.StorageTool", "format"),
                *([] if self._node.controllers else ["--standalone"]),
                *("--cluster-id", self._cluster_id, "--config", str(self._properties_file)),
            ],
            capture_output=True,
            text=True,
        )
        if tool.returncode != 0:
            raise RuntimeError(f"Kafka cannot format its folder: {tool.stdout}{tool.stderr}")

    def spawn(self) -> None:
        """Start the process and return at once; only the main thread may do it."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                tied_to_parent([*self._java(), "kafka.Kafka", str(self._properties_file)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Return when the server answers a request for metadata with brokers."""
        process = self._process
        assert process is not None
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if _ended(process, within=0.02):
                self._process = None
                raise RuntimeError(f"Kafka ended with code {process.returncode}:\n{self._log_tail()}")
            if self._accepts() and self._has_broker():
                return
        self.kill()
        raise RuntimeError(f"Kafka did not answer within {_READY_SECONDS:.0f} s:\n{self._log_tail()}")

    def _accepts(self) -> bool:
        # Before the port is open librdkafka would only fill the test's output with failures to connect.
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
        except (ConnectionError, TimeoutError):
            return False
        return True

    def _has_broker(self) -> bool:
        """Whether our own cluster answers, and names a broker: there is none while it is fenced."""
        try:
            metadata = AdminClient({"bootstrap.servers": self.bootstrap}).list_topics(timeout=5.0)
        except KafkaException:
            return False
        return str(metadata.cluster_id) == self._cluster_id and bool(metadata.brokers)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(how)
        if not _ended(process, within=_STOP_SECONDS):
            process.kill()
            process.wait()

    def _java(self) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise RuntimeError("There is no java on PATH: Kafka needs version 17 or newer.")
        return [
            *(java, f"-Xmx{self._heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"),
            *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"),
            # what an authorizer refuses, where there is one
            "-Dorg.slf4j.simpleLogger.log.kafka.authorizer.logger=info",
            *("-cp", f"{kafka_jars()}/*"),
        ]

    def _properties(self) -> str:
        controller = f"127.0.0.1:{self._controller_port}"
        beside = {name: f"127.0.0.1:{port}" for name, port in self._beside.items()}
        listeners = {"PLAINTEXT": self.bootstrap, "CONTROLLER": controller, **beside}
        return "\n".join(
            f"{name}={value}"
            for name, value in {
                "process.roles": "broker,controller",
                "node.id": str(self._node.number),
                "listeners": ",".join(f"{name}://{address}" for name, address in listeners.items()),
                # of all listeners, since Kafka knows that of the controller only where the others are plain
                "listener.security.protocol.map": ",".join(
                    f"{name}:{'PLAINTEXT' if name == 'CONTROLLER' else name}" for name in listeners
                ),
                "controller.listener.names": "CONTROLLER",
                **self._quorum(controller),
                "log.dirs": str(self._data),
                # One node holds everything, and a group forms as soon as its first member is there.
                "offsets.topic.replication.factor": "1",
                "offsets.topic.num.partitions": "1",
                "transaction.state.log.replication.factor": "1",
                "transaction.state.log.min.isr": "1",
                "transaction.state.log.num.partitions": "1",
                "share.coordinator.state.topic.replication.factor": "1",
                "share.coordinator.state.topic.min.isr": "1",
                "group.initial.rebalance.delay.ms": "0",
                # Tests that kill a member wait for its session, and 6 s is the shortest by default.
                "group.min.session.timeout.ms": "500",
                # The default of 128 MiB is a third of our heap.
                "log.cleaner.dedupe.buffer.size": "2097152",
                # A test of compaction waits for it.
                "log.cleaner.backoff.ms": "500",
                # A killed broker may register again only when its old session has ended.
                "broker.session.timeout.ms": "3000",
                "broker.heartbeat.interval.ms": "500",
                **self._more,
            }.items()
        )

    def _quorum(self, controller: str) -> dict[str, str]:
        controllers = self._node.controllers
        if not controllers:
            return {"controller.quorum.bootstrap.servers": controller}
        voters = (f"{number}@127.0.0.1:{port}" for number, port in controllers.items())
        return {"controller.quorum.voters": ",".join(voters)}

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _properties_file(self) -> Path:
        return self._folder / "server.properties"

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])


def _ended(process: subprocess.Popen[bytes], within: float) -> bool:
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True
