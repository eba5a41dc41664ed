"""Probes and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder

from features import keys
from features.errors import StoreError

from .api import Api, json


def routes(api: Api) -> APIRouter:
    """Returns the routes."""
    router = APIRouter(tags=["operation"])

    @router.get("/livez", summary="Whether the process answers")
    async def livez() -> Response:
        return json({"live": True})

    @router.get("/readyz", summary="Whether the store answers and the version of every model is known")
    async def readyz() -> Response:
        missing = await not_ready(api)
        return json({"ready": not missing, "missing": missing}, 503 if missing else 200)

    @router.get("/metrics", summary="Metrics for Prometheus")
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(api.metrics.registry), headers={"content-type": content_type})

    return router


async def not_ready(api: Api) -> list[str]:
    """Returns what keeps the process from serving; nothing if it can."""
    missing = []
    try:
        await api.store.heads([keys.PLANS + ":ready"], 1)
    except StoreError as error:
        missing.append(f"store: {error.what}")
    missing.extend(f"model: {name}" for name in api.models if not api.feed.ready(name))
    return missing
