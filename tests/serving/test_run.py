"""The process: where it listens, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serving.errors import CannotListen
from serving.run import serve

REPOSITORY = Path(__file__).resolve().parents[2]


class Slow:
    """An application whose answers wait for a gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()
        self.ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.ended = True
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.asked.set()
        await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


async def test_it_finishes_what_is_in_hand_before_it_stops() -> None:
    app, stop = Slow(), asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(serve(app, port=0, started=url.set_result, stop=stop))
    async with httpx.AsyncClient() as client:
        answer = asyncio.create_task(client.get(await url))
        await app.asked.wait()
        stop.set()
        app.gate.set()
        assert (await answer).text == "done"
    await running
    assert app.ended


async def test_an_address_that_is_taken_is_said_so() -> None:
    app, stop = Slow(), asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(serve(app, port=0, started=url.set_result, stop=stop))
    port = int((await url).rpartition(":")[2])
    with pytest.raises(CannotListen, match=str(port)):
        await serve(app, port=port)
    stop.set()
    await running


PROGRAM = """
from serving.run import run, serve

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

async def main():
    try:
        await serve(app, port=0, started=lambda url: print(url, flush=True))
    finally:
        print("outbox emptied", flush=True)

run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_time_to_empty_the_outbox(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=REPOSITORY,
        env=dict(os.environ, PYTHONPATH=str(REPOSITORY)),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(number)
        rest = process.stdout.read()
        assert (process.wait(), rest) == (0, "outbox emptied\n")
