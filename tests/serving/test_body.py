"""The body of a request that does not come as it should."""

from __future__ import annotations

import tracemalloc

import pytest
from starlette.types import Message

from serving.body import read_body
from serving.problems import Problem

PART = 1_000_000


async def test_what_a_caller_sent_before_it_went_is_not_copied() -> None:
    """Callers that go by the hundred would take twice the memory that their bodies had."""
    parts = [bytes([k]) * PART for k in range(8)]
    left = iter(parts)

    async def receive() -> Message:
        body = next(left, None)
        if body is None:
            tracemalloc.reset_peak()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": True}

    tracemalloc.start()
    try:
        with pytest.raises(Problem, match="before it was complete"):
            await read_body({"type": "http", "headers": []}, receive, 100 * PART)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < PART
