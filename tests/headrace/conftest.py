"""The command line called in this process, and a project that has been played through once by its commands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from features.embedded import EmbeddedRedis, free_port
from headrace.cli import run
from headrace.demo.feeding import payment, verdict
from headrace.demo.generator import DAY, Payment, Town, events
from headrace.loading import load
from models.deployment import topics_of
from models.topics import dead_letter_topic
from streams.embedded import EmbeddedKafka
from streams.follow import Follower
from streams.log import LogReader, Partition
from streams.spool import Spool

REPOSITORY = Path(__file__).resolve().parents[2]
PAYMENTS = REPOSITORY / "docs" / "examples" / "payments.py"
START = 1_767_225_600_000  # 2026-01-01
TOWN = Town(START, customers=60, terminals=200)
DAYS = 3


class Answer(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it said to a program."""
        return json.loads(self.out)


Cli = Callable[..., Answer]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Calls `headrace` with words; runs in a folder without `.env`."""
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def call(*words: object) -> Answer:
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return Answer(int(code), out, err)

    return call


class Files(NamedTuple):
    """The events of the town, as files."""

    transactions: Path
    chargebacks: Path
    payments: int
    verdicts: int


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Three days of a small town."""
    folder = tmp_path_factory.mktemp("town")
    happened = list(takewhile(lambda event: event.t < START + DAYS * DAY, events(TOWN)))
    paid = [e for e in happened if isinstance(e, Payment)]
    known = [e for e in happened if not isinstance(e, Payment)]
    made = Files(folder / "tx.ndjson", folder / "cb.ndjson", len(paid), len(known))
    made.transactions.write_bytes(
        b"".join(payment(e.id, e.card, e.terminal, e.amount, e.t) + b"\n" for e in paid)
    )
    made.chargebacks.write_bytes(b"".join(verdict(e.payment, e.fraud, e.t) + b"\n" for e in known))
    return made


class Played(NamedTuple):
    """A project that has run: everything was produced by `produce` and worked off by `worker`."""

    kafka: str
    redis: str
    spool: Path
    worker_said: str
    worker_code: int
    worker_metrics: str
    files: Files

    @property
    def where(self) -> tuple[str, str, str, str]:
        """The options that lead there."""
        return ("--kafka", self.kafka, "--redis", self.redis)


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Played]:
    """The payments project, played through on an embedded broker and a real Redis of its own."""
    topics = topics_of(load(PAYMENTS).project, {"payments.transactions.v1": 2, "payments.chargebacks.v1": 1})
    everything = topics | {dead_letter_topic(topic): 1 for topic in topics}
    folder = tmp_path_factory.mktemp("spool")
    with EmbeddedKafka.start(everything) as kafka, EmbeddedRedis.start() as redis:
        for source, path in (("transactions", files.transactions), ("chargebacks", files.chargebacks)):
            assert run(["produce", str(PAYMENTS), source, str(path), "--kafka", kafka.bootstrap]) == 0
        follower = Follower(kafka.bootstrap, everything, Spool(folder))
        port = free_port()
        worker = headrace(
            *("worker", PAYMENTS, "--kafka", kafka.bootstrap, "--redis", redis.url),
            *("--session-timeout", "2", "--metrics-port", port),
        )
        try:
            metrics = metrics_once(worker, port, files)
            with LogReader(kafka.bootstrap) as reader:
                ends = reader.highwaters(
                    [Partition(t, n) for t, count in everything.items() for n in range(count)]
                )
            while not follower.reached(ends):
                assert follower.error is None
                time.sleep(0.05)
        finally:
            worker.terminate()
            _, said = worker.communicate()
            follower.stop()
        yield Played(kafka.bootstrap, redis.url, folder, said, worker.returncode, metrics, files)


def headrace(*words: object, **more: Any) -> subprocess.Popen[str]:
    """Starts `headrace` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.cli", *map(str, words)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def metrics_once(worker: subprocess.Popen[str], port: int, files: Files) -> str:
    """Returns the worker's metrics once everything has been scored and learned."""
    done = (
        f'headrace_stream_predictions_total{{model="fraud"}} {float(files.payments)}',
        f'headrace_model_version{{model="fraud"}} {float(files.verdicts)}',
    )
    while worker.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                said: str = answer.read().decode()
        except OSError:
            said = ""
        if all(line in said for line in done):
            return said
        time.sleep(0.1)
    raise AssertionError(f"the worker ended with {worker.returncode}: {worker.communicate()[1]}")


def lines(answer: Answer, words: Sequence[str]) -> list[str]:
    """The lines of an answer's output that hold all words."""
    return [line for line in answer.out.splitlines() if all(word in line for word in words)]
