"""Whoever asks where logs end hears it again when another broker leads them, and when the only one came back."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka.admin import AdminClient

from streams.log import LogReader, Partition
from tests.parts.kafka import KafkaServer
from tests.parts.kafka_cluster import KafkaCluster

TOPIC = "leaders.moves.v1"
WANTED = [Partition(TOPIC, number) for number in range(3)]
ENDS = dict.fromkeys(WANTED, 0)


def synced(admin: AdminClient, whether: bool) -> None:
    """Looks until the first node has all that the others have, or until they go on without it."""
    while True:
        found = admin.list_topics(TOPIC, timeout=60.0).topics[TOPIC].partitions.values()
        if all((1 in partition.isrs) is whether for partition in found):
            return


def test_ends_of_logs_are_told_while_leaders_move(java: None, tmp_path: Path) -> None:
    """A worker asks all its life by one client, which remembered the leaders' epochs and never looked again."""
    with (
        KafkaCluster.start(tmp_path, 3) as cluster,
        LogReader(cluster.bootstrap, timeout=60.0) as reader,
    ):
        cluster.create_topic(TOPIC, 3)
        frozen, *others = cluster.servers
        admin = AdminClient({"bootstrap.servers": ",".join(server.bootstrap for server in others)})
        for asleep in (True, False):  # until the others lead what it led, and until it has caught up
            frozen.send(signal.SIGSTOP if asleep else signal.SIGCONT)
            with ThreadPoolExecutor(1) as watching:
                moved = watching.submit(synced, admin, not asleep)
                while not moved.done():
                    assert reader.highwaters(WANTED) == ENDS
                moved.result()
        assert reader.highwaters(WANTED) == ENDS


def test_ends_of_logs_are_told_when_the_only_broker_is_back(java: None, tmp_path: Path) -> None:
    with KafkaServer.start(tmp_path) as server, LogReader(server.bootstrap, timeout=60.0) as reader:
        server.create_topic(TOPIC, 3)
        reader.highwaters(WANTED)
        server.kill()
        server.restart()

        assert reader.highwaters(WANTED) == ENDS


def test_topics_and_ends_are_told_when_whoever_was_to_be_asked_is_dead(java: None, tmp_path: Path) -> None:
    """The client waited for a dead controller until the time of the request was over, and for dead leaders."""
    with (
        KafkaCluster.start(tmp_path, 3) as cluster,
        LogReader(cluster.bootstrap, timeout=30.0) as reader,
    ):
        cluster.create_topic(TOPIC, 3)
        ids = reader.topic_ids({TOPIC})
        assert reader.highwaters(WANTED) == ENDS
        while reader._admin.list_topics(timeout=60.0).controller_id != 1:
            pass  # any broker that is there is named: it passes requests on
        cluster.servers[0].kill()

        assert reader.topic_ids({TOPIC}) == ids
        assert reader.highwaters(WANTED) == ENDS
