"""`/v1/events` and `/v1/labels`: into the log, answered when the broker has it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from .api import Api, json
from .body import read_body
from .gate import must
from .intake import Intake, is_array
from .openapi import body_of


def routes(api: Api) -> APIRouter:
    """Returns the routes."""
    router = APIRouter(prefix="/v1", tags=["events and labels"])

    async def accept(intake: Intake, request: Request) -> Response:
        must(request.scope, api.produce.scope(intake.source))
        body = await read_body(request.scope, request.receive, api.settings.max_body_bytes)
        batch = is_array(body)
        incoming = intake.many(body) if batch else [intake.one(body)]
        api.produce.check(intake, incoming, batch)
        await api.produce.send(intake.source, incoming)
        return json({"topic": intake.source.topic, "accepted": len(incoming)}, 202)

    documented: dict[str, Any] = {
        "status_code": 202,
        "openapi_extra": body_of("An event, or an array of them"),
    }

    @router.post("/events/{source}", summary="Write events of a source to its topic", **documented)
    async def events(source: str, request: Request) -> Response:
        return await accept(api.intake(source), request)

    @router.post("/labels/{source}", summary="Write labels to the topic of a label source", **documented)
    async def labels(source: str, request: Request) -> Response:
        return await accept(api.intake(source, labels=True), request)

    return router
