"""The demo from its first process to its last line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from features import keys
from features.redis import RedisStore
from models import Project
from models.deployment import topics_of
from streams.follow import Follower
from streams.log import LogReader, Partition
from streams.producer import Producer
from streams.spool import Spool

from ..errors import ServiceFailed
from ..loading import Loaded
from ..logs import layouts_of, opened
from ..opening import open_project
from ..verifying import Verdict, verify
from .asking import Caller
from .feeding import Feeder
from .generator import DAY, Town, events
from .house import House, house, workplace
from .interrupts import Interrupted, Interrupts
from .show import Board, status_line, welcome
from .timeline import Timeline

MODEL = "fraud"
BACK = 180 * DAY
SPEED = DAY / 4  # six hours a second: the town's thousand payments a day make 250 a second
LIVE = SPEED / 25  # 10 payments a second once the present is reached
_START = 60.0
_CATCH_UP = 60.0
_LOOK = 0.5  # seconds between two looks at the worker
_MOST_LAG = 2_000  # records; the embedded broker forgets what is further behind
_STALE = 4_000  # milliseconds without a word of the worker
_SPOOLED = 1 << 30  # bytes of the log that are kept on disk
_EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "payments.py"
_TEMPLATE = Path(__file__).with_name("payments.py.tmpl")


def run(seconds: float | None, port: int | None, *, told: bool) -> dict[str, Any] | None:
    """Runs the demo until the seconds are over or someone ends it; leaves no process and no file.

    Args:
        seconds: how long events are produced; without them until Ctrl-C or SIGTERM.
        port: of the API.
        told: whether to say what there is to see.

    Returns:
        The figures, where the seconds have passed.
    """
    with contextlib.suppress(Interrupted), Interrupts() as interrupts, workplace(interrupts) as folder:
        loaded = open_project(project_file(folder))
        with house(loaded, folder, port, interrupts) as home:
            try:
                return asyncio.run(_live(loaded, home, seconds, told))
            finally:
                interrupts.ignore()  # the loop has put back the defaults, which would end us half-way
    return None


def project_file(folder: Path) -> Path:
    """Returns the payments project: that of the repository, else the copy that is installed, laid into a folder."""
    if _EXAMPLE.is_file():
        return _EXAMPLE
    laid = folder / "payments.py"
    laid.write_text(_TEMPLATE.read_text())
    return laid


async def _live(loaded: Loaded, home: House, seconds: float | None, told: bool) -> dict[str, Any] | None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    store, spool = RedisStore(home.redis), Spool(home.spool)
    follower, caller = Follower(home.bootstrap, home.topics, spool, _SPOOLED), Caller(home.url, MODEL)
    try:
        spool.keep_layouts(await layouts_of(loaded.project, store))
        async with Producer(home.bootstrap) as producer:
            now = time.time_ns() // 1_000_000
            start = (now - BACK) // DAY * DAY
            timeline = Timeline(start, now, SPEED, LIVE)
            feeder = Feeder(loaded.project, events(Town(start)), timeline, producer, caller)
            if told:
                welcome(home, project_file(home.folder), feeder.newest + 7 * DAY)
            whole = await _feed(feeder, home, store, stop, seconds, told)
        if not whole:
            return None
        caller.stop()
        status = await _caught_up(loaded.project, home, store, follower)
        verdict = await _verified(loaded, home, follower)
        return _figures(home, feeder, caller, status, verdict)
    finally:
        caller.stop()
        follower.stop()
        await store.close()


async def _feed(
    feeder: Feeder, home: House, store: RedisStore, stop: asyncio.Event, seconds: float | None, told: bool
) -> bool:
    """Feeds until the time is over, which is True, or someone ends it."""
    over = asyncio.Event()
    feeding = asyncio.create_task(feeder.run(over))
    stopped = asyncio.create_task(stop.wait())
    until: float | None = None
    begun = time.monotonic()
    board = Board(told)
    try:
        with board:
            while until is None or time.monotonic() < until:
                if until is None and seconds is not None and not feeder.held:
                    until = time.monotonic() + seconds
                left = _LOOK if until is None else min(_LOOK, max(0.0, until - time.monotonic()))
                await asyncio.wait([feeding, stopped], timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if feeding.done():
                    feeding.result()
                if stopped.done():
                    return False
                home.check()
                status = await _status(store)
                feeder.held = _behind_by(status) > _MOST_LAG
                if status is None and time.monotonic() - begun > _START:
                    raise _silent()
                board.show(status_line(status, feeder, MODEL))
        return True
    finally:
        over.set()
        stopped.cancel()
        await asyncio.gather(feeding, stopped, return_exceptions=True)


class _Ends(NamedTuple):
    ends: Mapping[Partition, int]
    letters: int


def _ends(home: House) -> _Ends:
    wanted = [Partition(topic, n) for topic, count in home.topics.items() for n in range(count)]
    with LogReader(home.bootstrap) as reader:
        ends = reader.highwaters(wanted)
    letters = sum(end for partition, end in ends.items() if partition.topic.endswith(".dlq"))
    return _Ends(ends, letters)


async def _caught_up(project: Project, home: House, store: RedisStore, follower: Follower) -> dict[str, Any]:
    """Returns the worker's status once everything that was sent has been folded, scored, joined and learned."""
    read = topics_of(project)
    deadline = time.monotonic() + _CATCH_UP
    while True:
        home.check()
        told_at = time.time_ns() // 1_000_000
        ends = (await asyncio.to_thread(_ends, home)).ends
        while (status := await _status(store)) is None or status["at_ms"] <= told_at:
            await asyncio.sleep(0.05)
            home.check()
            if time.monotonic() > deadline:
                raise _behind(status)
        wanted = {p: end for p, end in ends.items() if p.topic in read}
        if _reached(status, wanted) and follower.reached(ends):
            after = (await asyncio.to_thread(_ends, home)).ends
            if after == ends:  # what was read has led to nothing more
                return status
        if follower.error is not None:
            raise follower.error
        if time.monotonic() > deadline:
            raise _behind(status)


def _reached(status: Mapping[str, Any], ends: Mapping[Partition, int]) -> bool:
    stages: dict[str, list[int]] = {}
    for name, facts in status["groups"].items():
        stages.setdefault(name.partition("@")[0], []).append(facts["next"])
    return all(min(stages.get(f"{p.topic}/{p.number}", [0])) >= end for p, end in ends.items())


def _silent() -> ServiceFailed:
    return ServiceFailed(
        f"the worker of the demo did not come up within {_START:.0f} s",
        where="process worker",
        why="it has not said anything yet",
        fix="try again; a busy machine may take longer",
    )


def _behind_by(status: Mapping[str, Any] | None) -> int:
    """Returns how many records the worker has before it; very many while it says nothing."""
    if status is None or time.time_ns() // 1_000_000 - status["at_ms"] > _STALE:
        return 1 << 62
    return sum(facts["lag"] for facts in status["groups"].values())


def _behind(status: Mapping[str, Any] | None) -> ServiceFailed:
    lags = {} if status is None else {name: facts["lag"] for name, facts in status["groups"].items()}
    return ServiceFailed(
        f"the worker did not catch up within {_CATCH_UP:.0f} s",
        where="process worker",
        why="it lags by " + ", ".join(f"{lag} on {name}" for name, lag in lags.items() if lag),
        fix="run the demo on a machine with less to do",
    )


async def _verified(loaded: Loaded, home: House, follower: Follower) -> Verdict:
    follower.stop()
    async with opened(loaded, home.spool, home.bootstrap, home.redis) as places:
        return await asyncio.to_thread(verify, places, places.deployment.project.model(MODEL))


async def _status(store: RedisStore) -> dict[str, Any] | None:
    told = [json.loads(value) for _, value in await store.fields(keys.STATUS)]
    return max(told, key=lambda status: int(status["at_ms"]), default=None)


def _figures(
    home: House, feeder: Feeder, caller: Caller, status: dict[str, Any], verdict: Verdict
) -> dict[str, Any]:
    told = status["models"][MODEL]
    progressive, baseline = told["figures"]["progressive"], told["figures"]["progressive_baseline"]
    return {
        "events": feeder.sent.total(),
        "predictions": verdict.logged,
        "predictions_asked": len(caller.latencies),
        "predictions_failed": len(caller.failed),
        "labels": sum(n for topic, n in feeder.sent.items() if "chargebacks" in topic),
        "learned": told["version"],
        "dead_letters": _ends(home).letters,
        "verify_checked": verdict.checked,
        "verify_differences": verdict.different,
        "verify_not_checkable": verdict.unchecked.total(),
        "predict_p50_ms": _quantile(caller.latencies, 0.5),
        "predict_p99_ms": _quantile(caller.latencies, 0.99),
        "freshness_p50_ms": status["freshness_ms"]["p50"],
        "freshness_p99_ms": status["freshness_ms"]["p99"],
        "metric_name": "progressive ROCAUC",
        "metric": progressive["ROCAUC"],
        "baseline": baseline["ROCAUC"],
        "log_loss": progressive.get("LogLoss"),
        "log_loss_baseline": baseline.get("LogLoss"),
    }


def _quantile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
