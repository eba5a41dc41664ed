"""What a project is in one store and one broker: its groups, the codes of its plans, its models ready to be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from features.layout import Layout, choose, layout_in
from features.partition import partition_of
from features.source import Source
from features.store import Group, Store

from .project import Project
from .scorer import Scorer


class Deployment:
    """The places of a project. Made by `deploy`, and the same for every process that asks with the same project.

    Its `project` is compiled against the states that are deployed, which may keep more than the file asks for: whoever
    reads or folds takes models, plans and fingerprints from there.
    """

    def __init__(self, project: Project, groups: Mapping[str, list[Group]], codes: Mapping[str, str]) -> None:
        self.project = project
        self.groups = dict(groups)
        self.codes = dict(codes)
        self.scorers = {model.name: Scorer(model, groups, codes) for model in project.models}

    def partitions(self, source: Source[Any]) -> int:
        """Returns how many partitions a source has."""
        return len(self.groups[source.topic])

    def home(self, source: Source[Any], event: Any) -> int:
        """Returns the partition that an event goes to; 0 where nothing tells."""
        key = source.key_bytes(event)
        if key is None or source.partitioner != "murmur2":
            return 0
        return partition_of(key, self.partitions(source))


def topics_of(project: Project, partitions: Mapping[str, int] | None = None) -> dict[str, int]:
    """Returns every topic of a project with its partitions: as given, else 4 for sources and 1 for a model's own."""
    given = partitions or {}
    topics: dict[str, int] = {}
    for model in project.models:
        topics[model.log_topic] = given.get(model.log_topic, 1)
        topics[model.samples_topic] = 1
    for source in project.sources:
        topics.setdefault(source.topic, given.get(source.topic, 4))
    return topics


async def deploy(project: Project, store: Store, topics: Mapping[str, int]) -> Deployment:
    """Returns the places of a project, which the store gives out on the first call.

    Args:
        project: what is deployed.
        store: where its states are.
        topics: the partitions of each of its topics.

    Raises:
        StoreError: a topic had another number of partitions when its features were made.
    """
    project = project.adopting(
        {source.topic: await _serving(project, source, store) for source in project.sources}
    )
    codes = await store.codes([plan.fingerprint for plan in project.plans])
    digests = {source.topic: project.plans_digest(source) for source in project.sources}
    groups: dict[str, list[Group]] = {}
    for topic, partitions in topics.items():
        # a model's own topics belong to the version of the model: another vector joins and learns beside it
        owner = next((m for m in project.models if topic in (m.log_topic, m.samples_topic)), None)
        name = digests.get(topic, "") + (owner.learner_fingerprint[:12] if owner else "")
        groups[topic] = await store.groups(project.name, topic, name, partitions)
    return Deployment(project, groups, codes)


async def _serving(project: Project, source: Source[Any], store: Store) -> Layout:
    """Returns the layout that serves a source, by the decision of whichever process was first."""
    while True:
        known = await store.layouts(project.name, source.topic)
        choice = choose(known, source, project.plans_over(source))
        if choice.adoption in known:
            layout = layout_in(known, choice.adoption.layout)
            assert layout is not None, "what serves a file can be read"
            return layout
        await store.adopt(project.name, source.topic, choice.adoption)
