"""A worker, or an API, in a process of its own, for tests that kill it."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from features.redis import RedisStore
from features.store import Answer, Group, Position, Writes
from headrace.compose import serve as serve_project
from headrace.compose import work
from headrace.loading import load
from serving.settings import Settings as Limits

_PDEATHSIG = 1


def main(options: dict[str, Any], said: str, trace: str | None) -> None:
    """Works on until a signal ends it.

    Args:
        options: of `headrace.compose.work`, and the project's file.
        said: the file that gets what the worker says.
        trace: the file that gets what the store answers, if any.
    """
    _begin(said)
    if trace is not None:
        _trace(Path(trace))
    asyncio.run(work(load(options.pop("file"), check_learners=False), **options))


def serve(options: dict[str, Any], said: str, trace: str | None) -> None:
    """Serves the API until a signal ends it.

    Args:
        options: of `headrace.compose.serve`, and the project's file and whether it answers without the store.
        said: the file that gets what the API says.
        trace: not used.
    """
    _begin(said)
    limits = Limits(fallback=options.pop("fallback"))
    asyncio.run(serve_project(load(options.pop("file"), check_learners=False), limits=limits, **options))


def _begin(said: str) -> None:
    """Ends with the process that started this one, and says everything into a file."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    output = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _trace(file: Path) -> None:
    """Notes when the store was asked, for which group and reader, and what it answered."""
    lines = file.open("a", buffering=1)
    commit, claim = RedisStore.commit, RedisStore.claim

    async def traced_commit(
        self: RedisStore, group: Group, start: Position, end: Position, writes: Writes, reader: str = ""
    ) -> Answer:
        asked = time.monotonic()
        answer = await commit(self, group, start, end, writes, reader)
        lines.write(json.dumps([asked, group.name, reader, answer.status.name]) + "\n")
        return answer

    async def traced_claim(self: RedisStore, group: Group, initial: Position, reader: str = "") -> Position:
        asked = time.monotonic()
        position = await claim(self, group, initial, reader)
        lines.write(json.dumps([asked, group.name, reader, "CLAIMED"]) + "\n")
        return position

    RedisStore.commit = traced_commit  # type: ignore[method-assign]  # the worker makes its store itself
    RedisStore.claim = traced_claim  # type: ignore[method-assign]  # likewise
