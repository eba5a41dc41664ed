"""`python -m tests.supply runtime|audit`: see `make sbom` and `make audit`."""

from __future__ import annotations

import sys
from pathlib import Path

from . import audit
from .lock import runtime

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"

match sys.argv[1:]:
    case ["runtime"]:
        sys.stdout.write(runtime(LOCK.read_text()))
    case ["audit", requirements, *more]:
        sys.exit(audit.run(Path(requirements), more))
    case _:
        sys.exit("usage: python -m tests.supply runtime | audit REQUIREMENTS [OPTIONS OF PIP-AUDIT]")
