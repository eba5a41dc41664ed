"""The OpenAPI document: what FastAPI knows of its routes, and events, problems and the hot path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI

from models.project import Project

from .problems import PROBLEM

_REF = "#/components/schemas/{name}"
_PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}


def body_of(description: str) -> dict[str, Any]:
    """Returns the documentation of a JSON body that is decoded by its source."""
    return {
        "requestBody": {
            "required": True,
            "description": description,
            "content": {"application/json": {"schema": {}}},
        }
    }


def document(app: FastAPI, project: Project) -> Callable[[], dict[str, Any]]:
    """Returns what makes the document of an app, once."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = plain()
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            requests = _events(project, schemas)
            schemas["Problem"] = _problem()
            schemas["Prediction"] = _prediction()
            made["paths"]["/v1/models/{model}/predict"] = {"post": _predict(project, requests)}
            for path, operations in made["paths"].items():
                if not path.startswith("/v2"):
                    for operation in operations.values():
                        _add_problems(operation)
            app.openapi_schema = made
        return app.openapi_schema

    return openapi


def _events(project: Project, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    events = list({model.spec.request.event: None for model in project.models})
    found, components = msgspec.json.schema_components(events, ref_template=_REF)
    schemas.update(components)
    return list(found)


def _predict(project: Project, requests: list[dict[str, Any]]) -> dict[str, Any]:
    event = requests[0] if len(requests) == 1 else {"anyOf": requests}
    one = {"$ref": "#/components/schemas/Prediction"}
    return {
        "tags": ["predictions"],
        "summary": "Score a request, or an array of requests",
        "operationId": "predict",
        "parameters": [
            {
                "name": "model",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "enum": [model.name for model in project.models]},
            },
            _flag("ingest", "Also write the event to its topic, and answer after the broker has it"),
            _flag("sequential", "In an array, each event counts those before it as well"),
            {
                "name": "explain",
                "in": "query",
                "description": "Also answer the names and the values of the model's inputs",
                "schema": {"type": "string", "enum": ["vector"]},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"anyOf": [event, {"type": "array", "items": event}]}}
            },
        },
        "responses": {
            "200": {
                "description": "The prediction; of an array, one for each item",
                "content": {
                    "application/json": {"schema": {"anyOf": [one, {"type": "array", "items": one}]}}
                },
            }
        },
    }


def _flag(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "boolean", "default": False}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _prediction() -> dict[str, Any]:
    properties = {
        "prediction_id": {"type": "string", "description": "The event's id, by which its label finds it"},
        "model": {"type": "string"},
        "version": {"type": "integer", "description": "How many samples the version has learned"},
        "score": {
            "anyOf": [{"type": "number"}, {"type": "object", "additionalProperties": {"type": "number"}}]
        },
        "decision": {"anyOf": [{"type": "boolean"}, {"type": "string"}]},
        "as_of": {
            "type": "object",
            "additionalProperties": {"type": "integer"},
            "description": "The offset up to which the events of each partition read are in the features",
        },
        "age_ms": {
            "anyOf": [{"type": "integer"}, {"type": "null"}],
            "description": "How long before the request the newest event behind its features happened",
        },
        "flags": {"type": "array", "items": {"type": "string"}},
        "names": {"type": "array", "items": {"type": "string"}},
        "vector": {"type": "array"},
    }
    required = ["prediction_id", "model", "version", "score", "as_of", "age_ms", "flags"]
    return {"type": "object", "required": required, "properties": properties}


def _problem() -> dict[str, Any]:
    field = {
        "type": "object",
        "required": ["field", "message"],
        "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
    }
    return {
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {"type": "array", "items": field},
        },
    }


def _add_problems(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = {"description": "A problem", "content": {PROBLEM: {"schema": _PROBLEM_REF}}}
