from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.serving.parts import Served, serve


@pytest.fixture
async def served(redis_url: str) -> AsyncIterator[Served]:
    """The API over an empty Redis."""
    made = await serve(redis_url)
    async with made.client:
        yield made
    await made.store.close()
