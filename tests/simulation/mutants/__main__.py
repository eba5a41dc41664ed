"""`python -m tests.simulation.mutants [--only NAME ...] [--jobs N]`: seeds one fault after the other: who finds it?

Every fault is tried on a copy of the tree: first lives are simulated until one fails, then the tests that the mutant
names are run. One that survives both is a missing test; then the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from tests.simulation.mutants import ROOT, Mutant, mutants, mutated

COPIED = ("features", "models", "streams", "serving", "headrace", "tests", "pyproject.toml")
REAL = ("features/redis.py", "streams/producer.py")  # what talks to real parts, and lives know nothing of
UNSHRUNK = """
from hypothesis import Phase, settings

settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate))  # nobody reads the examples
settings.load_profile("mutants")
"""
LONGEST = 300  # CPU seconds that a trial may take: a fault may make something go on for ever
MEMORY = 16 << 30  # bytes of addresses


class Verdict(msgspec.Struct):
    """What became of a mutant."""

    name: str
    area: str
    loses: str
    killed: str  # "simulator", "test", or nothing
    by: str
    seconds: float  # CPU


class Copy:
    """A copy of the tree in which one fault at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._used = 0.0
        self._time = 1_000_000_000  # of the files that change: compiled ones are told by it
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        (folder / "conftest.py").write_text(UNSHRUNK)
        if (ROOT / ".cache").exists():
            (folder / ".cache").symlink_to(ROOT / ".cache")

    def tried(self, mutant: Mutant, seeds: int, lives: bool) -> Verdict:
        """Tries a mutant."""
        before = (self._root / mutant.file).read_text()
        self._write(mutant.file, mutated(mutant, self._root))
        self._used = 0.0  # CPU seconds
        try:
            killed, by = self._trial(mutant, seeds, lives)
        finally:
            self._write(mutant.file, before)
        return Verdict(mutant.name, mutant.area, mutant.loses, killed, by, round(self._used, 1))

    def sound(self, tests: set[str], seeds: int) -> list[str]:
        """Returns what fails without any fault; then nothing that fails with one means anything."""
        asked: list[tuple[str, ...]] = []
        if seeds:
            asked.append(("-m", "tests.simulation", "--stop", "--seeds", str(seeds)))
        asked += [("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test) for test in sorted(tests)]
        return [command[-1] for command in asked if self._run(*command)[0]]

    def _trial(self, mutant: Mutant, seeds: int, lives: bool) -> tuple[str, str]:
        if lives and mutant.file not in REAL:
            code, told = self._run("-m", "tests.simulation", "--stop", "--seeds", str(seeds))
            if code:
                found = re.search(r"seed \d+: .*", told)
                return "simulator", found[0] if found else _last(told)
        code, told = self._run("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests)
        if code == 0:
            return "", ""
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", told, re.MULTILINE)
        return "test", found[1] if found else _last(told)

    def _run(self, *command: str) -> tuple[int, str]:
        with tempfile.TemporaryFile("w+") as told:
            child = subprocess.Popen(
                [sys.executable, *command],
                cwd=self._root,
                env={**os.environ, "PYTHONPATH": str(self._root)},
                stdout=told,
                stderr=subprocess.STDOUT,
                preexec_fn=_bounded,  # nothing here holds a lock that the child needs
            )
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            self._used += used.ru_utime + used.ru_stime
            told.seek(0)
            return child.returncode, told.read()

    def _write(self, file: str, text: str) -> None:
        self._time += 10
        (self._root / file).write_text(text)
        os.utime(self._root / file, (self._time, self._time))


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST + 10))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _last(told: str) -> str:
    lines = told.strip().splitlines()
    return lines[-1][:160] if lines else "it did not end"


def main() -> int:
    """Tries them."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names, or areas")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument(
        "--seeds", type=int, default=60, help="lives that are simulated at most; 60 by default"
    )
    parser.add_argument("--tests-only", action="store_true", help="simulate nothing")
    parser.add_argument(
        "--trusting", action="store_true", help="do not run lives and tests without a fault first"
    )
    parser.add_argument(
        "--json", type=Path, help="where the verdicts are kept; those that are there are not tried again"
    )
    parser.add_argument("--table", type=Path, help="a Markdown file to write them to")
    given = parser.parse_args()
    chosen = [m for m in mutants() if not given.only or {m.name, m.area} & set(given.only)]
    kept: dict[str, Any] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    verdicts = {name: msgspec.convert(each, Verdict) for name, each in kept.items()}
    console = Console(soft_wrap=True)

    def chore(mine: list[Mutant]) -> None:
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            copy = Copy(Path(folder))
            for mutant in mine:
                verdict = verdicts[mutant.name] = copy.tried(mutant, given.seeds, not given.tests_only)
                line = (
                    f"{verdict.killed or 'SURVIVED':10} {verdict.seconds:6.1f} s  {mutant.name}  {verdict.by}"
                )
                console.print(line, markup=False, highlight=False)
                if given.json:
                    given.json.write_text(msgspec.json.format(msgspec.json.encode(verdicts)).decode())

    if not given.trusting:
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            tests = {test for mutant in chosen for test in mutant.tests}
            if failed := Copy(Path(folder)).sound(tests, 0 if given.tests_only else given.seeds):
                console.print(f"without any fault, these fail: {failed}")
                return 2
    left = [mutant for mutant in chosen if mutant.name not in verdicts]
    with ThreadPoolExecutor(given.jobs) as pool:
        for done in [pool.submit(chore, left[k :: given.jobs]) for k in range(given.jobs)]:
            done.result()
    found = [verdicts[mutant.name] for mutant in chosen]
    survivors = [verdict.name for verdict in found if not verdict.killed]
    by_lives = sum(verdict.killed == "simulator" for verdict in found)
    seconds = sum(verdict.seconds for verdict in found)
    console.print(
        f"{len(found)} mutants in {seconds:.0f} CPU seconds: {by_lives} killed by the simulator, "
        f"{len(found) - by_lives - len(survivors)} by tests, {len(survivors)} survived {' '.join(survivors)}"
    )
    if given.table:
        given.table.write_text(_table(found))
    return 1 if survivors else 0


def _table(found: list[Verdict]) -> str:
    lines = ["| mutant | what is lost with it | killed by | CPU s |", "|---|---|---|--:|"]
    for v in found:
        by = re.sub(r": .*", "", v.by) if v.killed == "simulator" else v.by.partition("::")[2] or v.by
        lines.append(f"| `{v.name}` | {v.loses} | {by.partition('[')[0]} | {v.seconds:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
