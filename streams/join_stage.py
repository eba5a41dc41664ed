"""Joining a partition of a model's log: predictions and labels become samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from features import keys
from features.store import Group, Position, Writes
from models.join import Join, JoinRules
from models.records import decode_record, encode_sample
from models.spec import Model

from .context import Context
from .log import Partition
from .producer import Outgoing
from .stage import Rewound, Stage

UNLABELLED = JoinRules(within=0, absent=False)


class JoinStage(Stage):
    """The one writer of a join."""

    reader = "join"

    def __init__(
        self, context: Context, partition: Partition, group: Group, position: Position, model: Model
    ) -> None:
        super().__init__(context, partition, group, position)
        self.model = model
        self.join = Join(self._rules(), group.name)

    def _rules(self) -> JoinRules:
        label = self.model.spec.label
        source = self.model.spec.request if label is None else label.source
        feeds = tuple(group.name for group in self.context.deployment.groups[source.topic])
        if label is None:
            return msgspec.structs.replace(UNLABELLED, feeds=feeds)
        return label.rules(feeds)

    async def load(self) -> None:
        """Reads the pending predictions, as they stand at the position."""
        key = keys.join(self.group.tag)
        cells = await self.context.patiently(
            "read pending predictions", lambda: self.context.store.fields(key)
        )
        self.join = Join.load(self._rules(), self.group.name, cells)

    def wants(self) -> bool:
        """Whether another prediction may wait."""
        return not self.fenced and not self.join.full

    async def take(self, records: Sequence[Any], next_offset: int) -> None:
        """Folds records, sends their samples and commits."""
        out: list[Outgoing] = []
        before = Counter(self.join.counters)
        metrics, name = self.context.metrics, self.model.name
        for record in records:
            if record.offset < self.position.next:
                continue
            try:
                entry = decode_record(record.value or b"")
            except msgspec.DecodeError as error:
                out.append(self.unreadable(record, error))
                continue
            for sample in self.join.fold(entry, record.offset):
                out.append(
                    Outgoing(
                        self.model.samples_topic,
                        sample.id.encode(),
                        encode_sample(sample),
                        (),
                        sample.known,
                        0,
                    )
                )
                if sample.kind == "label":
                    metrics.label_delay.labels(name).observe(max(0, sample.label_t - sample.t) / 1000)
        if next_offset <= self.position.next:
            return
        await self.context.send(out)
        writes = Writes(hash_key=keys.join(self.group.tag), fields=self.join.take_writes())
        try:
            await self.commit(self.position, self.position._replace(next=next_offset), writes)
        except Rewound:
            if not self.fenced:
                await self.load()
            raise
        for what, n in (Counter(self.join.counters) - before).items():
            metrics.join.labels(name, what).inc(n)
            self.context.counts[f"join:{what}"] += n
        metrics.pending.labels(name).set(self.join.pending_count)
        metrics.pending_bytes.labels(name).set(self.join.pending_bytes)
