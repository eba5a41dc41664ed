"""Topics and brokers as an operator sees them: what there is, how it is set, and making what is missing."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Self

from confluent_kafka import KafkaError, KafkaException, TopicPartition, libversion
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from .errors import BrokerUnreachable, StreamsError, TopicUnusable
from .log import Noted, librdkafka_log
from .security import Brokers, Kafka

_KNOWN = 60.0  # seconds in which brokers that answer have to know of what was made; a busy disk takes some
_AGAIN = 0.05
_MOCK = "mockCluster"  # how the cluster ids of librdkafka's mock begin
_UNDONE = (KafkaError._UNSUPPORTED_FEATURE, KafkaError._TIMED_OUT)  # noqa: SLF001 - how librdkafka names its own


class Topic(NamedTuple):
    """A topic as it is wanted."""

    name: str
    partitions: int
    config: Mapping[str, str]


class Found(NamedTuple):
    """A topic as it is; `config` is empty where the broker does not tell."""

    partitions: int
    config: Mapping[str, str]


class Cluster(NamedTuple):
    """A cluster as it answers."""

    id: str
    brokers: list[str]
    embedded: bool
    client: str  # version of librdkafka


class Admin:
    """Looks at a cluster and makes topics in it. Blocking.

    Args:
        kafka: Brokers as `host:port,host:port`, or with how they are reached.
        timeout: Seconds to wait for an answer before `BrokerUnreachable`.
    """

    def __init__(self, kafka: Kafka, timeout: float = 10.0) -> None:
        brokers = Brokers.of(kafka)
        self._bootstrap = brokers.bootstrap
        self._timeout = timeout
        self._noted = Noted()
        config = brokers.librdkafka() | {"error_cb": self._noted, "log_level": 4}
        self._client = AdminClient(config, logger=librdkafka_log)

    def cluster(self) -> Cluster:
        """Return what answers at the address.

        Raises:
            BrokerUnreachable: Nobody does.
        """
        metadata = self._metadata()
        ident = str(metadata.cluster_id)
        brokers = [f"{broker.host}:{broker.port}" for broker in metadata.brokers.values()]
        return Cluster(ident, sorted(brokers), ident.startswith(_MOCK), libversion()[0])

    def found(self, names: Sequence[str]) -> dict[str, Found]:
        """Return those of the topics that exist.

        Raises:
            BrokerUnreachable: Nobody answered in time.
        """
        metadata = self._metadata()  # of all topics: asked for one by name, some brokers would make it
        counts = self._counts(metadata, names)
        configs = {} if str(metadata.cluster_id).startswith(_MOCK) else self._configs(list(counts))
        return {name: Found(count, configs.get(name, {})) for name, count in counts.items()}

    def since(self, name: str, partitions: int, time_ms: int) -> int:
        """Return how many offsets of a topic are of records with this time or a later one.

        Raises:
            BrokerUnreachable: Nobody answered in time.
        """
        firsts = self._ends(name, partitions, OffsetSpec.for_timestamp(time_ms))
        lasts = self._ends(name, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # upstream
        return sum(last - first for first, last in zip(firsts, lasts, strict=True) if first >= 0)

    def _ends(self, name: str, partitions: int, spec: OffsetSpec) -> list[int]:
        places = [TopicPartition(name, number) for number in range(partitions)]
        asked = self._client.list_offsets(dict.fromkeys(places, spec), request_timeout=self._timeout)
        try:
            return [asked[place].result().offset for place in places]
        except KafkaException as error:
            raise self._unreachable(f"look at the offsets of {name}", error) from None

    def create(self, topics: Sequence[Topic]) -> list[str]:
        """Make topics, each as wanted or, where the broker does not know a setting, without it.

        Returns:
            The settings that were left out, as `topic: setting`.

        Raises:
            TopicUnusable: The broker refuses one, or cannot make topics.
            BrokerUnreachable: Nobody answered in time.
        """
        if topics and self.cluster().embedded:
            raise TopicUnusable(
                f"The embedded broker at {self._bootstrap} cannot create topics on request. "
                "Use a real Kafka, or let `headrace demo` make them."
            )
        left_out: list[str] = []
        for topic in topics:
            refused = self._create(topic)
            config = dict(topic.config)
            # one unknown setting makes the broker refuse the topic: from the youngest setting on, go without
            for setting in sorted(config, reverse=True):
                if refused is None or refused.code() != KafkaError.INVALID_CONFIG:
                    break
                del config[setting]
                left_out.append(f"{topic.name}: {setting}")
                refused = self._create(topic._replace(config=config))
            if refused is not None and refused.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicUnusable(
                    f"Topic {topic.name} cannot be created at {self._bootstrap} ({refused.str()}). "
                    "Create it by hand, or give this client the permission."
                )
        self._await(topics)
        return left_out

    def close(self) -> None:
        """Let go of the connections."""
        del self._client  # the client has no other way to be closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _create(self, topic: Topic) -> KafkaError | None:
        made = NewTopic(topic.name, num_partitions=topic.partitions, config=dict(topic.config))
        answers = self._client.create_topics(
            [made], operation_timeout=self._timeout, request_timeout=self._timeout
        )
        try:
            answers[topic.name].result()
        except KafkaException as error:
            refused: KafkaError = error.args[0]
            if refused.code() in _UNDONE:
                raise self._unreachable(f"create topic {topic.name}", error) from None
            return refused
        return None

    def _await(self, topics: Sequence[Topic]) -> None:
        # A broker answers that it has made a topic before all brokers know of it.
        deadline = time.monotonic() + max(self._timeout, _KNOWN)
        names = {topic.name for topic in topics}
        while names - set(self._counts(self._metadata(), names)):
            if time.monotonic() > deadline:
                raise BrokerUnreachable(
                    self._bootstrap, "see the new topics", "they are made, but not known yet"
                )
            time.sleep(_AGAIN)

    @staticmethod
    def _counts(metadata: Any, names: Collection[str]) -> dict[str, int]:
        return {
            name: len(metadata.topics[name].partitions)
            for name in names
            if name in metadata.topics and metadata.topics[name].error is None
        }

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        asked = {name: ConfigResource(ResourceType.TOPIC, name) for name in names}
        answers = self._client.describe_configs(list(asked.values()), request_timeout=self._timeout)
        found: dict[str, dict[str, str]] = {}
        for name, resource in asked.items():
            try:
                entries: Mapping[str, Any] = answers[resource].result()
            except KafkaException:
                continue  # no permission to look: the caller sees an empty config
            found[name] = {key: str(entry.value) for key, entry in entries.items()}
        return found

    def _metadata(self) -> Any:
        try:
            return self._client.list_topics(timeout=self._timeout)
        except KafkaException as error:
            raise self._unreachable("look at the cluster", error) from None

    def _unreachable(self, what: str, error: KafkaException) -> StreamsError:
        self._client.poll(0)  # what the connections said comes by callback
        return self._noted.failure(self._bootstrap, what, error.args[0].str())
