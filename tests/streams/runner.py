"""A worker in a process of its own, for tests that kill it: `python -m tests.streams.runner OPTIONS`, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from features.redis import RedisStore
from features.store import Answer, Group, Position, Writes
from headrace.compose import work
from headrace.loading import load


def trace(file: Path) -> None:
    """Notes what the store answered to whom: the token, the group, when the question was sent, the answer."""
    lines = file.open("a", buffering=1)
    commit, claim = RedisStore.commit, RedisStore.claim

    async def traced_commit(
        self: RedisStore, group: Group, start: Position, end: Position, writes: Writes, reader: str = ""
    ) -> Answer:
        asked = time.time()
        answer = await commit(self, group, start, end, writes, reader)
        lines.write(json.dumps([asked, group.name, reader, answer.status.name]) + "\n")
        return answer

    async def traced_claim(self: RedisStore, group: Group, initial: Position, reader: str = "") -> Position:
        asked = time.time()
        position = await claim(self, group, initial, reader)
        lines.write(json.dumps([asked, group.name, reader, "CLAIMED"]) + "\n")
        return position

    RedisStore.commit = traced_commit  # type: ignore[method-assign]  # the worker makes its store itself
    RedisStore.claim = traced_claim  # type: ignore[method-assign]  # likewise


def main(options: dict[str, Any]) -> None:
    traced = options.pop("trace", None)
    if traced is not None:
        trace(Path(traced))
    asyncio.run(work(load(options.pop("file"), check_learners=False), **options))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
