"""Failures as HTTP: which status each has, and its document. No other module decides on statuses.

Documents are RFC 9457's `application/problem+json`; under `/v2` they are the `{"error": ...}` of the Open
Inference Protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from features.errors import EventRefused, StateCorrupt, StoreError, StoreUnavailable
from models.errors import ModelError

from .errors import OutboxRefused, OutboxUnavailable

log = logging.getLogger("headrace.api")

PROBLEM = "application/problem+json"
TYPE = "urn:headrace:problem:"


class Problem(Exception):
    """An answer that is not what was asked for.

    Args:
        status: of HTTP.
        kind: the last part of the problem's type, stable for programs.
        title: what all problems of the kind have in common.
        detail: what happened here, and what to do.
        errors: for bad input, what is wrong with which field.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.kind, self.title, self.detail = status, kind, title, detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        super().__init__(detail)

    def document(self) -> dict[str, Any]:
        """Returns the body of RFC 9457."""
        body: dict[str, Any] = {
            "type": TYPE + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [{"field": field, "message": message} for field, message in self.errors]
        return body


def not_found(what: str, name: str, known: Sequence[str]) -> Problem:
    """Returns the problem of a name that the project does not have."""
    listed = ", ".join(known) or "none"
    return Problem(404, "not-found", "Not found", f"no {what} is called {name!r}; there is {listed}")


def bad_field(field: str, message: str) -> Problem:
    """Returns the problem of one bad field of the input."""
    where = f"{field}: " if field else ""
    return Problem(422, "bad-input", "Bad input", where + message, errors=[(field, message)])


def too_large(limit: int) -> Problem:
    """Returns the problem of a body beyond the limit; its rest is not read, so the connection is closed."""
    return Problem(
        413, "too-large", "Body too large", f"a body may have {limit} bytes", headers={"Connection": "close"}
    )


def busy(retry_after: int) -> Problem:
    """Returns the problem of one request too many."""
    return _later("busy", "Too many requests in hand", "this process is at its limit; try again", retry_after)


def unauthorized(error: str, detail: str) -> Problem:
    """Returns the problem of a request without a usable key or token; RFC 6750 says how it is told."""
    told = 'Bearer realm="headrace"' + (f', error="{error}"' if error else "")
    return Problem(
        401,
        "unauthorized",
        "No usable API key or token",
        f"{detail}; send Authorization: Bearer KEY-OR-TOKEN, or X-API-Key: KEY",
        headers={"WWW-Authenticate": told},
    )


def forbidden(caller: str, scope: str) -> Problem:
    """Returns the problem of a caller that may not do this."""
    told = f'Bearer realm="headrace", error="insufficient_scope", scope="{scope}"'
    return Problem(
        403,
        "forbidden",
        "Not allowed",
        f"the {caller} has not the scope {scope}",
        headers={"WWW-Authenticate": told},
    )


def too_often(caller: str, seconds: int) -> Problem:
    """Returns the problem of a caller that has used up its rate."""
    return Problem(
        429,
        "too-often",
        "Too many requests of a caller",
        f"the {caller} has made the requests that its rate allows",
        headers={"Retry-After": str(seconds)},
    )


def no_issuer() -> Problem:
    """Returns the problem of a token while the keys of its issuer have never been fetched."""
    return _later(
        "issuer-unavailable",
        "Tokens cannot be checked",
        "the keys of the issuer are not known yet; try again",
        5,
    )


def problem_of(error: Exception, retry_after: int) -> Problem:
    """Returns what an error is answered with. Details of failures that are ours go to the log alone."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, EventRefused):
        return bad_field("", error.what)
    if isinstance(error, StoreUnavailable):
        log.warning("answered 503: %s", error)
        return _later(
            "store-unavailable",
            "Features unavailable",
            "the store of the features does not answer; try again",
            retry_after,
        )
    if isinstance(error, OutboxUnavailable):
        log.warning("answered 503: %s", error)
        return _later(
            "broker-unavailable",
            "Broker unavailable",
            "the broker has not acknowledged; sending the same event again is safe",
            retry_after,
        )
    if isinstance(error, RequestValidationError):
        found = [(".".join(str(part) for part in e["loc"][1:]), str(e["msg"])) for e in error.errors()]
        detail = "; ".join(f"{field}: {message}" for field, message in found)
        return Problem(422, "bad-input", "Bad input", detail, errors=found)
    if isinstance(error, HTTPException):
        title = HTTPStatus(error.status_code).phrase
        kind = title.lower().replace(" ", "-")
        return Problem(error.status_code, kind, title, str(error.detail), headers=error.headers)
    log.error("answered 500: %s", error, exc_info=error)
    return Problem(500, *_ours(error))


def respond(path: str, problem: Problem) -> Response:
    """Returns a problem as the path's protocol writes it."""
    if is_v2(path):
        status = 400 if problem.status == 422 else problem.status
        body = orjson.dumps({"error": problem.detail})
        return Response(body, status, problem.headers, "application/json")
    return Response(orjson.dumps(problem.document()), problem.status, problem.headers, PROBLEM)


class Handler:
    """Answers the errors of all routes."""

    def __init__(self, retry_after: int) -> None:
        self._retry_after = retry_after

    async def __call__(self, request: Request, error: Exception) -> Response:
        """Returns the problem of an error."""
        return respond(request.url.path, problem_of(error, self._retry_after))


def is_v2(path: str) -> bool:
    """Whether a path belongs to the Open Inference Protocol."""
    return path == "/v2" or path.startswith("/v2/")


def _later(kind: str, title: str, detail: str, seconds: int) -> Problem:
    return Problem(503, kind, title, detail, headers={"Retry-After": str(seconds)})


def _ours(error: Exception) -> tuple[str, str, str]:
    if isinstance(error, StateCorrupt):
        return (
            "state-corrupt",
            "Features not usable",
            "the stored features contradict their position and are not served; see the log of the API",
        )
    if isinstance(error, StoreError):
        return "store-failed", "Store failed", "the store refused a command; see the log of the API"
    if isinstance(error, OutboxRefused):
        return (
            "broker-refused",
            "Broker refused",
            "the broker will not take this event; see the log of the API",
        )
    if isinstance(error, ModelError):
        return "model-failed", "Model failed", "the model has no usable answer; see the log of the API"
    return "internal", "Internal error", "the API failed; see its log"
