"""What must hold of a model's log and samples, whatever happened while they were written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import msgspec

from models.canonical import digest
from models.deployment import Deployment
from models.learner import Learner
from models.records import LogRecord, PredictionRecord, Sample, decode_record, decode_sample
from models.spec import Model
from streams.recompute import Log, Recompute, predictions_of, rescored, same_value, same_vector

T = TypeVar("T")


class Audit(NamedTuple):
    """The findings: empty lists are good."""

    predictions: list[PredictionRecord]
    other_vectors: list[PredictionRecord]  # whose vector the log does not give at their `as_of`
    other_scores: list[PredictionRecord]  # whose score their version does not give
    unchecked: list[str]


def audit(deployment: Deployment, model: Model, log: Log) -> Audit:
    """Recomputes every logged prediction from the log alone."""
    predictions = list(predictions_of(log, model))
    vectors, scores, unchecked = [], [], []
    for found in Recompute(deployment, model, log).vectors(iter(predictions)):
        if found.assembled is None:
            unchecked.append(found.reason)
        elif not same_vector(found.assembled.vector, found.prediction.vector):
            vectors.append(found.prediction)
    for prediction, score, why in rescored(log, model, predictions):
        if why:
            unchecked.append(why)
        elif not same_value(score, prediction.score):
            scores.append(prediction)
    return Audit(predictions, vectors, scores, unchecked)


def clean(findings: Audit, count: int) -> bool:
    """Whether nothing was found, on predictions of `count` events."""
    return findings[1:] == ([], [], []) and len({p.id for p in findings.predictions}) == count


def entries(log: Log, model: Model) -> list[LogRecord]:
    """The records of a model's log."""
    return [
        entry
        for number in sorted(log.bounds(model.log_topic))
        for _, entry in _read(log, model.log_topic, number, decode_record)
    ]


def samples(log: Log, model: Model) -> list[Sample]:
    """The samples in their one order; repeats, which are told by their origin, are dropped."""
    found: list[Sample] = []
    newest: dict[str, tuple[int, int]] = {}
    for _, sample in _read(log, model.samples_topic, 0, decode_sample):
        origin = (sample.offset, sample.index)
        if origin > newest.get(sample.source, (-1, 0)):
            newest[sample.source] = origin
            found.append(sample)
    return found


def kinds(found: list[Sample]) -> Counter[str]:
    return Counter(sample.kind for sample in found)


def fold_of_samples(log: Log, model: Model, version: int | None = None) -> Learner:
    """The learner that the samples make: all of them, or as many as a version has learned."""
    learner = model.new_learner()
    for offset, sample in _read(log, model.samples_topic, 0, decode_sample):
        if version is not None and learner.version >= version:
            break
        learner.on_sample(sample, offset)
    return learner


def _read(log: Log, topic: str, number: int, decode: Callable[[bytes], T]) -> Iterator[tuple[int, T]]:
    """Offsets and entries; what cannot be read is passed over, as the worker does."""
    bounds = log.bounds(topic)[number]
    for batch in log.read(topic, number, bounds.earliest, bounds.highwater):
        for record in batch:
            try:
                yield record.offset, decode(record.value)
            except msgspec.DecodeError:
                continue


def model_digest(learner: Learner) -> str:
    return digest(learner.model)
