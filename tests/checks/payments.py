"""The payments check: a quarter of payments through real Kafka, worker and Redis, against published features.

    python -m tests.checks.payments FOLDER [--rows N] [--kills K] [--json FILE]

FOLDER holds the transactions and the features of the Fraud Detection Handbook's simulated data as two Parquet files.
Every payment is scored with labels that come 7 days later in event time. The check replays the quarter in memory, sends
it through Kafka, kills the worker K times on the way, and compares:

- every vector with the published features (ties of one customer's payments in one second apart);
- every vector of the Kafka run with the one recomputed from the log at its `as_of`, byte for byte;
- every score with that of the model version named beside it;
- the samples: each payment once;
- the model's digest with that of the fold of its samples, and with that of a run that nothing happened to.

Run by hand and nightly: it takes about half an hour of two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as parquet

from features import keys
from features.embedded import EmbeddedRedis
from features.redis import RedisStore
from headrace.compose import snapshot_key, work
from headrace.loading import load
from models.canonical import digest
from models.deployment import deploy, topics_of
from models.learner import Learner
from models.records import PredictionRecord, decode_sample
from models.snapshot import peek
from streams import recompute as recomputing
from streams.log import LogReader
from streams.producer import Outgoing, Producer
from streams.replay import Replay, Stream, merged
from tests.parts.kafka import KafkaServer

PROJECT = Path(__file__).with_name("payments_project.py")
BEGIN = datetime(2018, 4, 1, tzinfo=UTC)
DELAY = 7 * 86_400
WINDOWS = (1, 7, 30)


class Data:
    """The two tables, row by row."""

    def __init__(self, folder: Path, rows: int) -> None:
        transactions = parquet.read_table(next(folder.glob("**/transactions_*.parquet"))).slice(0, rows)
        features = parquet.read_table(next(folder.glob("**/features_*.parquet"))).slice(0, rows)
        self.rows = transactions.num_rows
        columns = ("TRANSACTION_ID", "TX_TIME_SECONDS", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")
        self.payments = [transactions.column(name).to_pylist() for name in columns]
        self.features = {name: features.column(name).to_pylist() for name in features.column_names}

    def events(self) -> Iterator[tuple[int, int, bytes]]:
        """Yields (seconds, customer, event) of every payment."""
        for ident, seconds, customer, terminal, amount, _ in zip(*self.payments, strict=True):
            event = {
                "id": int(ident),
                "customer": int(customer),
                "terminal": int(terminal),
                "amount": amount,
                "at": _iso(seconds),
            }
            yield int(seconds), int(customer), orjson.dumps(event)

    def labels(self) -> Iterator[tuple[int, int, bytes]]:
        """Yields (seconds, payment, event) of every label."""
        for ident, seconds, _, terminal, _, fraud in zip(*self.payments, strict=True):
            event = {
                "payment": int(ident),
                "terminal": int(terminal),
                "fraud": bool(fraud),
                "at": _iso(seconds + DELAY),
            }
            yield int(seconds) + DELAY, int(ident), orjson.dumps(event)

    def agrees(self, prediction: PredictionRecord) -> bool:
        """Whether a logged vector is what was published for its payment."""
        row, vector, f = int(prediction.id), prediction.vector, self.features
        if vector[1] != bool(f["TX_DURING_WEEKEND"][row]) or vector[2] != bool(f["TX_DURING_NIGHT"][row]):
            return False
        for k, days in enumerate(WINDOWS):
            mean, risk = vector[6 + k], vector[12 + k]
            if vector[3 + k] != f[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"][row]:
                return False
            if (
                not isinstance(mean, float)
                or abs(mean - f[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"][row]) > 1e-4
            ):
                return False
            if vector[9 + k] != f[f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"][row]:
                return False
            share = risk if isinstance(risk, float) else 0.0  # published as 0 where the window is empty
            if abs(share - f[f"TERMINAL_ID_RISK_{days}DAY_WINDOW"][row]) > 1e-9:
                return False
        return True

    def tied(self) -> set[int]:
        """Returns the payments that share customer and second with another: their order is undefined upstream."""
        at = Counter(zip(self.payments[2], self.payments[1], strict=True))
        return {
            int(ident)
            for ident, seconds, customer in zip(*(self.payments[k] for k in (0, 1, 2)), strict=True)
            if at[customer, seconds] > 1
        }


def replayed(data: Data) -> dict[str, Any]:
    """Replays the quarter in memory and compares it with what was published."""
    project = load(PROJECT).project
    replay = Replay(project)
    streams = [
        Stream(project.source("payments"), (event for _, _, event in data.events())),
        Stream(project.source("verdicts"), (event for _, _, event in data.labels())),
    ]
    began, different, scored = time.process_time(), [], 0
    for source, prepared, value in merged(replay, streams):
        for scoring in replay.prepared(source, prepared, value):
            scored += 1
            if not data.agrees(scoring.prediction):
                different.append(int(scoring.prediction.id))
    seconds = time.process_time() - began
    monitor = replay.learner("fraud").monitor
    return {
        "scored": scored,
        "different": different,
        "different_not_tied": sorted(set(different) - data.tied()),
        "cpu_seconds": round(seconds, 1),
        "records_per_cpu_second": round(2 * scored / seconds),
        "progressive": monitor.progressive.figures(),
        "baseline": monitor.progressive.baseline(),
    }


async def through_kafka(data: Data, kills: int, folder: Path) -> dict[str, Any]:
    """Sends the quarter through Kafka, worker and Redis, and compares everything that can be compared."""
    loaded = load(PROJECT)
    topics = topics_of(loaded.project, {"check.verdicts.v1": 1})
    with EmbeddedRedis.start(folder / "redis") as server, KafkaServer.start(folder / "kafka") as kafka:
        for topic, partitions in topics.items():
            for name, count in ((topic, partitions), (f"{topic}.dlq", 1)):
                kafka.create_topic(
                    name, count, {"retention.ms": "-1"}
                )  # record times are event times: years ago
        async with Producer(kafka.bootstrap) as producer:
            await _produce(producer, data)
        store = RedisStore(server.url)
        deployment = await deploy(loaded.project, store, topics)
        group = deployment.groups[deployment.project.models[0].samples_topic][0]
        began = time.monotonic()
        killed, cpu, expired = await _worked(kafka, server, store, group.tag, data.rows, kills)
        seconds = time.monotonic() - began
        head = (await store.heads([keys.model(group.tag)], 4096))[0]
        header = peek(head or b"", [snapshot_key(loaded, None)])
        await store.close()
        with LogReader(kafka.bootstrap) as log:
            found = _compared(data, deployment, log)
        return {
            "kills": killed,
            "wall_seconds": round(seconds, 1),
            "worker_cpu_seconds": round(cpu, 1),
            "events_per_cpu_second": round(2 * data.rows / cpu) if cpu else None,
            "hold_expired": expired,
            **found,
            "version": header.version,
            "digest_served": header.digest,
        }


async def _produce(producer: Producer, data: Data) -> None:
    batch: list[Outgoing] = []
    records = [
        ("check.payments.v1", data.events()),
        ("check.verdicts.v1", data.labels()),
    ]
    for topic, events in records:
        for seconds, key, value in events:
            batch.append(Outgoing(topic, str(key).encode(), value, (), _ms(seconds)))
            if len(batch) == 20_000:
                await producer.send(batch)
                batch = []
    await producer.send(batch)


async def _worked(
    kafka: KafkaServer, redis: EmbeddedRedis, store: RedisStore, tag: str, rows: int, kills: int
) -> tuple[int, float, int]:
    """Runs the worker until all is learned, killing it on the way; returns kills, CPU seconds, expired holds."""
    due = [rows * (k + 1) // (kills + 1) for k in range(kills)]
    killed, cpu, expired = 0, 0.0, 0
    worker = _start(kafka.bootstrap, redis.url)
    try:
        while True:
            await asyncio.sleep(1)
            if worker.poll() is not None:
                raise RuntimeError(f"the worker ended by itself with {worker.returncode}")
            spent = _cpu(worker.pid)
            status = await _status(store, worker.pid)
            expired_now = int(status.get("counts", {}).get("hold_expired", 0))
            learned = int(status.get("models", {}).get("fraud", {}).get("version", 0))
            scored = sum(g["next"] for name, g in status.get("groups", {}).items() if name.endswith("@score"))
            print(
                f"\rscored {scored:,}, learned {learned:,} of {rows:,}, kills {killed} ",
                end="",
                file=sys.stderr,
            )
            if due and scored >= due[0]:
                due.pop(0)
                worker.send_signal(signal.SIGKILL)
                worker.wait()
                cpu, expired, killed = cpu + spent, expired + expired_now, killed + 1
                worker = _start(kafka.bootstrap, redis.url)
            elif learned == rows:
                worker.send_signal(signal.SIGTERM)
                worker.wait()
                print(file=sys.stderr)
                return killed, cpu + spent, expired + expired_now
    finally:
        if worker.poll() is None:
            worker.kill()


def _start(bootstrap: str, redis: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.checks.payments", "--worker", bootstrap, redis]
    return subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": "0"})


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _status(store: RedisStore, pid: int) -> dict[str, Any]:
    for field, value in await store.fields(keys.STATUS):
        if field.decode().endswith(f"-{pid}"):
            found: dict[str, Any] = json.loads(value)
            return found
    return {}


def _compared(data: Data, deployment: Any, log: LogReader) -> dict[str, Any]:
    model = deployment.project.models[0]
    predictions: dict[str, PredictionRecord] = {}
    for prediction in recomputing.predictions_of(log, model):
        predictions.setdefault(prediction.id, prediction)  # the join keeps the first
    different = [int(p.id) for p in predictions.values() if not data.agrees(p)]
    verdicts: Counter[str] = Counter()
    recompute = recomputing.Recompute(deployment, model, log)
    for made in recompute.vectors(iter(predictions.values())):
        if made.assembled is None:
            verdicts[f"not checkable: {made.reason}"] += 1
        else:
            same = recomputing.same_vector(made.assembled.vector, made.prediction.vector)
            verdicts["equal" if same else "different"] += 1
    scores: Counter[str] = Counter()
    for prediction, score, why in recomputing.rescored(log, model, list(predictions.values())):
        scores[why or ("equal" if recomputing.same_value(score, prediction.score) else "different")] += 1
    return {
        "predictions": len(predictions),
        "different": different,
        "different_not_tied": sorted(set(different) - data.tied()),
        "recomputed": dict(verdicts),
        "scores": dict(scores),
        **_samples(data, model, log, predictions),
    }


def _samples(
    data: Data, model: Any, log: LogReader, predictions: dict[str, PredictionRecord]
) -> dict[str, Any]:
    """Folds the samples of the log, and those that a run without any accident would have made."""
    logged, clean = model.new_learner(), model.new_learner()
    seen: Counter[str] = Counter()
    order: list[Any] = []
    for batch in log.read(model.samples_topic, 0, 0, log.bounds(model.samples_topic)[0].highwater):
        for record in batch:
            sample = decode_sample(record.value or b"")
            if logged.on_sample(sample, record.offset).what == "learned":
                seen[sample.id] += 1
                order.append(sample)
    by_id = {sample.id: sample for sample in order}
    for number, (_, ident, _) in enumerate(data.labels()):
        sample = by_id[str(ident)]
        vector, score = predictions[sample.id].vector, predictions[sample.id].score
        _learn(clean, sample, vector, score, number)
    return {
        "samples_lost": data.rows - len(seen),
        "samples_doubled": sum(1 for n in seen.values() if n > 1),
        "digest_of_samples": digest(logged.model),
        "digest_of_clean_run": digest(clean.model),
    }


def _learn(learner: Learner, sample: Any, vector: Sequence[Any], score: Any, number: int) -> None:
    from msgspec.structs import replace

    learner.on_sample(replace(sample, vector=list(vector), score=score, offset=number, index=0), number)


def _iso(seconds: float) -> str:
    return (BEGIN + timedelta(seconds=int(seconds))).isoformat()


def _ms(seconds: int) -> int:
    return int(BEGIN.timestamp()) * 1000 + seconds * 1000


def passed(result: dict[str, Any]) -> bool:
    """Whether nothing but the ties differs."""
    run = result.get("kafka")
    good = not result["replay"]["different_not_tied"]
    if run is not None:
        good = good and not run["different_not_tied"]
        good = good and run["recomputed"] == {"equal": run["predictions"]}
        good = good and run["scores"] == {"equal": run["predictions"]}
        good = good and run["samples_lost"] == run["samples_doubled"] == 0
        good = good and run["digest_served"] == run["digest_of_samples"] == run["digest_of_clean_run"]
    return good


def main() -> int:
    """Runs the check; the exit code is 1 where anything differs."""
    if sys.argv[1:2] == ["--worker"]:
        _, _, bootstrap, redis = sys.argv
        asyncio.run(work(load(PROJECT, check_learners=False), bootstrap=bootstrap, redis=redis, hold=600.0))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1 << 62)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--skip-kafka", action="store_true")
    parser.add_argument("--skip-replay", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = Data(options.folder, options.rows)
    result: dict[str, Any] = {"rows": data.rows}
    result["replay"] = {"different_not_tied": []} if options.skip_replay else replayed(data)
    if not options.skip_kafka:
        with tempfile.TemporaryDirectory() as folder:
            result["kafka"] = asyncio.run(through_kafka(data, options.kills, Path(folder)))
    result["passed"] = passed(result)
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
