"""Logs to check against: a folder that was spooled to, or Kafka; with bounds that stand still meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from features import keys
from features.errors import StoreUnavailable
from features.memory import MemoryStore
from features.store import Adoption, Store
from models.deployment import Deployment, deploy, topics_of
from models.project import Project
from models.records import PredictionRecord, decode_record
from models.spec import Model
from streams.log import LogReader
from streams.recompute import Log
from streams.security import Kafka
from streams.spool import Spool

from .compose import deployed
from .errors import NothingChecked, UsageRefused
from .loading import Loaded
from .output import note


class Still:
    """A log whose bounds are those of the first look: what is appended later does not exist."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._bounds: dict[str, Mapping[int, Any]] = {}

    def bounds(self, topic: str) -> Mapping[int, Any]:
        """Returns `earliest` and `highwater` of each partition."""
        if topic not in self._bounds:
            self._bounds[topic] = self._log.bounds(topic)
        return self._bounds[topic]

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Any]]:
        """Yields records from start up to, not including, end."""
        return self._log.read(topic, partition, start, end)


class Opened(NamedTuple):
    """A log with the places of the project in it."""

    log: Log
    deployment: Deployment
    first: dict[str, int]  # where each group began, if not at the start of its log
    kept: dict[str, dict[bytes, bytes]]  # by model, what the store keeps beside its newest version


@asynccontextmanager
async def opened(
    loaded: Loaded, folder: Path | None, kafka: Kafka, redis: str, *, versions: bool = False
) -> AsyncIterator[Opened]:
    """Gives the log of a project: spooled to a folder, or on Kafka.

    Args:
        loaded: the project.
        folder: what it was spooled to; None reads Kafka.
        kafka: the brokers.
        redis: the store, which knows where each group began.
        versions: read the kept versions of the models from the store as well.

    Raises:
        UsageRefused: there is no such folder.
        NothingChecked: a topic of the project is not in it.
        StreamsError: Kafka does not answer.
    """
    project = loaded.project
    if folder is not None:
        log, counts = _spooled(project, folder)
        memory = MemoryStore()
        for topic, decided in Spool(folder).layouts().items():
            for adoption in decided:
                await memory.adopt(project.name, topic, adoption)
        yield Opened(log, await deploy(project, memory, counts), {}, {})
        return
    with LogReader(kafka) as reader:
        counts = {topic: reader.partitions(topic) for topic in topics_of(project)}
        log = _looked(reader, project)
        try:
            async with deployed(loaded, redis, counts) as (store, deployment):
                first = await _beginnings(store, deployment)
                kept = await _kept(store, deployment) if versions else {}
        except StoreUnavailable as error:
            note(f"{error.what}; states are taken to be the file's own, and every group to begin at offset 0")
            deployment, first, kept = await deploy(project, MemoryStore(), counts), {}, {}
        yield Opened(log, deployment, first, kept)


def _spooled(project: Project, folder: Path) -> tuple[Log, dict[str, int]]:
    if not folder.is_dir():
        raise UsageRefused(
            f"there is no folder {folder}", where="--log", fix="name the folder that the log was spooled to"
        )
    log = _looked(Spool(folder), project)
    counts = {topic: len(log.bounds(topic)) for topic in topics_of(project)}
    for topic, count in counts.items():
        if not count:
            raise NothingChecked(
                f"{folder} holds nothing of {topic}",
                where="--log",
                why="the folder was spooled for another project, or by an older version of it",
                fix="name the right folder, or leave --log out to read Kafka",
            )
    return log, counts


async def layouts_of(project: Project, store: Store) -> dict[str, list[Adoption]]:
    """Returns what was decided for each source of a project, for its spool to keep."""
    return {source.topic: await store.layouts(project.name, source.topic) for source in project.sources}


def _looked(log: Log, project: Project) -> Still:
    """Looks at the predictions first: what they were made of then stands before the ends of the rest."""
    still = Still(log)
    for model in project.models:
        still.bounds(model.log_topic)
    for topic in topics_of(project):
        still.bounds(topic)
    return still


async def _beginnings(store: Store, deployment: Deployment) -> dict[str, int]:
    groups = [group for groups in deployment.groups.values() for group in groups]
    found = {group.name: (await store.read({group: []}))[group].position for group in groups}
    return {name: position.first for name, position in found.items() if position is not None}


async def _kept(store: Store, deployment: Deployment) -> dict[str, dict[bytes, bytes]]:
    models = deployment.project.models
    tags = {model.name: deployment.groups[model.samples_topic][0].tag for model in models}
    return {name: dict(await store.fields(keys.kept(tag))) for name, tag in tags.items()}


def logged(log: Log, model: Model) -> Iterator[PredictionRecord]:
    """Yields the predictions in a model's log; what is no record is left to the join, which counts it."""
    for partition, bounds in sorted(log.bounds(model.log_topic).items()):
        for batch in log.read(model.log_topic, partition, bounds.earliest, bounds.highwater):
            for record in batch:
                try:
                    entry = decode_record(record.value or b"")
                except msgspec.DecodeError:
                    continue
                if isinstance(entry, PredictionRecord):
                    yield entry


def newest(predictions: Iterator[PredictionRecord], limit: int) -> list[PredictionRecord]:
    """Returns the newest predictions by time, in the order in which one pass meets their positions."""
    import heapq

    found = heapq.nlargest(limit, predictions, key=lambda p: p.t) if limit else list(predictions)
    return sorted(found, key=lambda p: sum(p.as_of.values()))
