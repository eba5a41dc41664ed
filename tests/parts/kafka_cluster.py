"""A real Apache Kafka of several nodes, of which any one can be killed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from features.embedded import free_port
from tests.parts.kafka import KafkaServer, Node, new_cluster_id


class KafkaCluster:
    """Brokers on loopback, each with a controller; ends with the process that started it.

    With three nodes a topic has three replicas, of which two must have a record before it is acknowledged.
    """

    def __init__(self, servers: Sequence[KafkaServer]) -> None:
        self.servers = list(servers)

    @classmethod
    def start(
        cls, folder: Path, nodes: int, heap: str = "256m", more: Mapping[str, str] | None = None
    ) -> Self:
        """Start that many nodes and return when all of them answer.

        Raises:
            RuntimeError: Java, Maven or a server failed; ends with what it said.
        """
        if nodes == 1:
            return cls([KafkaServer.start(folder / "1", heap=heap, more=more or {})])
        cluster_id = new_cluster_id()
        controllers = {number: free_port() for number in range(1, nodes + 1)}
        replicas = str(min(3, nodes))
        properties = {
            "offsets.topic.replication.factor": replicas,
            "default.replication.factor": replicas,
            "min.insync.replicas": "2" if nodes > 2 else "1",
            "controller.quorum.election.timeout.ms": "500",
            "controller.quorum.fetch.timeout.ms": "1000",
            "replica.lag.time.max.ms": "5000",
            **(more or {}),
        }
        servers = [
            KafkaServer(
                folder / str(number),
                free_port(),
                controllers[number],
                heap,
                {},
                properties,
                Node(number, cluster_id, controllers),
            )
            for number in controllers
        ]
        with contextlib.ExitStack() as started:
            for server in servers:
                server.format()
                server.spawn()
                started.callback(server.kill)
            for server in servers:
                server.wait_until_ready()
            started.pop_all()
        return cls(servers)

    @property
    def bootstrap(self) -> str:
        """The `bootstrap.servers` of clients: all nodes."""
        return ",".join(server.bootstrap for server in self.servers)

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
        """Create a topic and return when all its partitions have a leader."""
        self.servers[0].create_topic(name, partitions, config, min(3, len(self.servers)))

    def stop(self) -> None:
        """End all nodes at once: in good order the last ones would wait for a quorum that has gone."""
        for server in self.servers:
            server.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
