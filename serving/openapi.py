"""The OpenAPI document: what FastAPI knows of its routes, and events, problems and the hot path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI

from models.project import Project

from .api import Api
from .gate import needed
from .problems import PROBLEM
from .tensors import InferenceRequest

_METRICS = ("text/plain", "application/openmetrics-text")
_READY = {
    "type": "object",
    "required": ["ready"],
    "properties": {
        "name": {"type": "string"},
        "ready": {"type": "boolean"},
        "missing": {"type": "array", "items": {"type": "string"}},
    },
}
_REF = "#/components/schemas/{name}"
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_PROBLEM = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_ERROR = {
    "application/json": {
        "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    }
}


def body_of(description: str) -> dict[str, Any]:
    """Returns the documentation of a JSON body that is decoded by its source."""
    return {
        "requestBody": {
            "required": True,
            "description": description,
            "content": {"application/json": {"schema": {}}},
        }
    }


def document(app: FastAPI, api: Api) -> Callable[[], dict[str, Any]]:
    """Returns what makes the document of an app, once."""
    plain, project = app.openapi, api.project

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = plain()
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            requests = _schemas([model.spec.request.event for model in project.models], schemas)
            made["components"]["securitySchemes"] = _SCHEMES
            schemas["Problem"] = _problem()
            schemas["Prediction"] = _prediction()
            made["paths"]["/v1/models/{model}/predict"] = {"post": _predict(project, requests)}
            _name(made["paths"], api, schemas)
            for path, operations in made["paths"].items():
                for method, operation in operations.items():
                    _add_scope(operation, needed(method.upper(), path))
                    _add_problems(operation, _ERROR if path.startswith("/v2") else _PROBLEM)
            app.openapi_schema = made
        return app.openapi_schema

    return openapi


def _name(paths: dict[str, Any], api: Api, schemas: dict[str, Any]) -> None:
    """Says which models, views and sources there are, and what is sent to them."""
    events, labels = api.source_names(), api.source_names(labels=True)
    known = {
        "/v1/models/{model}": ("model", list(api.models)),
        "/v1/features/{view}/{key}": ("view", list(api.lookups)),
        "/v1/events/{source}": ("source", list(events)),
        "/v1/labels/{source}": ("source", list(labels)),
        "/v2/models/{model}": ("model", list(api.models)),
        "/v2/models/{model}/ready": ("model", list(api.models)),
        "/v2/models/{model}/infer": ("model", list(api.models)),
    }
    for path, (name, values) in known.items():
        for operation in paths[path].values():
            for parameter in operation["parameters"]:
                if parameter["name"] == name and values:
                    parameter["schema"] = {"type": "string", "enum": values}
    for path, sources in (("/v1/events/{source}", events), ("/v1/labels/{source}", labels)):
        found = _schemas([source.event for source in sources.values()], schemas)
        _send(paths[path]["post"], _one_or_many(found))
    _send(paths["/v2/models/{model}/infer"]["post"], _schemas([InferenceRequest], schemas)[0])
    paths["/v2/models/{model}/infer"]["post"]["responses"]["200"]["content"] = _json(_inference())
    for path in ("/readyz", "/v2/health/ready", "/v2/models/{model}/ready"):
        responses = paths[path]["get"]["responses"]
        responses["200"]["content"] = _json(_READY)
        responses["503"] = {"description": "Not ready", "content": _json(_READY)}
    metrics = paths["/metrics"]["get"]["responses"]["200"]
    metrics["content"] = {kind: {"schema": {"type": "string"}} for kind in _METRICS}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _inference() -> dict[str, Any]:
    scalar = {"type": ["number", "boolean", "string"]}
    output = {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"enum": ["FP64", "BOOL", "BYTES"]},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array", "items": scalar},
        },
    }
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": output},
        },
    }


def _one_or_many(events: list[dict[str, Any]]) -> dict[str, Any]:
    one = events[0] if len(events) == 1 else {"anyOf": events}
    return {"anyOf": [one, {"type": "array", "items": one}]}


def _send(operation: dict[str, Any], schema: dict[str, Any]) -> None:
    operation["requestBody"]["content"]["application/json"]["schema"] = schema


def _schemas(types: Sequence[Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the schemas of types, each once, and adds what they refer to."""
    found, components = msgspec.json.schema_components(list(dict.fromkeys(types)), ref_template=_REF)
    schemas.update(components)
    return list(found)


def _predict(project: Project, requests: list[dict[str, Any]]) -> dict[str, Any]:
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
            "content": {"application/json": {"schema": _one_or_many(requests)}},
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


def _add_problems(operation: dict[str, Any], content: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = {"description": "A problem", "content": content}


def _add_scope(operation: dict[str, Any], scope: str | None) -> None:
    if (
        scope is not None
    ):  # a scope of OpenAPI belongs to OAuth alone, so it is told in words; {}: where none is asked for
        operation["security"] = [{}, *({name: []} for name in _SCHEMES)]
        operation["x-headrace-scope"] = scope
