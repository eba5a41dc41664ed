"""The process: where it listens, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serving.errors import CannotListen
from serving.run import Tls, only_here, serve
from tests.parts.secured import authority, certified

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


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})


async def test_with_a_certificate_only_those_get_in_who_trust_its_authority(tmp_path: Path) -> None:
    ca, ca_key = authority(tmp_path, "ca")
    stranger, _ = authority(tmp_path, "stranger")
    files = Tls(*certified(tmp_path, "api", ca, ca_key))
    stop = asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(serve(hello, port=0, started=url.set_result, stop=stop, tls=files))

    assert (await url).startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(ca))
    async with httpx.AsyncClient(verify=trusting) as client:
        assert (await client.get(await url)).text == "https"
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get((await url).replace("https", "http"))
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(stranger))) as client:
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await client.get(await url)
    old = ssl.create_default_context(cafile=str(ca))
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    async with httpx.AsyncClient(verify=old) as client:
        assert (await client.get(await url)).status_code == 200
    stop.set()
    await running


def locked_by_a_password(key: Path) -> Path:
    made = key.with_name("locked.pem")
    words = ["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", str(key), "-out", str(made)]
    subprocess.run(words, check=True, capture_output=True)
    return made


async def test_a_certificate_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    ca, ca_key = authority(tmp_path, "ca")
    certificate, key = certified(tmp_path, "api", ca, ca_key)
    for files in (
        Tls(certificate, ca_key),  # of another certificate
        Tls(certificate),  # with no key in it
        Tls(certificate, locked_by_a_password(key)),
        Tls(tmp_path / "missing.pem", key),
        Tls(key, key),
    ):
        with pytest.raises(CannotListen, match="certificate"):
            await serve(hello, port=0, tls=files)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_this_machine(host: str) -> None:
    assert only_here(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.4", "example.org", "localhost.example.org"])
def test_any_other_address_is_not(host: str) -> None:
    assert not only_here(host)
