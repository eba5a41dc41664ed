"""P2: predictions a second and their latency, against a bare FastAPI handler with one read of Redis."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.table import Table

from features.embedded import EmbeddedRedis, free_port
from models.deployment import topics_of
from tests.bench import scoring, wrk
from tests.bench.filling import bodies, fill
from tests.bench.goal import Goal, figure
from tests.bench.processes import HEADRACE, REPOSITORY, Side, SideFailed, beside, cpu_seconds, split_cores
from tests.parts.kafka import KafkaServer

SECONDS = 5.0
ROUNDS = 5
_CONNECTIONS = 16
_OPEN_CONNECTIONS = 64  # more than ever wait at half of the load that a side can take
_BODIES = 20_000
_WARM_UP = 1.0
_START_SECONDS = 60.0
_PATH = "/v1/models/fraud/predict"


class Run(NamedTuple):
    """One side in one round."""

    rate: float  # answers a second, closed loop
    cpu: float  # CPU-seconds of the server an answer
    closed: dict[str, Any]
    open: dict[str, Any]


class Bench:
    """Broker and Redis with everything in them, and the requests."""

    def __init__(self, kafka: str, redis: str, file: Path, core: int, seconds: float) -> None:
        self._kafka = kafka
        self._redis = redis
        self._file = file
        self._core = core
        self._seconds = seconds

    def headrace(self, rate: float) -> Run:
        """`headrace serve`, with its metrics, and with its log of predictions in Kafka."""
        port = free_port()
        places = ["--port", str(port), "--kafka", self._kafka, "--redis", self._redis]
        return self._run([*HEADRACE, "serve", str(Path(scoring.__file__)), *places], port, rate)

    def bare(self, rate: float) -> Run:
        """The handler."""
        port = free_port()
        return self._run(
            [sys.executable, "-m", "tests.bench.bare_handler", str(port), self._redis], port, rate
        )

    def _run(self, command: list[str], port: int, rate: float) -> Run:
        with Side(command, self._core) as side:
            self._wait(side, port)
            self._closed(port, _WARM_UP)
            before, began = cpu_seconds(side.pid), time.monotonic()
            closed = self._closed(port, self._seconds)
            took, spent = time.monotonic() - began, cpu_seconds(side.pid) - before
            opened = _own(port, self._file, _OPEN_CONNECTIONS, self._seconds, rate) if rate else {}
            side.check()
            said = side.said()
        errors = closed["errors"] + opened.get("errors", 0)
        if errors:
            raise SideFailed(f"{errors} answers were not 200: {' '.join(command)}\n{said}")
        return Run(
            closed["requests"] / closed.get("seconds", took), spent / closed["requests"], closed, opened
        )

    def _closed(self, port: int, seconds: float) -> dict[str, Any]:
        if wrk.installed():
            return wrk.load(port, _PATH, self._file, _CONNECTIONS, seconds)
        return _own(port, self._file, _CONNECTIONS, seconds, 0.0)

    def _wait(self, side: Side, port: int) -> None:
        """Returns when the server gives a right answer."""
        body = self._file.read_bytes().splitlines()[0]
        asked = Request(f"http://127.0.0.1:{port}{_PATH}", body, {"Content-Type": "application/json"})
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            side.check()
            try:
                with urlopen(asked, timeout=5.0) as answer:
                    answer.read()
                    return
            except HTTPError as error:
                raise SideFailed(f"{error.code}: {error.read().decode()}\n{side.said()}") from error
            except (URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        raise SideFailed(f"no answer within {_START_SECONDS:.0f} s\n{side.said()}")


def run(console: Console, seconds: float = SECONDS, rounds: int = ROUNDS) -> list[Goal]:
    """Measures both sides in turn, round by round, and returns what P2 asks."""
    core, others = split_cores()
    if not wrk.installed():
        console.print(
            "api: there is no wrk (apt-get install wrk): our own client makes the load, at more cost"
        )
    now = time.time_ns() // 1_000_000
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder, beside(others):
        file = Path(folder) / "bodies"
        file.write_bytes(b"\n".join(bodies(now, _BODIES)))
        with KafkaServer.start(Path(folder) / "kafka") as kafka, EmbeddedRedis.start() as redis:
            for topic, partitions in topics_of(scoring.project).items():
                kafka.create_topic(topic, partitions, {"retention.ms": "-1"})
            size = asyncio.run(fill(redis.url, now))
            bench = Bench(kafka.bootstrap, redis.url, file, core, seconds)
            rate = min(bench.headrace(0.0).rate, bench.bare(0.0).rate) / 2
            console.print(f"api: reads of {size} bytes; open loop at {rate:.0f} requests/s")
            ours, bare = [], []
            for number in range(1, rounds + 1):
                ours.append(bench.headrace(rate))
                bare.append(bench.bare(rate))
                console.print(
                    f"api: round {number} of {rounds}: {ours[-1].rate:.0f}, {bare[-1].rate:.0f} answers/s"
                )
    console.print(_table({"headrace serve": ours, "bare FastAPI handler": bare}))
    return [
        Goal("P2 predictions/s against a bare handler", _of(ours, "rate"), _of(bare, "rate"), 1.3),
        Goal("P2 p50 (ms) at half load", _of(ours, "p50_ms"), _of(bare, "p50_ms"), 1.0, more=False),
        Goal("P2 p99 (ms) at half load", _of(ours, "p99_ms"), _of(bare, "p99_ms"), 1.0, more=False),
        Goal("P2 server CPU (us) an answer", _of(ours, "cpu"), _of(bare, "cpu"), more=False),
    ]


def _of(runs: list[Run], what: str) -> list[float]:
    if what == "rate":
        return [each.rate for each in runs]
    if what == "cpu":
        return [1e6 * each.cpu for each in runs]
    return [float(each.open[what]) for each in runs]


def _table(sides: dict[str, list[Run]]) -> Table:
    table = Table(title="The API: medians of the rounds; times in ms")
    names = (
        "side",
        "answers/s",
        "CPU us/answer",
        "p50 full",
        "p99 full",
        "p50 half",
        "p99 half",
        "client late p99",
    )
    for name in names:
        table.add_column(name, justify="left" if name == "side" else "right")
    for side, runs in sides.items():
        columns = (
            *(_of(runs, what) for what in ("rate", "cpu")),
            *([float(each.closed[what]) for each in runs] for what in ("p50_ms", "p99_ms")),
            *(_of(runs, what) for what in ("p50_ms", "p99_ms", "late_p99_ms")),
        )
        table.add_row(side, *(figure(median(column)) for column in columns))
    return table


def _own(port: int, file: Path, connections: int, seconds: float, rate: float) -> dict[str, Any]:
    """Our own client, in a process of its own among the others."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench.load"),
            *(str(port), _PATH, str(file), str(connections), str(seconds), str(rate)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=seconds + 90.0,
    )
    if ran.returncode != 0:
        raise RuntimeError(f"the load failed: {ran.stderr}")
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer
