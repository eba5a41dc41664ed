"""The body of a request, read up to the limit."""

from __future__ import annotations

from starlette.types import Receive, Scope

from .problems import Problem, too_large


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Returns the body.

    Raises:
        Problem: it is larger than the limit, or the caller has gone.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and (len(value) > 18 or int(value) > limit):
            raise too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _gone()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large(limit)
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise _gone()
    if len(body) > limit:
        raise too_large(limit)
    return body


def _gone() -> Problem:
    return Problem(400, "gone", "Caller gone", "the body ended before it was complete")
