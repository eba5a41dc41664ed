"""The label of a request: where it comes from, how long it may take, and what silence means."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from features.clock import Duration, duration_ms
from features.column import SCALARS, column_of, require
from features.errors import DefinitionError
from features.fingerprint import short_digest
from features.source import Source

from .join import JoinRules
from .join_rules import Vectors
from .records import Scalar

_MOST: dict[str, int] = {"redis": 1_000_000, "log": 20_000_000}


class Label:
    """The later truth about a request.

    Args:
        source: where labels arrive; its `id` column holds the id of the request that a label is for.
        value: the column with the truth.
        within: the horizon: how long after the request's time a label may come.
        absent: the label of a request for which none came; left out, such a request is not learned.
        counts: of several labels for one request the "first", or the "last" within the horizon (the sample then waits
            for the horizon).
        silence: how long the label source may have nothing to say and still be taken for alive.
        vectors: where the vectors of waiting predictions are: "redis", beside them, or "log": the join keeps 32
            bytes of each and reads its record again when the sample leaves, so the model's log must be kept that long.
        max_pending: predictions and early labels that may wait in one partition of the model's log, in Redis and in
            the memory of the join; at that number the join stands still until it is raised. Left out it is 1,000,000,
            or 20,000,000 with vectors="log": up to about 1 GB of memory.
        learn_corrections: learn a label that comes after its request was taken for `absent` as a sample of its own.
    """

    def __init__(
        self,
        source: Source[Any],
        *,
        value: object,
        within: Duration | None = None,
        absent: Scalar | UnsetType = UNSET,
        counts: Literal["first", "last"] = "first",
        silence: Duration = "0ms",
        learn_corrections: bool = False,
        vectors: Vectors = "redis",
        max_pending: int | None = None,
    ) -> None:
        where = f"Label({source.topic})"
        self.source = source
        self.value = require(column_of(value, "value"), SCALARS, "a label")
        if not issubclass(source.event, self.value.owner):
            raise DefinitionError(
                f"the label {self.value} is not a column of {source.event.__name__}",
                where=where,
                fix=f"name a column of {source.event.__name__}, whose events carry the label",
            )
        if source.compacted:
            raise DefinitionError(
                f"labels of {source.topic} are compacted",
                where=where,
                why="of the labels of one key the log keeps the newest alone, so joins of one log could differ",
                fix="let labels come in a topic that keeps all records",
            )
        if source.id is None:
            raise DefinitionError(
                f"labels of {source.topic} do not say which request they are for",
                where=where,
                fix=f"give the source id={source.event.__name__}.<column with the request's id>",
            )
        if within is None or duration_ms(within, "within") < 1:
            raise DefinitionError(
                "a label has no horizon",
                where=where,
                why="a request without a label would wait for ever, and silence could never be told from delay",
                fix='say how long a label may take: within="14d"',
            )
        self.within = duration_ms(within)
        self.absent = absent
        if absent is not UNSET and not isinstance(absent, self.type):
            raise DefinitionError(
                f"absent={absent!r} is no {self.type.__name__}, which the label is",
                where=where,
                fix="give it the label's type",
            )
        self.counts: Literal["first", "last"] = counts
        self.silence = duration_ms(silence, "silence")
        self.learn_corrections = learn_corrections
        if vectors not in _MOST:
            raise DefinitionError(
                f"vectors={vectors!r}", where=where, fix='let them wait in "redis", or in the "log" alone'
            )
        self.vectors: Vectors = vectors
        self.max_pending = _MOST[vectors] if max_pending is None else max_pending
        if self.max_pending < 1:
            raise DefinitionError(
                f"max_pending={max_pending}", where=where, fix="let at least 1 prediction wait"
            )

    @property
    def type(self) -> type:
        """The type of its value."""
        return self.value.type

    @property
    def terms(self) -> str:
        """Names what decides which samples there are, but for the partitions that labels come from."""
        column = (self.source.topic, str(self.value), self.value.type_text)
        clocks = (self.within, self.silence, self.source.lateness)
        told = repr((*column, *clocks, self.absent, self.counts, self.learn_corrections))
        return short_digest(told.encode())[:12]

    def rules(self, feeds: tuple[str, ...]) -> JoinRules:
        """Returns what the join goes by; `feeds` are the partitions that labels come from."""
        return JoinRules(
            within=self.within,
            absent=self.absent,
            silence=self.silence,
            lateness=self.source.lateness,
            counts=self.counts,
            learn_corrections=self.learn_corrections,
            max_pending=self.max_pending,
            vectors=self.vectors,
            feeds=feeds,
            name=self.terms,
        )
