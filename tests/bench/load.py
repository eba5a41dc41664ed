"""Load on an HTTP server, from a process of its own.

Run as `python -m tests.bench.load PORT PATH BODIES CONNECTIONS SECONDS RATE`, where BODIES is a file with a JSON body
in each line. With a RATE of 0 every connection asks again as soon as it has its answer; otherwise requests arrive by
chance (Poisson) at that rate whether or not the server keeps up, and a latency counts from the arrival: a stall of the
server is paid by everyone who comes meanwhile. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import httptools

_DRAIN = 30.0  # seconds for the last answers


class Connection(asyncio.Protocol):
    """One connection with at most one request on its way."""

    def __init__(self, answered: Callable[[Connection, float, int], None]) -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)

    def ask(self, request: bytes, began: float) -> None:
        """Sends a request that arrived at `began`."""
        assert self._transport is not None
        self._began = began
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._answered(self, self._began, self._parser.get_status_code())

    def close(self) -> None:
        """Hangs up."""
        assert self._transport is not None
        self._transport.close()


class Load:
    """A run of requests and what became of them."""

    def __init__(self, requests: list[bytes], seconds: float) -> None:
        self._requests = requests
        self._next = 0
        self._seconds = seconds
        self._end = 0.0
        self._idle: deque[Connection] = deque()
        self._queue: deque[float] = deque()
        self._open = 0  # requests without an answer
        self._more = True
        self._finished = asyncio.Event()
        self.latencies: list[float] = []
        self.late: list[float] = []  # how late a request was handed over, which is our own doing
        self.errors = 0

    async def run(self, port: int, connections: int, rate: float) -> None:
        """Asks until the time is over, and waits for the last answers."""
        loop = asyncio.get_running_loop()
        answered = self._closed if not rate else self._opened
        made = [
            (await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port))[1]
            for _ in range(connections)
        ]
        self._end = time.perf_counter() + self._seconds
        if rate:
            self._idle.extend(made)
            await self._arrivals(rate)
        else:
            for connection in made:
                self._ask(connection, time.perf_counter())
        await asyncio.wait_for(self._finished.wait(), self._seconds + _DRAIN)
        for connection in made:
            connection.close()

    async def _arrivals(self, rate: float) -> None:
        draw = random.Random(4)
        at = time.perf_counter()
        while at < self._end:
            at += draw.expovariate(rate)
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.late.append(time.perf_counter() - at)
            self._open += 1
            if self._idle:
                self._send(self._idle.popleft(), at)
            else:
                self._queue.append(at)
        self._more = False
        self._finish()

    def _opened(self, connection: Connection, began: float, status: int) -> None:
        self._count(began, status)
        if self._queue:
            self._send(connection, self._queue.popleft())
        else:
            self._idle.append(connection)
        self._finish()

    def _closed(self, connection: Connection, began: float, status: int) -> None:
        self._count(began, status)
        now = time.perf_counter()
        if now < self._end:
            self._ask(connection, now)
        else:
            self._more = False
            self._finish()

    def _ask(self, connection: Connection, began: float) -> None:
        self._open += 1
        self._send(connection, began)

    def _send(self, connection: Connection, began: float) -> None:
        connection.ask(self._requests[self._next], began)
        self._next = (self._next + 1) % len(self._requests)

    def _count(self, began: float, status: int) -> None:
        self._open -= 1
        self.latencies.append(time.perf_counter() - began)
        self.errors += status != 200

    def _finish(self) -> None:
        if not self._open and not self._more:
            self._finished.set()


def request(path: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    head = [
        f"POST {path} HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


def percentile(numbers: list[float], share: float) -> float:
    """The number that a share of the numbers does not exceed.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5), percentile([1.0], 0.99)
    (2.0, 1.0)
    """
    ordered = sorted(numbers)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def main(port: int, path: str, file: Path, connections: int, seconds: float, rate: float) -> None:
    """Runs the load and prints what became of it."""
    load = Load([request(path, body) for body in file.read_bytes().splitlines()], seconds)
    # select() takes microseconds; epoll, and with it uvloop, rounds every wait up to a millisecond
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(load.run(port, connections, rate))
    loop.close()
    answer = {
        "requests": len(load.latencies),
        "errors": load.errors,
        "p50_ms": 1e3 * percentile(load.latencies, 0.5),
        "p99_ms": 1e3 * percentile(load.latencies, 0.99),
        "late_p99_ms": 1e3 * percentile(load.late, 0.99) if load.late else 0.0,
    }
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        sys.argv[2],
        Path(sys.argv[3]),
        int(sys.argv[4]),
        float(sys.argv[5]),
        float(sys.argv[6]),
    )
