"""What stands before every route: who may ask, how many at a time, how long it took, the short way to predictions.

The short way leaves out the routing and the middleware of FastAPI, which cost as much as a read of features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .gate import Gate
from .metrics import Metrics
from .predict import Predict
from .problems import busy, respond

ALWAYS = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_BEFORE, _AFTER = Predict.path.split("{model}")


class Front:
    """Admits requests up to the limit, observes them, and sends predictions straight to where they are made.

    Args:
        app: where all others go.
        predict: the hot path.
        metrics: of the process.
        limit: how many may be in hand.
        retry_after: seconds that one too many is asked to wait.
        models: the names that may be a label; a caller could make up any other.
        gate: admits by keys and tokens; None admits everybody.
    """

    def __init__(
        self,
        app: ASGIApp,
        predict: Predict,
        metrics: Metrics,
        limit: int,
        retry_after: int,
        models: Collection[str],
        gate: Gate | None = None,
    ) -> None:
        self._app = app
        self._predict = predict
        self._metrics = metrics
        self._limit = limit
        self._retry_after = retry_after
        self._models = frozenset(models)
        self._gate = gate
        self._observers: dict[tuple[str, str, int], Callable[[float], Any]] = {}
        self._active = 0
        metrics.active.set_function(lambda: self._active)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        path: str = scope["path"]
        if self._gate is not None:  # before the limit: who has no key takes nobody's place
            refused = await self._gate.admit(scope)
            if refused is not None:
                await respond(path, refused)(scope, receive, watched)
                self._observe(scope, status, began)
                return
        if self._active >= self._limit and path not in ALWAYS:
            await respond(path, busy(self._retry_after))(scope, receive, watched)
            self._observe(scope, status, began)
            return
        self._active += 1
        try:
            if path.startswith(_BEFORE) and path.endswith(_AFTER) and scope["method"] == "POST":
                scope["endpoint"] = self._predict
                scope["path_params"] = {"model": path[len(_BEFORE) : -len(_AFTER)]}
                await self._predict(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        finally:
            self._active -= 1
            self._observe(scope, status, began)

    def _observe(self, scope: Scope, status: int, began: float) -> None:
        # FastAPI's routes are named in the scope
        route = getattr(scope.get("route") or scope.get("endpoint"), "path", "none")
        model = scope.get("path_params", {}).get("model", "")
        key = (route, model if model in self._models else "", status)
        observe = self._observers.get(key)
        if observe is None:
            observe = self._metrics.requests.labels(key[0], key[1], str(status)).observe
            self._observers[key] = observe
        observe(time.perf_counter() - began)
