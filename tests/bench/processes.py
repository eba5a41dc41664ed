"""Processes under measurement: on a core of their own, with their CPU time read from outside. Linux only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from features.embedded import tied_to_parent

REPOSITORY = Path(__file__).resolve().parents[2]
HEADRACE = [str(Path(sys.executable).with_name("headrace"))]
_STOP_SECONDS = 30.0
_CPU_CLOCK = 2  # the scheduler's clock: user and system time of all threads, also of those that have ended


class SideFailed(RuntimeError):
    """A process under measurement did not do its work; the message ends with what it said."""


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, to the nanosecond; /proc counts in hundredths of a second.

    >>> 0.0 < cpu_seconds(os.getpid()) < 86400.0
    True
    """
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK)


def split_cores() -> tuple[int, list[int]]:
    """The core of the process under test, and those of everything else: this process, broker, Redis, load."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1], cores[:-1] or cores


@contextmanager
def beside(cores: Sequence[int]) -> Iterator[None]:
    """Keeps this process, and what it starts without a core, off the core of the process under test."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Side:
    """A process under test. It ends with the `with` statement, and with this process whatever happens.

    Args:
        command: What runs.
        core: Where it runs; None leaves it among the others.
    """

    def __init__(self, command: Sequence[str], core: int | None) -> None:
        pinned = list(command) if core is None else [_taskset(), "--cpu-list", str(core), *command]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._command = " ".join(command)
        self._process = subprocess.Popen(
            tied_to_parent(pinned),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,  # closed when we are done with it
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def go(self) -> None:
        """Lets it begin, if it waits for a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def check(self) -> None:
        """Raises SideFailed if it has ended."""
        if self._process.poll() is not None:
            raise SideFailed(f"ended with code {self._process.returncode}: {self._command}\n{self.said()}")

    def said(self) -> str:
        """The end of what it has written."""
        self._said.seek(0)
        return "\n".join(self._said.read().decode(errors="replace").splitlines()[-30:])

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._said.close()


def _taskset() -> str:
    found = shutil.which("taskset")
    if found is None:
        raise SideFailed("there is no taskset on PATH: install util-linux")
    return found
