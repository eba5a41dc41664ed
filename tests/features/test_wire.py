"""The shared connection, against a real Redis and against a server that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis.asyncio as aio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from features.cluster import Servers
from features.wire import Wires

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[aio.Redis]:
    made = aio.Redis.from_url(redis_url, protocol=2)
    yield made
    await made.aclose()


@pytest.fixture
async def wires(redis_url: str) -> AsyncIterator[Wires]:
    made = Wires(redis_url, 5.0)
    yield made
    await made.close()


async def test_replies_come_in_the_order_of_the_commands(client: aio.Redis, wires: Wires) -> None:
    await client.mset({f"k{n}": n for n in range(200)})

    one = [wires.ask(("GET", f"k{n}")) for n in range(100)]
    two = wires.ask(*(("GET", f"k{n}") for n in range(100, 200)))
    replies = [reply for (reply,) in await asyncio.gather(*one)] + await two

    assert replies == [b"%d" % n for n in range(200)]
    assert await wires.ask() == []


async def test_callers_share_one_connection(client: aio.Redis, wires: Wires) -> None:
    before = (await client.info("stats"))["total_connections_received"]
    await asyncio.gather(*(wires.ask(("PING",)) for _ in range(50)))

    assert (await client.info("stats"))["total_connections_received"] - before == 1


async def test_one_who_gives_up_takes_no_reply_from_the_others(wires: Wires) -> None:
    await wires.ask(("SET", "a", "1"), ("SET", "b", "2"))
    first = asyncio.create_task(wires.ask(("GET", "a")))
    second = asyncio.create_task(wires.ask(("GET", "b")))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == [b"2"]
    assert await wires.ask(("GET", "a")) == [b"1"]
    assert first.cancelled()


async def test_a_refused_command_is_its_callers_alone(redis_url: str) -> None:
    server = Servers(redis_url, 5.0)
    await server.ask(("SET", "text", "x"))
    refused, fine = server.ask(("GET", "text"), ("HGET", "text", "f")), server.ask(("GET", "text"))
    results = await asyncio.gather(refused, fine, return_exceptions=True)

    assert isinstance(results[0], ResponseError)
    assert str(results[0]).startswith("WRONGTYPE")
    assert results[1] == [b"x"]
    await server.close()


async def test_a_lost_connection_fails_who_waits_and_is_opened_again(client: aio.Redis, wires: Wires) -> None:
    await wires.ask(("SET", "a", "1"))
    waiting = asyncio.create_task(wires.ask(("BLPOP", "nothing", 0)))
    await asyncio.wait_for(_blocked(client), 10.0)
    await client.client_kill_filter(_type="normal", skipme=True)

    with pytest.raises(RedisConnectionError, match="lost"):
        await waiting
    assert await wires.ask(("GET", "a")) == [b"1"]


async def _blocked(client: aio.Redis) -> None:
    while not (await client.info("clients"))["blocked_clients"]:  # noqa: ASYNC110 - only the server knows
        await asyncio.sleep(0)


async def _served(answering: Answering, body: Callable[[Wires], Awaitable[None]], patience: float) -> None:
    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wires = Wires(f"redis://127.0.0.1:{port}", patience)
    try:
        await body(wires)
    finally:
        await wires.close()
        server.close()


async def test_silence_fails_everyone_who_waits(redis_url: str) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def body(wires: Wires) -> None:
        found = await asyncio.gather(*(wires.ask(("GET", "a")) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in found] == [RedisTimeoutError] * 3

    await _served(silent, body, 0.2)


@pytest.mark.parametrize(("answer", "first"), [(b"?what\r\n", RedisConnectionError), (b":1\r\n:2\r\n", list)])
async def test_what_is_no_reply_to_anything_closes_the_connection(answer: bytes, first: type) -> None:
    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"a\r\n")
        writer.write(answer)
        await reader.read()
        writer.close()

    async def body(wires: Wires) -> None:
        got = await asyncio.gather(wires.ask(("GET", "a")), return_exceptions=True)
        assert isinstance(got[0], first)
        assert wires._wire is not None
        assert wires._wire.closed

    await _served(talking, body, 5.0)


async def test_closing_waits_for_the_socket(redis_url: str) -> None:
    wires = Wires(redis_url, 5.0)
    await wires.ask(("PING",))
    assert wires._wire is not None
    held = wires._wire._transport.get_extra_info("socket")
    assert held.fileno() >= 0

    await wires.close()

    assert held.fileno() == -1
