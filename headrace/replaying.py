"""Replaying files through the handlers of the worker, and writing what each request got."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import DecodeError

from features.source import Source
from models.project import Project
from models.records import Sample, Scalar, decode_sample
from models.spec import Model
from streams.recompute import Log, Recompute, same_vector
from streams.replay import Replay, Stream, merged

from .comparing import Comparison
from .errors import UsageRefused
from .logs import Opened, logged
from .reading import events_of
from .rows import Columns, Row, Rows
from .verifying import compacted_away

Tick = Callable[[int], None]


class Summary(NamedTuple):
    """What a replay came to."""

    model: str
    rows: int
    counts: dict[str, int]
    progressive: dict[str, float]
    baseline: dict[str, float]
    version: int

    def as_dict(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return self._asdict()


class _Labelling(Replay):
    """A replay that tells the samples as they leave the join."""

    def __init__(self, project: Project, learn: bool) -> None:
        super().__init__(project, learn=learn)
        self.labels: dict[tuple[str, str], Scalar] = {}

    def _sample(self, asked: Any, sample: Sample) -> None:
        if sample.kind != "correction":
            self.labels[asked.model.name, sample.id] = sample.label
        super()._sample(asked, sample)


class _Waiting:
    """Rows in the order of the requests, each held until its label has come or its horizon has passed."""

    def __init__(self, model: Model, labels: dict[tuple[str, str], Scalar], out: Rows | None) -> None:
        label = model.spec.label
        self._name = model.name
        self._labels = labels
        self._longest = 0 if label is None else label.within + label.silence + label.source.lateness
        self._rows: deque[Row] = deque()
        self._out = out
        self.written = 0

    def add(self, row: Row) -> None:
        self._rows.append(row)

    def flush(self, t: int | None) -> None:
        """Writes what need not wait at event time t; None writes everything."""
        rows = self._rows
        while rows:
            row = rows[0]
            label = self._labels.pop((self._name, row["id"]), None)
            if label is None and t is not None and row["time"] + self._longest >= t:
                return
            row["label"] = label
            rows.popleft()
            self.written += 1
            if self._out is not None:
                self._out.add(row)


def streams_of(project: Project, files: Mapping[str, Path]) -> list[tuple[Source[Any], Path]]:
    """Returns the source of each file.

    Raises:
        DefinitionError: no source has the name.
        UsageRefused: two files for one source.
    """
    found: list[tuple[Source[Any], Path]] = []
    for name, path in files.items():
        source = project.source(name)
        if any(other is source for other, _ in found):
            raise UsageRefused(
                f"{source.topic} is given two files", where="--events", fix="join them into one"
            )
        found.append((source, path))
    return found


def replay(
    project: Project,
    model: Model,
    files: Sequence[tuple[Source[Any], Path]],
    out: Rows | None,
    *,
    learn: bool = True,
    tick: Tick | None = None,
    against: Comparison | None = None,
) -> Summary:
    """Runs files through the project and writes a row for each request of a model.

    Args:
        project: what is replayed.
        model: whose requests become rows.
        files: of each source, in the order in which its events were sent.
        out: where rows go.
        learn: whether models learn on the way.
        tick: is told of each event.
        against: the logged vectors; it is given each replayed one.

    Raises:
        DataRefused: a row of a file is no event.
    """
    run = _Labelling(project, learn)
    columns, waiting = Columns(model), _Waiting(model, run.labels, out)
    streams = [Stream(source, events_of(source, path, log=True)) for source, path in files]
    for source, prepared, value in merged(run, streams):
        for scoring in run.prepared(source, prepared, value):
            if scoring.model == model.name:
                made = scoring.prediction
                if against is not None:
                    against.add(made.id, made.vector)
                waiting.add(columns.row(made, made.vector, made.flags))
        waiting.flush(prepared.t)
        if tick is not None:
            tick(1)
    waiting.flush(None)
    learner = run.learner(model.name)
    board = learner.monitor.progressive
    return Summary(
        model.name, waiting.written, dict(run.counts), board.figures(), board.baseline(), learner.version
    )


class Logged(NamedTuple):
    """What a replay at the logged positions came to."""

    model: str
    rows: int
    unchecked: Counter[str]


def replay_logged(opened: Opened, model: Model, out: Rows | None, tick: Tick | None = None) -> Logged:
    """Writes, for every logged prediction, the vector that the log gives at its `as_of`."""
    log, deployment, first = opened.log, opened.deployment, opened.first
    columns = Columns(model)
    labels = _labels(log, model)
    unchecked: Counter[str] = Counter()
    rows = 0
    for made, assembled, reason, cut in Recompute(deployment, model, log, first).vectors(logged(log, model)):
        if tick is not None:
            tick(1)
        if assembled is None:
            unchecked[reason] += 1
            continue
        if cut and not same_vector(made.vector, assembled.vector):
            unchecked[compacted_away(cut)] += 1
            continue
        row = columns.row(made, assembled.vector, assembled.flags)
        row["label"] = labels.get(made.id)
        rows += 1
        if out is not None:
            out.add(row)
    return Logged(model.name, rows, unchecked)


def _labels(log: Log, model: Model) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for partition, bounds in log.bounds(model.samples_topic).items():
        for batch in log.read(model.samples_topic, partition, bounds.earliest, bounds.highwater):
            for record in batch:
                try:
                    sample = decode_sample(record.value or b"")
                except DecodeError:
                    continue  # the learner sent it to the dead letters
                if sample.of(model.rules):
                    found.setdefault(sample.id, sample.label)
    return found
