"""`python -m tests.fuzz [NAME...] [--runs N]`: libFuzzer (atheris) on the decoders; ends at the first that breaks.

Each target runs in a process of its own. With `--keep` the shortest inputs that went a new way go to
`tests/fuzz/corpus`.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from itertools import accumulate
from pathlib import Path

from tests.fuzz.corpus import keep, kept

LONGEST = 4096  # bytes of an input
MOST = 8_000  # bytes that are kept for a target


def main() -> int:
    """Runs the targets that were asked for, one after the other."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument("--runs", type=int, default=100_000, help="of each target; 100,000 by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep in the corpus what went a new way")
    given = parser.parse_args()
    for name in given.names or TARGETS:
        if name not in TARGETS:
            parser.error(f"there is no target {name}; there is {', '.join(TARGETS)}")
        with tempfile.TemporaryDirectory() as folder:
            inputs, found = Path(folder) / "inputs", Path(folder) / "found"
            inputs.mkdir()
            found.mkdir()
            before = [*TARGETS[name].seeds(), *kept(name)]
            for number, data in enumerate(before):
                (inputs / f"{number}").write_bytes(data)
            words = [f"-runs={given.runs}", f"-seed={given.seed}", f"-max_len={LONGEST}", "-timeout=30"]
            words += [f"-artifact_prefix={Path.cwd()}/fuzz-{name}-", str(found), str(inputs)]
            command = [sys.executable, "-m", "tests.fuzz.__main__", "--target", name, *words]
            if subprocess.run(command, check=False).returncode:
                sys.stderr.write(f"{name} broke; the input is in fuzz-{name}-*\n")
                return 1
            if given.keep:
                new = sorted((path.read_bytes() for path in found.iterdir()), key=len)
                sizes = accumulate(map(len, new), initial=sum(map(len, kept(name))))
                keep(
                    name,
                    [*kept(name), *(data for data, size in zip(new, sizes, strict=False) if size < MOST)],
                )
    return 0


def fuzz(name: str, words: list[str]) -> None:
    """Runs one target in this process, and ends it."""
    import atheris  # only there where it is installed

    with atheris.instrument_imports(include=INSTRUMENTED):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    target = targets[name]

    def one(data: bytes) -> None:
        target.run(data)

    atheris.Setup([f"tests.fuzz {name}", *words], one)
    atheris.Fuzz()


INSTRUMENTED = ["features", "models", "streams"]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--target"]:
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
