"""The processes of the demo: broker, store, worker and API, started in order and ended in reverse."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

from features.embedded import EmbeddedRedis, free_port
from models.deployment import topics_of
from models.topics import dead_letter_topic
from serving.run import run
from streams.embedded import EmbeddedKafka
from streams.metrics import Metrics

from ..compose import serve, work
from ..errors import FAILURES, ServiceFailed, told
from ..exporting import exported
from ..loading import Loaded
from ..output import failure
from .interrupts import Interrupts

PARTITIONS = 2  # of each source: this machine may have two cores
SESSION = (
    2.0  # seconds; the embedded broker lets the next member of a group in only after the session of the last
)
_START = 60.0
_GRACE = 15.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class House:
    """Where everything is."""

    folder: Path
    topics: dict[str, int]
    bootstrap: str
    redis: str
    url: str
    metrics_url: str
    processes: tuple[ForkProcess, ...]

    @property
    def spool(self) -> Path:
        """The folder that the log is copied to."""
        return self.folder / "log"

    def check(self) -> None:
        """Returns while everybody is at work.

        Raises:
            ServiceFailed: a process has ended; with the end of what it said.
        """
        for process in self.processes:
            if not process.is_alive():
                raise _ended(process, self.folder)


@contextlib.contextmanager
def house(loaded: Loaded, folder: Path, port: int | None, interrupts: Interrupts) -> Iterator[House]:
    """Starts everything on loopback ports and ends it.

    Processes are forks: what takes seconds to import is there at once, and is held in memory once. So this must be
    called from the main thread, before there are others.

    Args:
        loaded: the project.
        folder: for data and logs; it is the caller's.
        port: of the API; without one 8000 or, if that is taken, a free one.
        interrupts: held back while a process starts, so that each has somebody to end it.

    Raises:
        ServiceFailed, EmbeddedKafkaError, EmbeddedRedisError: something did not come up.
    """
    topics = topics_of(loaded.project, {source.topic: PARTITIONS for source in loaded.project.sources})
    everything = topics | {dead_letter_topic(topic): 1 for topic in topics}
    with contextlib.ExitStack() as stack:
        metrics_port = free_port()
        with interrupts.later():
            kafka = stack.enter_context(EmbeddedKafka.start(everything))
            redis = stack.enter_context(EmbeddedRedis.start(folder / "redis"))
            worker = _fork("worker", folder, partial(_work, loaded, kafka.bootstrap, redis.url, metrics_port))
            stack.callback(_end, worker)
            ours, theirs = multiprocessing.Pipe(duplex=False)
            serving = partial(_serve, loaded, kafka.bootstrap, redis.url, _port(port), theirs)
            api = _fork("api", folder, serving)
            stack.callback(_end, api)
            theirs.close()
        url = _told(ours, api, folder)
        made = House(
            folder,
            everything,
            kafka.bootstrap,
            redis.url,
            url,
            f"http://127.0.0.1:{metrics_port}/metrics",
            (worker, api),
        )
        yield made


@contextlib.contextmanager
def workplace(interrupts: Interrupts) -> Iterator[Path]:
    """Gives a folder that is gone afterwards, whatever is still written to it."""
    folder: Path | None = None
    try:
        with interrupts.later():
            folder = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _work(loaded: Loaded, bootstrap: str, redis: str, metrics_port: int) -> None:
    metrics = Metrics()
    with exported(metrics.registry, metrics_port):
        run(work(loaded, bootstrap=bootstrap, redis=redis, session_timeout=SESSION, metrics=metrics))


def _serve(loaded: Loaded, bootstrap: str, redis: str, port: int, started: Connection) -> None:
    run(serve(loaded, bootstrap=bootstrap, redis=redis, port=port, started=started.send))


def _fork(name: str, folder: Path, program: Callable[[], None]) -> ForkProcess:
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(os.getpid(), folder / f"{name}.log", program), name=name, daemon=True
    )
    process.start()
    return process


def _child(parent: int, log: Path, program: Callable[[], None]) -> None:
    os.setsid()  # Ctrl-C in a terminal is for the parent, which ends us when it is done
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        program()
    except FAILURES as error:
        failure(told(error))
        sys.exit(1)


def _told(pipe: Connection, process: ForkProcess, folder: Path) -> str:
    try:
        if pipe.poll(_START):
            return str(pipe.recv())
    except EOFError:
        process.join(1.0)
        raise _ended(process, folder) from None
    raise ServiceFailed(
        f"the API of the demo did not answer within {_START:.0f} s",
        where=str(folder / "api.log"),
        why=_tail(folder / "api.log"),
        fix="try again; a busy machine may take longer",
    )


def _end(process: ForkProcess) -> None:
    process.terminate()
    process.join(_GRACE)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


def _ended(process: ForkProcess, folder: Path) -> ServiceFailed:
    log = folder / f"{process.name}.log"
    return ServiceFailed(
        f"the {process.name} of the demo has ended with code {process.exitcode}",
        where=f"process {process.name}",
        why=_tail(log),
        fix="run headrace doctor, and report what it and the demo show",
    )


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-12:]) or "it said nothing"


def _port(port: int | None) -> int:
    if port is not None:
        return port
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8000))
        except OSError:
            return 0
    return 8000
