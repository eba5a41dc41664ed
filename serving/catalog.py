"""`/v1/models` and `/v1/features`: what is served, and the features of one entity."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from msgspec import UNSET

from features.clock import from_ms, to_ms
from features.column import Column
from features.view import FeatureView
from models.label import Label
from models.spec import Model

from .api import Api, json
from .example import example
from .problems import bad_field, not_found
from .status import Status

_LARGEST_TIME = 1 << 53


def routes(api: Api, status: Status) -> APIRouter:
    """Returns the routes."""
    router = APIRouter(prefix="/v1", tags=["models and features"])

    @router.get("/models", summary="The models of the project, and the version of each that is served")
    async def models() -> Response:
        return json({"models": [_brief(api, asking.model) for asking in api.models.values()]})

    @router.get("/models/{model}", summary="One model: its inputs, its version and how well it does")
    async def model(model: str) -> Response:
        one = api.asking(model).model
        figures = (await status.workers_or_none()).get(one.name, {})
        return json(_brief(api, one) | _whole(one, api.now_ms()) | figures)

    @router.get(
        "/features/{view}/{key:path}",
        summary="The features of one entity",
        description="`key` joins the parts of a key by `|`; `at` is in milliseconds or ISO 8601, else now.",
    )
    async def features(view: str, key: str, at: str | None = None) -> Response:
        lookup = api.lookups.get(view)
        if lookup is None:
            raise not_found("view", view, list(api.lookups))
        t = api.now_ms() if at is None else parse_time(at)
        looked = await lookup.at(api.reads, key, t)
        newest = looked.newest
        return json(
            {
                "view": view,
                "key": key,
                "at": t,
                "values": looked.values,
                "as_of": looked.as_of,
                "newest": None if newest is None else from_ms(newest).isoformat(),
                "age_ms": None if newest is None else max(0, t - newest),
                "bounds": looked.bounds,
                "flags": looked.flags,
            }
        )

    return router


def parse_time(text: str) -> int:
    """Returns a time given in milliseconds or as ISO 8601 with a zone.

    Raises:
        Problem: it is neither.
    """
    try:
        t = int(text)
    except ValueError:
        try:
            # a plus in a query that was not escaped arrives as a space
            t = to_ms(datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text))
        except (ValueError, OverflowError) as error:
            raise bad_field("at", f"{text!r} is neither milliseconds nor a time with a zone") from error
    if not -_LARGEST_TIME <= t <= _LARGEST_TIME:
        raise bad_field("at", f"{text!r} is beyond all time")
    return t


def _brief(api: Api, model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "task": model.task.value,
        "version": api.feed.predictor(model.name).version,
        "ready": api.feed.ready(model.name),
        "fingerprint": model.fingerprint,
        "request": model.spec.request.topic,
        "threshold": model.spec.threshold,
        "slots": len(model.vector.slots),
    }


def _whole(model: Model, now_ms: int) -> dict[str, Any]:
    label = model.spec.label
    return {
        "learner_fingerprint": model.learner_fingerprint,
        "versions": model.versions,
        "inputs": [_input_text(item) for item in model.spec.inputs],
        "slots": [
            {"name": slot.name, "type": slot.type.__name__, "nullable": slot.nullable}
            for slot in model.vector.slots
        ],
        "label": None if label is None else _label(label),
        "log_topic": model.log_topic,
        "samples_topic": model.samples_topic,
        "example": example(model.spec.request, now_ms),
    }


def _label(label: Label) -> dict[str, Any]:
    return {
        "source": label.source.topic,
        "value": str(label.value),
        "within_ms": label.within,
        "absent": None if label.absent is UNSET else label.absent,
    }


def _input_text(item: object) -> str:
    if isinstance(item, type) and issubclass(item, FeatureView):
        return item.__name__
    if hasattr(item, "__objclass__"):
        return f"{item.__objclass__.__name__}.{item.__name__}"  # type: ignore[attr-defined]  # a slot has both
    return str(item) if isinstance(item, Column) else getattr(item, "__name__", repr(item))
