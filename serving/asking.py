"""Asking a model: from events to predictions and their records, with one read of the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from features.errors import EventRefused, StateCorrupt, StoreUnavailable
from features.fold import fold
from features.partition import partition_of
from features.state import Kept, State, whole
from features.transforms import Scalar
from models.deployment import Deployment
from models.errors import NonFiniteScore
from models.predictor import Prediction, Predictor
from models.records import FALLBACK, PredictionRecord, encode_record
from models.scorer import Place, Request, age_ms, decode_reads
from models.spec import Model

from .fallback import FromRequest
from .intake import Incoming, Intake
from .metrics import Metrics
from .ports import Outbox
from .reads import Reads

SEQUENTIAL = "sequential"
"""The flag of a vector that counts the events before its own in a batch: no position names them."""


class Feed(Protocol):
    """Where the newest version of each model comes from."""

    def predictor(self, name: str) -> Predictor:
        """Returns the newest version of a model."""
        ...

    def ready(self, name: str) -> bool:
        """Whether it is known which version to serve."""
        ...


class Made(NamedTuple):
    """One prediction, and what it was made of."""

    id: str
    t: int
    raw: bytes
    prediction: Prediction
    vector: list[Scalar]
    as_of: dict[str, int]
    age_ms: int | None
    flags: list[str]


class Asking:
    """One model, ready to be asked.

    Args:
        model: what is asked.
        deployment: where its states are.
        feed: where its newest version comes from.
        reads: of the store.
        outbox: where predictions are logged.
        intake: of its request source.
        metrics: of the process.
        fallback: answer from the request alone while the store is away.
        newest: where what was predicted last is kept for the console.
    """

    def __init__(
        self,
        model: Model,
        deployment: Deployment,
        feed: Feed,
        reads: Reads,
        outbox: Outbox,
        intake: Intake,
        metrics: Metrics,
        *,
        fallback: bool,
        newest: deque[tuple[str, Made]],
    ) -> None:
        self.model = model
        self.intake = intake
        self.newest = newest
        self._scorer = deployment.scorers[model.name]
        self._feed = feed
        self._reads = reads
        self._outbox = outbox
        self._metrics = metrics
        self._fallback = FromRequest(model) if fallback else None
        self._partition = _partition_reader(model, deployment)
        self._log_partitions = len(deployment.groups[model.log_topic])
        self._id_of = model.spec.request.id_of
        self._learned = metrics.predictions.labels(model.name, "learned")
        self._untrained = metrics.predictions.labels(model.name, "untrained")
        self._fallbacks = metrics.predictions.labels(model.name, FALLBACK)

    async def ask(self, incoming: Sequence[Incoming], *, sequential: bool = False) -> list[Made]:
        """Returns a prediction for each event, all of one version and from one read.

        Args:
            incoming: the events; each counts itself, not the others.
            sequential: each counts those before it as well.

        Raises:
            Problem: an event cannot be scored.
            StoreError: the states cannot be read.
            NonFiniteScore: the model has no answer.
        """
        scorer = self._scorer
        partition = self._partition
        requests = [Request(one.event, one.t, partition(one.event)) for one in incoming]
        places = [scorer.places(request) for request in requests]
        wanted = scorer.reads(places)
        try:
            found = await self._reads.read(wanted) if wanted else {}
        except StoreUnavailable:
            if self._fallback is None:
                raise
            return self._without_store(self._fallback, incoming, requests)
        try:
            states, positions = decode_reads(places, wanted, found)
        except StateCorrupt:
            self._metrics.corrupt.inc()
            raise
        predictor = self._feed.predictor(self.model.name)
        made = []
        for k, (one, request, where) in enumerate(zip(incoming, requests, places, strict=True)):
            try:
                prediction, assembled = scorer.score(request, where, states, predictor)
            except EventRefused as refused:
                raise self._refusal(refused, k, len(incoming)) from refused
            flags = assembled.flags
            if sequential:
                if k:
                    flags.append(SEQUENTIAL)
                self._count(request, where, states)
            made.append(
                Made(
                    self._id_of(one.event),
                    one.t,
                    one.raw,
                    prediction,
                    assembled.vector,
                    scorer.as_of(where, positions),
                    age_ms(request, assembled),
                    flags,
                )
            )
        (self._learned if predictor.version else self._untrained).inc(len(made))
        return made

    def records(self, made: Sequence[Made]) -> list[bytes]:
        """Returns the log records of predictions.

        Raises:
            Problem: a number of a vector cannot be logged, so the prediction must not be answered.
        """
        records = []
        for k, one in enumerate(made):
            record = PredictionRecord(
                id=one.id,
                t=one.t,
                origin="api",
                vector=one.vector,
                score=one.prediction.score,
                version=one.prediction.version,
                fingerprint=self.model.fingerprint,
                as_of=one.as_of,
                event=msgspec.Raw(one.raw),
                flags=one.flags,
            )
            try:
                records.append(encode_record(record))
            except ValueError as error:
                raise self._refusal(EventRefused("not_logged", str(error)), k, len(made)) from error
        return records

    def log(self, made: Sequence[Made], records: Sequence[bytes]) -> None:
        """Offers the records to the model's log, where the join finds them; does not wait."""
        topic, offer = self.model.log_topic, self._outbox.offer
        for one, record in zip(made, records, strict=True):
            key = one.id.encode()
            offer(topic, key, record, one.t, partition_of(key, self._log_partitions))
            self.newest.append((self.model.name, one))

    def _without_store(
        self, fallback: FromRequest, incoming: Sequence[Incoming], requests: Sequence[Request]
    ) -> list[Made]:
        predictor = self._feed.predictor(self.model.name)
        made = []
        for k, (one, request) in enumerate(zip(incoming, requests, strict=True)):
            try:
                vector = fallback.vector(request)
                prediction = fallback.predict(predictor, vector)
            except EventRefused as refused:
                raise self._refusal(refused, k, len(incoming)) from refused
            made.append(
                Made(self._id_of(one.event), one.t, one.raw, prediction, vector, {}, None, [FALLBACK])
            )
        self._fallbacks.inc(len(made))
        return made

    def _count(self, request: Request, places: Sequence[Place], states: dict[str, Kept | None]) -> None:
        """Folds an event into the states at hand, so that the next items of the batch see it."""
        event = request.event
        for plan, reads, home in places:
            if plan.source is not self.model.spec.request or (plan.keep is not None and not plan.keep(event)):
                continue
            key = reads[home][1]
            kept = states.get(key)
            state = State() if kept is None else whole(plan, kept)
            fold(plan, state, request.t, plan.source.identify(event, 0), plan.extract(event), state.stamp)
            states[key] = state

    def _refusal(self, refused: EventRefused, k: int, of: int) -> Exception:
        if isinstance(refused.__cause__, NonFiniteScore):
            return refused.__cause__
        return self.intake.refusal(refused, f"[{k}]" if of > 1 else "")


def answer(model: str, made: Made, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns what a caller is told of a prediction; with `names`, also the vector."""
    prediction = made.prediction
    body: dict[str, Any] = {
        "prediction_id": made.id,
        "model": model,
        "version": prediction.version,
        "score": prediction.score,
    }
    if prediction.decision is not None:
        body["decision"] = prediction.decision
    body["as_of"] = made.as_of
    body["age_ms"] = made.age_ms
    body["flags"] = made.flags
    if names is not None:
        body["names"] = names
        body["vector"] = made.vector
    return body


def _partition_reader(model: Model, deployment: Deployment) -> Callable[[Any], int]:
    source = model.spec.request
    n = deployment.partitions(source)
    if source.key is None or source.partitioner != "murmur2" or n == 1:
        return lambda _: 0
    key_bytes = source.key_bytes
    return lambda event: partition_of(key_bytes(event) or b"", n)
