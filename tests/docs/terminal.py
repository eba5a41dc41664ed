"""A terminal for the commands of a page: run as they stand there, and compared with what the page shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from features.embedded import free_port

from .pages import Block, Command, commands

_SHOWN_PORT = "127.0.0.1:8000"


class Terminals:
    """One terminal in front and others that keep something running, all in one folder.

    The page says that the API answers on port 8000; here it takes a free one, in what is typed and in what is shown.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self._environment = inherited | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HEADRACE_PORT": str(self._port),
            "PYTHONHASHSEED": "0",  # as every command sets it, which costs a second start
        }

    def run(self, block: Block) -> None:
        """Runs the commands of a block."""
        typed = commands(block)
        for number, command in enumerate(typed, 1):
            shown = command.shown.replace(_SHOWN_PORT, f"127.0.0.1:{self._port}")
            line = command.line.replace(_SHOWN_PORT, f"127.0.0.1:{self._port}")
            if "terminal" in block.notes:
                self._keep(block, Command(line, shown))
            elif "eventually" in block.notes:
                self._repeat(block, Command(line, shown))
            else:
                code, said = self._once(line)
                wanted = int(block.notes.get("exit", "0")) if number == len(typed) else 0
                assert code == wanted, f"{block.place}: {line}\nended with {code}:\n{said}"
                assert not shown or like(shown, said), f"{block.place}: {line}\nshowed\n{said}\nnot\n{shown}"

    def _once(self, line: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, done.stdout.decode()

    def _repeat(self, block: Block, command: Command) -> None:
        while True:
            code, said = self._once(command.line)
            if code == 0 and like(command.shown, said):
                return
            self._check(block, f"{command.line} shows\n{said}\nnot yet\n{command.shown}")
            time.sleep(0.1)

    def _keep(self, block: Block, command: Command) -> None:
        out = self._folder / f"{block.notes['terminal']}.out"
        with out.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command.line}"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._running[block.notes["terminal"]] = (process, out)
        while not like(command.shown, out.read_text()):
            self._check(block, f"{command.line} does not show\n{command.shown}")
            time.sleep(0.05)

    def _check(self, block: Block, waited: str) -> None:
        for name, (process, out) in self._running.items():
            if process.poll() is not None:
                raise AssertionError(
                    f"{block.place}: terminal {name} ended with {process.returncode}:\n{out.read_text()}\n{waited}"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in reversed(self._running.values()):
            process.send_signal(signal.SIGINT)
            process.wait()


def like(shown: str, said: str) -> bool:
    """Tells whether a page shows what was said: `...` stands for anything, and white space for nothing."""
    pattern = re.escape("".join(shown.split())).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, "".join(said.split()), re.DOTALL) is not None
