"""The API, put together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from features.errors import HeadraceError, StoreError
from features.store import Store
from models.deployment import Deployment
from models.feed import ModelFeed

from . import catalog, console, events, health, inference
from . import status as status_routes
from .api import Api
from .front import Front
from .gate import Gate
from .metrics import Metrics
from .openapi import document
from .ports import Outbox
from .predict import Predict
from .problems import Handler, Problem, log
from .settings import Settings


class _Fronted(FastAPI):
    """FastAPI behind our front, which must stand before its middleware to leave it out."""

    front: Front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.front(scope, receive, send)

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Goes on to FastAPI's middleware and routes."""
        await super().__call__(scope, receive, send)


def wall_ms() -> int:
    """Returns the wall clock, in milliseconds."""
    return time.time_ns() // 1_000_000


def create_app(
    deployment: Deployment,
    store: Store,
    feed: ModelFeed,
    outbox: Outbox,
    settings: Settings | None = None,
    *,
    metrics: Metrics | None = None,
    now_ms: Callable[[], int] = wall_ms,
    gate: Gate | None = None,
) -> FastAPI:
    """Returns the API of a deployment. While it runs it follows the models; others close store and outbox.

    Args:
        deployment: what is served.
        store: where its states are.
        feed: where its models come from.
        outbox: the way to the broker.
        settings: the limits.
        metrics: of the process.
        now_ms: the wall clock, for refusing events of the future.
        gate: admits by API keys and tokens; None admits everybody.
    """
    settings = settings or Settings()
    metrics = metrics or Metrics()
    api = Api(deployment, store, feed, outbox, settings, metrics, now_ms)
    status = status_routes.Status(api)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await feed.poll()  # so that the first answer is not of an untrained version
        except StoreError as error:
            log.warning("started without the store: %s", error)
        following = [asyncio.create_task(feed.run())]
        if gate is not None:
            following.append(asyncio.create_task(gate.follow()))
        try:
            yield
        finally:
            for task in following:
                task.cancel()
            for task in following:
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    app = _Fronted(
        title=f"Headrace: {deployment.project.name}",
        version="1",
        description="Features and predictions of the project, made by the code that also trained on them.",
        lifespan=lifespan,
    )
    predict = Predict(api.models, api.produce, settings.max_body_bytes, api.recent, settings.retry_after)
    app.router.routes.append(Route(Predict.path, predict, methods=["POST"]))
    for router in (
        catalog.routes(api, status),
        events.routes(api),
        status_routes.routes(status),
        health.routes(api),
        inference.routes(api),
        console.routes(),
    ):
        app.include_router(router)
    handler = Handler(settings.retry_after)
    for kind in (Problem, HeadraceError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, handler)
    app.front = Front(
        app.behind,
        predict,
        metrics,
        settings.max_concurrency,
        settings.retry_after,
        list(api.models),
        gate,
    )
    app.openapi = document(app, api)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    return app
