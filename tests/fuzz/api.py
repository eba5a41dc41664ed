"""`python -m tests.fuzz.api [--examples N]`: schemathesis on a `headrace serve`, by its own OpenAPI document.

No answer is a 5xx, and every status, content type and body is one that the document has.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from features.embedded import EmbeddedRedis
from headrace.loading import load
from models.deployment import topics_of
from streams.embedded import EmbeddedKafka
from tests.headrace.conftest import PAYMENTS
from tests.headrace.test_serve_limits import served

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def kept_contract(url: str, examples: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Asks every operation of an API so many times, and in sequences; its exit code is 0 where all answers conform."""
    with tempfile.TemporaryDirectory() as folder:  # it writes where it stands
        return subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                *("run", f"{url.rstrip('/')}/openapi.json", "--checks", ",".join(CHECKS)),
                *("--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure"),
                *("--suppress-health-check", "all", "--workers", "1"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )


def main() -> int:
    """Runs it on servers of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.api", description=__doc__)
    parser.add_argument("--examples", type=int, default=1_000, help="of each operation; 1,000 by default")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with (
        EmbeddedKafka.start(topics_of(load(PAYMENTS).project)) as kafka,
        EmbeddedRedis.start() as redis,
        served(kafka.bootstrap, redis.url) as url,
    ):
        done = kept_contract(url, given.examples, given.seed)
    sys.stdout.write(done.stdout + done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
