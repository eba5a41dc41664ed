"""Joining a partition of a model's log: predictions and labels become samples."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from features import keys
from features.forgetting import Forgetting, encode_forgetting
from features.store import NO_TOPIC, Group, Position, Writes
from models.join import Join, JoinRules, Leaving, portions, settle
from models.join_forgotten import naming
from models.join_rules import UNLABELLED
from models.project import Project
from models.records import ForgetRecord, LoggedPrediction, encode_joined, read_record
from models.spec import Model

from .context import Context
from .log import Partition
from .producer import Outgoing
from .stage import Stage

log = logging.getLogger("headrace.worker")

PORTION = 2_000  # samples that are looked up and sent together: a feed that wakes up may release millions


def rules_of(project: Project, model: Model, feeds: tuple[str, ...]) -> JoinRules:
    """Returns what the join of a model goes by; `feeds` are the partitions that labels come from.

    Predictions of another vector are of no use to the learner; their samples leave only if some view counts them.
    """
    label = model.spec.label
    if label is None:
        rules, counted = msgspec.structs.replace(UNLABELLED, feeds=feeds), False
    else:
        rules, counted = label.rules(feeds), bool(project.plans_over(model.spec.outcomes))
    return rules if counted else msgspec.structs.replace(rules, only=model.fingerprint)


class JoinStage(Stage):
    """The one writer of a join."""

    reader = "join"

    def __init__(
        self, context: Context, partition: Partition, group: Group, position: Position, model: Model
    ) -> None:
        super().__init__(context, partition, group, position)
        self.model = model
        label = model.spec.label
        source = model.spec.request if label is None else label.source
        feeds = tuple(group.name for group in context.deployment.groups[source.topic])
        self.rules = rules_of(context.deployment.project, model, feeds)
        project = context.deployment.project
        self._named = naming(model.spec.request, [view.of for view in project.views])
        self.join = Join(self.rules, group.name, self._named)
        self._told = False  # that it is full

    async def load(self) -> None:
        """Reads the pending predictions, as they stand at the position.

        Raises:
            Rewound: the store stood elsewhere by then. Its position is now that of what was read.
        """
        store, key = self.context.store, keys.join(self.group.tag)
        cells = await self.context.patiently("read pending predictions", lambda: store.fields(key))
        # those of another prefix would be joined once more, and their samples are sent before the commit is refused
        place = {self.group: [keys.position(self.group.tag, self.reader)]}
        found = await self.context.patiently("read a position", lambda: store.read(place))
        (stored,) = found[self.group].values
        await self.check(Position.start(NO_TOPIC) if stored is None else Position.unpack(stored))
        self.join = Join.load(self.rules, self.group.name, cells, self._named)
        self._tell()

    def wants(self) -> bool:
        """Whether another prediction may wait."""
        return not self.fenced and not self.join.full

    async def finish(self) -> None:
        """Lets go of what was opened to look predictions up, and of what was told of them."""
        metrics = self.context.metrics
        for gauge in (metrics.pending, metrics.pending_bytes, metrics.full):
            gauge.remove(self.model.name, str(self.partition.number))
        if self.context.recall is not None:
            await self.context.recall.forget(self.partition)

    async def again(self) -> None:
        """Goes on from what is stored, unless another owner does."""
        if not self.fenced:
            await self.load()

    async def take(self, records: Sequence[Any], next_offset: int) -> None:
        """Folds records, sends their samples and commits.

        Raises:
            PredictionGone: the log no longer holds a prediction whose sample is due.
        """
        letters: list[Outgoing] = []
        left: list[Leaving] = []
        forgotten: list[tuple[int, ForgetRecord]] = []  # with how many had left before it
        polled: dict[int, Any] = {}
        before = Counter(self.join.counters)
        metrics, name = self.context.metrics, self.model.name
        step, position, in_log = self.join.step, self.position.next, self.rules.vectors == "log"
        for record in records:
            if record.offset < position:
                continue
            try:
                entry = read_record(record.value or b"")
            except msgspec.DecodeError as error:
                letters.append(self.unreadable(record, error))
                continue
            if isinstance(entry, ForgetRecord) and self.join.forgets(entry):
                forgotten.append((len(left), entry))
            if in_log:
                polled[record.offset] = entry
            released = step(entry, record.offset)
            if released:
                left += released
        if next_offset <= position:
            return
        await self.context.send(letters)
        await self._leave(left, forgotten, polled)
        writes = Writes(hash_key=keys.join(self.group.tag), fields=self.join.take_writes())
        await self.commit(self.position, self.position._replace(next=next_offset), writes)
        for what, n in (Counter(self.join.counters) - before).items():
            metrics.join.labels(name, what).inc(n)
            self.context.counts[f"join:{what}"] += n
        self._tell()

    async def _leave(
        self,
        left: Sequence[Leaving],
        forgotten: Sequence[tuple[int, ForgetRecord]],
        polled: Mapping[int, Any],
    ) -> None:
        """Sends what left, and what is forgotten where it stands among that."""
        done = 0
        for count, told in forgotten:
            for portion in portions(left[done:count], PORTION):
                await self._send(portion, polled)
            await self.context.send([self._forgetting(told)])
            done = count
        for portion in portions(left[done:], PORTION):
            await self._send(portion, polled)

    def _forgetting(self, what: ForgetRecord) -> Outgoing:
        """Returns what tells those who read the samples of what is forgotten."""
        value = encode_forgetting(Forgetting(what.entity, what.key))
        return Outgoing(self.model.samples_topic, None, value, (), what.t, 0)

    async def _send(self, left: Sequence[Leaving], polled: Mapping[int, Any]) -> None:
        """Sends the samples of what left, with the predictions of a poll at hand."""
        logged = await self._logged(left, polled)
        samples = settle(self.join.kept(left, logged), logged, self.group.name, self.rules.name)
        topic, delay = self.model.samples_topic, self.context.metrics.label_delay.labels(self.model.name)
        out: list[Outgoing] = []
        for sample in samples:
            if sample.kind == "label":
                delay.observe(max(0, sample.label_t - sample.t) / 1000)
            out.append(Outgoing(topic, sample.id.encode(), encode_joined(sample), (), sample.known, 0))
        await self.context.send(out)

    async def _logged(
        self, left: Sequence[Leaving], polled: Mapping[int, Any]
    ) -> Mapping[int, LoggedPrediction]:
        """Returns the predictions of what left without a body, by offset."""
        absent = [leaving for leaving in left if leaving.body is None]
        logged = {leaving.at: polled[leaving.at] for leaving in absent if leaving.at in polled}
        expired = [leaving.at for leaving in absent if leaving.at not in logged and leaving.due is not None]
        labelled = [leaving.at for leaving in absent if leaving.at not in logged and leaving.due is None]
        for value in (*await self._recall(expired, True), *await self._recall(labelled, False)):
            logged[value[0]] = read_record(value[1])
        return logged

    async def _recall(self, offsets: Sequence[int], in_order: bool) -> Iterable[tuple[int, bytes]]:
        if not offsets:
            return ()
        recall = self.context.recall
        assert recall is not None  # whoever makes a worker that joins gives it one
        found = await self.context.patiently(
            "recall predictions", lambda: recall.values(self.partition, offsets, in_order)
        )
        return found.items()

    def _tell(self) -> None:
        """Says how much waits, and once that it is too much."""
        metrics, join, labels = self.context.metrics, self.join, (self.model.name, self.partition.number)
        metrics.pending.labels(*labels).set(join.pending_count)
        metrics.pending_bytes.labels(*labels).set(join.pending_bytes)
        metrics.full.labels(*labels).set(join.full)
        if join.full and not self._told:
            log.error(
                "the join of model %s stands still: %d predictions and labels wait in %s, as many as max_pending "
                "allows. Labels make no room: they come through the same log, which keeps everything meanwhile. "
                "Start the worker with a larger Label(max_pending=...)%s",
                self.model.name,
                join.pending_count,
                self.group.name,
                ""
                if self.rules.vectors == "log"
                else ' or with vectors="log", which takes a tenth of that for each',
            )
        self._told = join.full
