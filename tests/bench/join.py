"""`python -m tests.bench.join`: CPU of the join stage per record, and bytes of a prediction that waits."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence

from msgspec import Raw
from rich.console import Console

from features.memory import MemoryStore
from headrace.loading import load
from models.deployment import deploy, topics_of
from models.feed import ModelFeed
from models.records import LabelRecord, PredictionRecord, ProgressRecord, encode_record
from models.snapshot import development_key
from models.spec import Model
from streams.context import Context
from streams.join_stage import JoinStage
from streams.log import NO_TOPIC_ID, Partition, Record
from streams.metrics import Metrics
from streams.producer import Outgoing
from tests.headrace.conftest import PAYMENTS

_NOW = 1_767_225_600_000
_POLL = 5_000


class Nowhere:
    """Outputs that are acknowledged and dropped."""

    async def send(self, batch: Sequence[Outgoing]) -> None:
        """Takes them."""


def prediction(k: int, fingerprint: str) -> bytes:
    """A prediction of the payments model, ten milliseconds after the one before."""
    event = f'{{"id":"pay-{k:012}","card":"c{k % 9973:07}","terminal":"t{k % 997:06}","amount":12.5,'
    vector = [12.5, 3, 7, 120.25, 17.178571428571427, k, 5, 3, 0.08333333333333333, 1, 0.1, None, 44.1234567]
    return encode_record(
        PredictionRecord(
            id=f"pay-{k:012}",
            t=_NOW + 10 * k,
            origin="stream",
            vector=vector,  # type: ignore[arg-type]  # a list of ints and floats is one of values
            score=1 / (k + 3),
            version=k,
            fingerprint=fingerprint,
            as_of={"payments.transactions.v1/0": k, "payments.chargebacks.v1/0": k // 50},
            event=Raw(f'{event}"at":"2026-01-01T00:00:00.000Z"}}'.encode()),
        )
    )


def label(k: int) -> bytes:
    """The label of the prediction `k`, an hour after it."""
    t = _NOW + 10 * k + 3_600_000
    return encode_record(
        LabelRecord(id=f"pay-{k:012}", t=t, label=k % 7 == 0, source="payments.chargebacks.v1/0", offset=k)
    )


def progress(k: int) -> bytes:
    """Progress that moves no horizon."""
    return encode_record(ProgressRecord(source="payments.chargebacks.v1/0", offset=10**9 + k, t=_NOW + k))


def polls(values: Iterator[bytes], start: int) -> Iterator[list[Record]]:
    """The values as polls of a worker, from an offset on."""
    poll: list[Record] = []
    for offset, value in enumerate(values, start):
        poll.append(Record(offset, 0, None, value, ()))
        if len(poll) == _POLL:
            yield poll
            poll = []
    if poll:
        yield poll


async def stage_of(model: Model) -> JoinStage:
    """The join of a model, over a store in memory."""
    project, store, key = PROJECT, MemoryStore(), development_key("bench")
    deployment = await deploy(project, store, topics_of(project))
    feed = ModelFeed(store, deployment, [key])
    context = Context(deployment, store, Nowhere(), feed, key, (), lambda: 0, Metrics())
    group = deployment.groups[model.log_topic][0]
    position = await JoinStage.claimed(context, group, NO_TOPIC_ID, 0)
    return JoinStage(context, Partition(model.log_topic, 0), group, position, model)


PROJECT = load(PAYMENTS).project


async def run(n: int, rounds: int) -> dict[tuple[str, str], float]:
    """Returns CPU microseconds per record: the least of some rounds, as other programs only add to it."""
    model = PROJECT.models[0]
    least: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        for name, fingerprint in (("own", model.fingerprint), ("another", "another")):
            stage = await stage_of(model)
            offset = 0
            kinds = {
                "prediction": [prediction(k, fingerprint) for k in range(n)],
                "label": [label(k) for k in range(n)],
                "progress": [progress(k) for k in range(n)],
            }
            for what, values in kinds.items():
                made = list(polls(iter(values), offset))
                offset += n
                began = time.process_time()
                for poll in made:
                    await stage.take(poll, poll[-1].offset + 1)
                used = (time.process_time() - began) / n * 1e6
                least[name, what] = min(used, least.get((name, what), used))
    return least


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.join", description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="records of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the best counts")
    given = parser.parse_args()
    console = Console()
    for (fingerprint, what), used in asyncio.run(run(given.records, given.rounds)).items():
        console.print(f"{what:10} of {fingerprint:7} fingerprint: {used:6.2f} us CPU a record")


if __name__ == "__main__":
    main()
