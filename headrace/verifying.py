"""Verifying: logged predictions against the vector and the score that the log gives, bit by bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.records import FALLBACK, PredictionRecord
from models.spec import Model
from streams.bases import Bases
from streams.kept import Kept
from streams.recompute import Log, Recompute, rescored, same_value

from .logs import Opened, logged, newest

SHOWN = 100  # differences that are kept in full; all are counted


class Difference(NamedTuple):
    """One value of a logged prediction that the log does not give."""

    id: str
    origin: str
    version: int
    what: str  # the slot, or "score"
    logged: Any
    recomputed: Any


@dataclass
class Verdict:
    """What became of the predictions of one model."""

    model: str
    logged: int = 0
    equal: int = 0
    different: int = 0
    unchecked: Counter[str] = field(default_factory=Counter)  # by reason
    differences: list[Difference] = field(default_factory=list)
    begun: int = 0  # the version that rescoring began with
    samples: int = 0  # how many samples were replayed
    refused: dict[int, str] = field(
        default_factory=dict
    )  # kept versions that are not trusted, with the reason

    @property
    def checked(self) -> int:
        """How many could be compared."""
        return self.equal + self.different

    def as_dict(self) -> dict[str, Any]:
        """Returns it as plain data."""
        return {
            "model": self.model,
            "logged": self.logged,
            "equal": self.equal,
            "different": self.different,
            "not_checkable": self.unchecked.total(),
            "reasons": dict(self.unchecked),
            "differences": [d._asdict() for d in self.differences],
            "rescored_from": self.begun,
            "samples_replayed": self.samples,
            "kept_refused": self.refused,
        }


def verify(
    opened: Opened,
    model: Model,
    limit: int = 0,
    tick: Callable[[int], None] | None = None,
    bases: Bases | None = None,
    kept: Kept | None = None,
) -> Verdict:
    """Compares the newest predictions of a model, or all, with what the log gives.

    Args:
        opened: the log.
        model: whose predictions are checked.
        limit: how many of the newest; 0 is all.
        tick: is told of each prediction twice: when its vector and when its score has been compared.
        bases: states to begin from, where the log is too short.
        kept: versions of the model to begin from; without them, or with none that holds, from the first sample.
    """
    log, deployment, first = opened.log, opened.deployment, opened.first
    predictions = newest(logged(log, model), limit)
    verdict = Verdict(model.name, len(predictions))
    found: list[tuple[PredictionRecord, list[Difference]]] = []
    for prediction, differing, reason in _vectors(
        Recompute(deployment, model, log, first, bases), predictions
    ):
        if tick is not None:
            tick(1 if not reason else 2)
        if reason:
            verdict.unchecked[reason] += 1
        else:
            found.append((prediction, differing))
    known = {id(prediction): differing for prediction, differing in found}
    for prediction, value, reason in _scores(log, model, [p for p, _ in found], verdict, kept):
        if tick is not None:
            tick(1)
        differing = known[id(prediction)]
        if not reason and not same_value(prediction.score, value):
            differing.append(_difference(prediction, "score", prediction.score, value))
        if differing:
            verdict.different += 1
            verdict.differences.extend(differing[: max(0, SHOWN - len(verdict.differences))])
        elif reason:
            verdict.unchecked[reason] += 1
        else:
            verdict.equal += 1
    if kept is not None:
        verdict.refused = dict(kept.refused)
    return verdict


def _vectors(
    recompute: Recompute, predictions: Sequence[PredictionRecord]
) -> Iterator[tuple[PredictionRecord, list[Difference], str]]:
    for prediction in predictions:
        if FALLBACK in prediction.flags:
            yield prediction, [], "a fallback score, made without features"
    whole = (p for p in predictions if FALLBACK not in p.flags)
    for prediction, assembled, reason, cut in recompute.vectors(whole):
        if assembled is None:
            yield prediction, [], reason
            continue
        slots = zip(recompute.model.vector.slots, prediction.vector, assembled.vector, strict=False)
        unequal = [(slot, a, b) for slot, a, b in slots if not same_value(a, b)]
        differing = [
            _difference(prediction, slot.name, a, b) for slot, a, b in unequal if not slot.topics & cut
        ]
        if unequal and not differing:
            yield prediction, [], compacted_away(cut)
            continue
        if len(prediction.vector) != len(assembled.vector):
            lengths = len(prediction.vector), len(assembled.vector)
            differing.append(_difference(prediction, "number of slots", *lengths))
        yield prediction, differing, ""


def compacted_away(topics: Collection[str]) -> str:
    """Returns why a vector that differs is no evidence: what a key had then is not in the log any more."""
    return f"records that {', '.join(sorted(topics))} held then were compacted away"


def _scores(
    log: Log, model: Model, predictions: Sequence[PredictionRecord], verdict: Verdict, kept: Kept | None
) -> Iterator[tuple[PredictionRecord, Any, str]]:
    def replayed(_: int) -> None:
        verdict.samples += 1

    order = sorted(predictions, key=lambda p: p.version)
    done = 0
    while done < len(order):
        begin = None if kept is None else kept.newest(order[done].version)
        if not done and begin is not None:
            verdict.begun = begin.version
        try:
            for prediction, value, reason in rescored(log, model, order[done:], replayed, begin):
                done += 1
                yield prediction, value, reason
        except Exception as error:  # a learner may raise anything at a vector that was tampered with
            if done >= len(order):
                raise
            yield order[done], None, f"its vector cannot be scored: {type(error).__name__}"
            done += 1


def _difference(prediction: PredictionRecord, what: str, logged: Any, recomputed: Any) -> Difference:
    return Difference(prediction.id, prediction.origin, prediction.version, what, logged, recomputed)
