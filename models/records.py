"""The records of a model's log and of its samples topic, and their JSON.

Every number keeps its bits on the way: integers stay integers, floats are written in their shortest
round-trip form. What JSON cannot carry (NaN, infinities) and what MessagePack cannot (integers beyond 64
bits) is refused when a record is written and when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct, field

from features.text import DEEPEST, check_json

__all__ = [
    "FALLBACK",
    "Body",
    "ForgetRecord",
    "LabelRecord",
    "LogRecord",
    "LoggedPrediction",
    "PredictionRecord",
    "ProgressRecord",
    "ReadRecord",
    "Sample",
    "Scalar",
    "Score",
    "Time",
    "Value",
    "decode_record",
    "decode_sample",
    "encode_joined",
    "encode_record",
    "encode_sample",
    "read_record",
]

FALLBACK = "fallback"
"""The flag of a score that was made without its features: logged, never learned."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

Int = Annotated[int, Meta(ge=_INT_MIN, le=_INT_MAX)]
# Sums of a time and a few durations still fit 64 bits, and every JSON reader keeps such a number whole.
Time = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Offset = Annotated[int, Meta(ge=0, le=_INT_MAX)]

Scalar = bool | Int | float | str
"""A value that a model may be asked to learn."""
Value = Scalar | None
"""One slot of a vector; None is a missing value."""
Score = Int | float | dict[str, Int | float] | None
"""What a model answered: a number, a probability per class, or nothing."""


class PredictionRecord(Struct, tag="prediction", frozen=True, gc=False, kw_only=True):
    """A prediction as it was answered: its vector, its score, and the positions it was read at."""

    id: str
    t: Time
    origin: Literal["api", "stream"]
    vector: list[Value]
    score: Score
    version: Offset
    fingerprint: str
    as_of: dict[str, Int]
    event: Raw
    flags: list[str] = field(default_factory=list)


class LabelRecord(Struct, tag="label", frozen=True, gc=False, kw_only=True):
    """What became of an event, forwarded from offset `offset` of the group `from` of the label source."""

    id: str
    t: Time
    label: Scalar
    source: str = field(name="from")
    offset: Offset


class ProgressRecord(Struct, tag="progress", frozen=True, gc=False, kw_only=True):
    """All labels of the group `from` before `offset` have been forwarded; `t` is that group's clock."""

    source: str = field(name="from")
    offset: Offset
    t: Time


class ForgetRecord(Struct, tag="forget", frozen=True, gc=False, kw_only=True):
    """What was asked of an entity before `offset` of the group `from` of the requests is forgotten; `t` is when."""

    entity: str
    key: str
    source: str = field(name="from")
    offset: Offset
    t: Time


class Sample(Struct, tag="sample", frozen=True, gc=False, kw_only=True):
    """A logged vector with its label; `(from, offset, index)` names the log record that released it.

    `known` is the time of that record, or of the label if it is later: until then nobody could know. `rules` names what
    it was joined by, since joins of several versions of a model write to one topic; a sample without any counts as
    everybody's.
    """

    id: str
    t: Time
    label: Scalar
    label_t: Time
    known: Time
    kind: Literal["label", "absent", "correction"]
    vector: list[Value]
    score: Score
    version: Offset
    fingerprint: str
    origin: Literal["api", "stream"]
    event: Raw
    source: str = field(name="from")
    offset: Offset
    index: Offset
    rules: str = ""

    def of(self, rules: str) -> bool:
        """Whether it is one of the samples that these rules give."""
        return self.rules in ("", rules)


LogRecord = PredictionRecord | LabelRecord | ProgressRecord | ForgetRecord


class LoggedPrediction(Struct, tag="prediction", frozen=True, gc=False, kw_only=True):
    """A prediction as the join reads it: `PredictionRecord` without unpacking what no sample repeats."""

    id: str
    t: Time
    origin: Literal["api", "stream"]
    vector: list[Value]
    score: Score
    version: Offset
    fingerprint: str
    as_of: Raw
    event: Raw
    flags: list[str] = field(default_factory=list)


class Body(Struct, array_like=True, frozen=True, gc=False):
    """What a sample repeats of its prediction."""

    vector: list[Value]
    score: Score
    version: int
    fingerprint: str
    origin: Literal["api", "stream"]
    event: bytes  # JSON, as it was asked

    @classmethod
    def of(cls, record: LoggedPrediction | PredictionRecord) -> Body:
        """Returns the body of a prediction; it shares no memory with the poll that brought it."""
        return cls(
            record.vector,
            record.score,
            record.version,
            record.fingerprint,
            record.origin,
            bytes(record.event),
        )


ReadRecord = LoggedPrediction | LabelRecord | ProgressRecord | ForgetRecord
"""A record of the log as the join reads it."""

LARGEST_RECORD = 900_000
"""Bytes of a prediction with its key: its sample is a little larger, and must pass brokers that are set as usual."""
LARGEST_LABEL = 10_000
"""Bytes of a label, which its sample repeats."""

_encoder = msgspec.json.Encoder()
_log_decoder: msgspec.json.Decoder[LogRecord] = msgspec.json.Decoder(LogRecord)
_reader: msgspec.json.Decoder[ReadRecord] = msgspec.json.Decoder(ReadRecord)
_sample_decoder = msgspec.json.Decoder(Sample)


def encode_record(record: LogRecord) -> bytes:
    """JSON of a record of the model's log.

    Raises:
        ValueError: a number is not finite or needs more than 64 bits, or the record is too large.
    """
    if record.__class__ is PredictionRecord:
        _check_numbers(record.vector, record.score)
        data = _encoder.encode(record)
        if len(data) > LARGEST_RECORD // 2:
            _check_size(record.id, data, LARGEST_RECORD)
        return data
    data = _encoder.encode(record)
    if record.__class__ is LabelRecord:
        _check_numbers((record.label,), None)
        _check_size(record.id, data, LARGEST_LABEL)
    return data


def decode_record(data: bytes) -> LogRecord:
    """The record written in `data`.

    Raises:
        msgspec.DecodeError: not JSON, not a record of the log, or a number out of range.
    """
    return _decoded(_log_decoder, data)


def read_record(data: bytes) -> ReadRecord:
    """The record written in `data`, as the join reads it.

    Raises:
        msgspec.DecodeError: not JSON, not a record of the log, or a number out of range.
    """
    return _decoded(_reader, data)


def encode_joined(sample: Sample) -> bytes:
    """JSON of a sample whose vector and score were read from JSON, so that they need no second look.

    Raises:
        ValueError: the label is not finite or needs more than 64 bits.
    """
    if sample.label is not True and sample.label is not False:
        _check_numbers((sample.label,), None)
    return _encoder.encode(sample)


def encode_sample(sample: Sample) -> bytes:
    """JSON of a sample.

    Raises:
        ValueError: a number is not finite or needs more than 64 bits.
    """
    _check_numbers(sample.vector, sample.score)
    _check_numbers((sample.label,), None)
    return _encoder.encode(sample)


def decode_sample(data: bytes) -> Sample:
    """The sample written in `data`.

    Raises:
        msgspec.DecodeError: not JSON, not a sample, or a number out of range.
    """
    return _decoded(_sample_decoder, data)


_Decoded = TypeVar("_Decoded")


def _decoded(decoder: msgspec.json.Decoder[_Decoded], data: bytes) -> _Decoded:
    try:
        check_json(data, DEEPEST + 1)  # it holds an event
        return decoder.decode(data)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from None


def _check_size(ident: str, data: bytes, most: int) -> None:
    size = len(data) + len(ident.encode())  # the id is its key as well
    if size > most:
        raise ValueError(
            f"the record would have {size} bytes, of at most {most}: send smaller events and ids"
        )


def _check_numbers(values: Iterable[Value], score: Score) -> None:
    # msgspec writes NaN and the infinities as null, which would silently turn them into missing values.
    for slot, value in enumerate(values):
        if value.__class__ is float and value - value == 0.0:
            continue
        if not _fits(value):
            raise ValueError(f"slot {slot} holds {value!r}, which JSON cannot carry: send a finite number")
    for value in score.values() if isinstance(score, dict) else (score,):
        if not _fits(value):
            raise ValueError(f"the score holds {value!r}, which JSON cannot carry: scores are finite")


def _fits(value: Value) -> bool:
    if isinstance(value, float):
        return isfinite(value)
    return not isinstance(value, int) or _INT_MIN <= value <= _INT_MAX
