"""`/v1/status`: what the workers tell, what this process measured, and the newest predictions."""

from __future__ import annotations

import json as plain
import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from features import keys
from features.errors import StoreError

from .api import Api, json

_FRESH = 0.5  # seconds for which an answer of the store is shown to everyone who looks


class Status:
    """The state of the whole deployment, as far as this process can see it."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._workers: dict[str, Any] = {}
        self._until = 0.0

    async def workers(self) -> dict[str, Any]:
        """Returns what each live worker of the project last told, by its name.

        Raises:
            StoreError: the store does not answer.
        """
        now = time.monotonic()
        if now < self._until:
            return self._workers
        prefix = f"{self._api.project.name}/"
        oldest = self._api.now_ms() - self._api.settings.stale_ms
        workers = {}
        for field, value in await self._api.store.fields(keys.STATUS):
            name = field.decode(errors="replace")
            if name.startswith(prefix):
                told = plain.loads(value)  # figures may be NaN, which only this parser takes
                if told.get("at_ms", 0) >= oldest:
                    workers[name.removeprefix(prefix)] = told
        self._workers, self._until = workers, now + _FRESH
        return workers

    async def workers_or_none(self) -> dict[str, Any]:
        """Returns what the workers tell of each model; nothing where the store does not answer."""
        try:
            told = await self.workers()
        except StoreError:
            return {}
        return _by_model(told)

    async def whole(self) -> dict[str, Any]:
        """Returns the document of `/v1/status`."""
        api = self._api
        error = None
        workers: dict[str, Any] = {}
        try:
            workers = await self.workers()
        except StoreError as failed:
            error = failed.what
        told = _by_model(workers)
        models = {
            name: {
                "served_version": api.feed.predictor(name).version,
                "task": asking.model.task.value,
                **told.get(name, {}),
            }
            for name, asking in api.models.items()
        }
        return {
            "project": api.project.name,
            "at_ms": api.now_ms(),
            "store": "up" if error is None else error,
            "api": self._own(),
            "workers": workers,
            "models": models,
            "newest": [_shown(model, made) for model, made in reversed(api.newest)],
        }

    def _own(self) -> dict[str, Any]:
        recent, now = self._api.recent, time.perf_counter()
        return {
            "uptime_s": round(time.time() - self._api.started, 1),
            "predictions_last_minute": recent.count(now),
            "predict_ms": {
                "p50": _ms(recent.percentile(now, 0.5)),
                "p99": _ms(recent.percentile(now, 0.99)),
            },
            "prediction_log_lost": self._api.outbox.lost,
        }


def routes(status: Status) -> APIRouter:
    """Returns the route."""
    router = APIRouter(prefix="/v1", tags=["operation"])

    @router.get("/status", summary="Workers, models, latencies and the newest predictions")
    async def whole() -> Response:
        return json(await status.whole())

    return router


def _by_model(workers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for told in workers.values():
        for name, facts in told.get("models", {}).items():
            merged.setdefault(name, {}).update(
                {("learned_version" if fact == "version" else fact): value for fact, value in facts.items()}
            )
    return merged


def _shown(model: str, made: Any) -> dict[str, Any]:
    return {
        "id": made.id,
        "model": model,
        "t": made.t,
        "score": made.prediction.score,
        "decision": made.prediction.decision,
        "version": made.prediction.version,
        "age_ms": made.age_ms,
        "flags": made.flags,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
