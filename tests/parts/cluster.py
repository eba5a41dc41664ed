"""A real Redis Cluster: three masters in processes of their own, and a slot that moves when it is told to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from features.embedded import EmbeddedRedis, free_port
from features.keys import SLOTS

WAIT = 120.0  # a guard against hanging
_BUS = 10_000  # the port at which nodes talk to each other is that far from the one of clients


class Node(EmbeddedRedis):
    """One master."""

    OPTIONS = (
        *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
        *("--cluster-node-timeout", "1500"),
    )

    @staticmethod
    def _free_port() -> int:
        while (port := free_port()) + _BUS > 65_535:
            pass
        return port

    @property
    def port(self) -> int:
        return self._port

    def say(self, *command: Any) -> Any:
        with redis.Redis(port=self._port, socket_timeout=30.0) as client:
            return client.execute_command(*command)

    @property
    def id(self) -> str:
        return str(self.say("CLUSTER", "MYID").decode())


class Cluster:
    """Three masters that have all slots. Made by `started`."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """One node, as a user would give it: the others are found."""
        return self.nodes[0].url

    @property
    def urls(self) -> str:
        return f"redis://{','.join(str(urlsplit(node.url).netloc) for node in self.nodes)}"

    def form(self) -> None:
        share = SLOTS // len(self.nodes)
        for k, node in enumerate(self.nodes):
            node.say("CLUSTER", "SET-CONFIG-EPOCH", k + 1)
            end = SLOTS if k == len(self.nodes) - 1 else (k + 1) * share
            node.say("CLUSTER", "ADDSLOTS", *range(k * share, end))
            self.nodes[0].say("CLUSTER", "MEET", "127.0.0.1", node.port)
        self.until_well()

    def until_well(self) -> None:
        """Waits until every node knows an owner of every slot."""
        deadline = time.monotonic() + WAIT
        while not all(self._well(node) for node in self.nodes):
            assert time.monotonic() < deadline, [node.say("CLUSTER", "NODES") for node in self.nodes]
            time.sleep(0.05)

    def _well(self, node: Node) -> bool:
        told = node.say("CLUSTER", "INFO")
        text = told if isinstance(told, dict) else dict(line.split(":") for line in told.decode().split())
        known = int(text["cluster_known_nodes"]) == len(self.nodes)
        return text["cluster_state"] == "ok" and int(text["cluster_slots_ok"]) == SLOTS and known

    def replicate(self, master: Node, replica: Node) -> None:
        """Makes a node that is none of the cluster's the replica of one that is; returns when it follows."""
        replica.say("CLUSTER", "MEET", "127.0.0.1", master.port)
        deadline = time.monotonic() + WAIT
        while not self._told(master, replica) or not self._follows(master, replica):
            assert time.monotonic() < deadline, replica.say("CLUSTER", "NODES")
            time.sleep(0.05)

    @staticmethod
    def until_same(master: Node, replica: Node) -> None:
        """Waits until a replica has all that its master has written."""
        written = master.say("INFO", "replication")["master_repl_offset"]
        deadline = time.monotonic() + WAIT
        while replica.say("INFO", "replication")["slave_repl_offset"] < written:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @staticmethod
    def _told(master: Node, replica: Node) -> bool:
        """Tells a node whose replica it is, once: each time it begins to copy anew."""
        if b"myself,slave" in replica.say("CLUSTER", "NODES"):
            return True
        try:
            replica.say("CLUSTER", "REPLICATE", master.id)
        except redis.ResponseError:  # it has not heard of it yet
            return False
        return True

    def _follows(self, master: Node, replica: Node) -> bool:
        # every other node must know whose replica it is, or it would not vote
        knows = all(
            any(
                line.startswith(replica.id.encode()) and b"slave %s " % master.id.encode() in line
                for line in node.say("CLUSTER", "NODES").splitlines()
            )
            for node in self.nodes
        )
        return knows and replica.say("INFO", "replication")["master_link_status"] == "up"

    def empty(self) -> None:
        for node in self.nodes:
            node.say("FLUSHALL")
            node.say("SCRIPT", "FLUSH")

    def owner(self, slot: int) -> Node:
        """The node that says that a slot is its own."""
        for node in self.nodes:
            for first, last, master, *_ in node.say("CLUSTER", "SLOTS"):
                if first <= slot <= last and master[1] == node.port:
                    return node
        raise AssertionError(f"nobody has slot {slot}")

    def moving(self, slot: int, at_once: int = 1) -> Iterator[str]:
        """Moves a slot to another node as redis-cli does, and stops between its steps: yields what was done.

        Args:
            slot: which one.
            at_once: how many keys a step moves.
        """
        source = self.owner(slot)
        target = next(node for node in self.nodes if node is not source)
        target.say("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.say("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        yield "begun"
        while names := source.say("CLUSTER", "GETKEYSINSLOT", slot, at_once):
            source.say("MIGRATE", "127.0.0.1", target.port, "", 0, 30_000, "KEYS", *names)
            yield "moved keys"
        for node in (target, source, *self.nodes):
            node.say("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        yield "done"


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """Gives a cluster of three; ends it afterwards."""
    nodes: list[Node] = []
    try:
        nodes.extend(
            Node.start(folder / str(k)) for k in range(3)
        )  # one by one, so that all of them are ended
        cluster = Cluster(nodes)
        cluster.form()
        yield cluster
    finally:
        for node in nodes:
            node.stop()
