"""What a project file declares, as plain data: before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import UNSET, Raw, Struct
from msgspec.structs import fields

from features.aggregation import Feature
from features.clock import duration_text
from features.fold import fold
from features.plan import FOREVER, StatePlan, plan_for
from features.source import Source
from features.state import State, encode
from models import Model, Project
from models.join import Join
from models.outcomes import Outcomes
from models.records import PredictionRecord, Value

from .topics import wanted_topics

_EVENTS = (1, 60, 512)  # a new entity, a usual one, one at the bound of exact events
_NOW = 1_700_000_000_000


# Measured with a million waiting predictions of the payments model: what Redis takes beside the values of a field, and
# what the worker takes beside what it stores.
_FIELD = 75
_CHUNKED = 1
_CELL_IN_MEMORY = 410
_ENTRY_IN_MEMORY = 19


class Pending(NamedTuple):
    """What the predictions of a model take while they wait for their labels."""

    per_second: float
    horizon: str
    vectors: str  # where they are: "redis" or "log"
    bytes_each: int  # in Redis
    bytes_total: int
    memory_each: int  # in the worker
    memory_total: int
    waiting: int
    max_pending: int  # a partition of the model's log


def describe(project: Project, rate: float | None = None, partitions: int | None = None) -> dict[str, Any]:
    """Returns what a project declares.

    Args:
        project: the project.
        rate: requests a second, to say what waiting predictions take.
        partitions: of each source.
    """
    return {
        "project": project.name,
        "sources": [_source(project, source) for source in project.sources],
        "views": [_view(project, view) for view in project.views],
        "states": [_state(plan) for plan in project.plans],
        "models": [_model(model, rate) for model in project.models],
        "topics": [
            {"name": t.name, "partitions": t.partitions, "config": dict(t.config)}
            for t in wanted_topics(project, partitions)
        ],
    }


def _source(project: Project, source: Source[Any]) -> dict[str, Any]:
    roles = [f"requests of {m.name}" for m in project.requested_by(source)]
    roles += [f"labels of {m.name}" for m in project.labelled_by(source)]
    roles += ["views"] if project.plans_over(source) else []
    return {
        "topic": source.topic,
        "event": "outcomes" if isinstance(source, Outcomes) else source.event.__name__,
        "id": None if source.id is None else source.id.name,
        "time": source.time.name,
        "key": None if source.key is None else source.key.name,
        "lateness": duration_text(source.lateness),
        "for": roles,
    }


def _view(project: Project, view: Any) -> dict[str, Any]:
    plan = plan_for(view, project.plans)
    assert plan is not None, "every view of a project has a plan"
    return {
        "name": view.__name__,
        "entity": view.of.name,
        "source": view.source.topic,
        "own_event": view.own_event,
        "features": [_feature(feature) for feature in view.features],
        "state": plan.fingerprint,
    }


def _feature(feature: Feature[Any]) -> dict[str, str]:
    return {"name": feature.name, "aggregation": repr(feature.aggregation), "window": str(feature.window)}


def _state(plan: StatePlan) -> dict[str, Any]:
    return {
        "fingerprint": plan.fingerprint,
        "entity": plan.entity,
        "source": plan.source.topic,
        "columns": list(plan.paths),
        "reach": duration_text(plan.reach),
        "forgotten_after": None if plan.retain >= FOREVER else duration_text(plan.retain),
        "partial": plan.partial,
        "bytes": {str(n): bytes_of(plan, n) for n in _EVENTS},
    }


def bytes_of(plan: StatePlan, events: int) -> int:
    """Returns the size of a state after so many events, spread evenly over what it remembers."""
    state = State()
    step = max(1, (plan.reach or plan.lateness) // events)
    sample = {"number": 12.5, "text": "x" * 12}
    for k in range(events):
        values = [sample.get(kind, 1 + k % 7) for kind in plan.kinds]
        fold(plan, state, _NOW + k * step, k, values, k)
    return len(encode(plan, state))


def _model(model: Model, rate: float | None) -> dict[str, Any]:
    label = model.spec.label
    told: dict[str, Any] = {
        "name": model.name,
        "task": model.task.value,
        "learner": type(model.spec.learner).__name__
        if len(repr(model.spec.learner)) > 60
        else repr(model.spec.learner),
        "request": model.spec.request.topic,
        "slots": [
            {"name": s.name, "type": s.type.__name__, "may_be_missing": s.nullable}
            for s in model.vector.slots
        ],
        "vector": model.fingerprint,
        "fingerprint": model.learner_fingerprint,
        "threshold": model.spec.threshold,
        "label": None,
    }
    if label is not None:
        told["label"] = {
            "source": label.source.topic,
            "value": label.value.name,
            "type": label.type.__name__,
            "within": duration_text(label.within),
            "absent": None if label.absent is UNSET else label.absent,
            "counts": label.counts,
        }
    if rate is not None:
        told["pending"] = None if label is None else pending(model, rate)._asdict()
    return told


def pending(model: Model, rate: float) -> Pending:
    """Returns what waiting predictions take: rate x horizon x bytes, what is stored of one by folding it."""
    label = model.spec.label
    assert label is not None
    join = Join(label.rules(("labels/0",)), f"{model.log_topic}/0")
    vector: list[Value] = [_SAMPLES.get(slot.type, 1.5) for slot in model.vector.slots]
    join.fold(
        PredictionRecord(
            id="0123456789ab",
            t=_NOW,
            origin="stream",
            vector=vector,
            score=0.123456789,
            version=100_000,
            fingerprint=model.fingerprint,
            as_of={},
            event=Raw(_event_sized(model.spec.request.event)),
        ),
        0,
    )
    stored, waiting = join.pending_bytes, rate * label.within / 1000
    beside, in_memory = (
        (_FIELD, _CELL_IN_MEMORY) if label.vectors == "redis" else (_CHUNKED, _ENTRY_IN_MEMORY)
    )
    each, memory = stored + beside, stored + in_memory
    return Pending(
        rate,
        duration_text(label.within),
        label.vectors,
        each,
        round(waiting * each),
        memory,
        round(waiting * memory),
        round(waiting),
        label.max_pending,
    )


_SAMPLES: Mapping[type, Value] = {bool: True, int: 17, str: "x" * 12}


def _event_sized(event: type[Struct]) -> bytes:
    """Returns bytes of about the size of an event's JSON: 16 for each value, and its name."""
    return b"x" * (2 + sum(len(field.encode_name) + 4 + 16 for field in fields(event)))


__all__ = ["Pending", "bytes_of", "describe", "pending"]
