"""What these tests need of the machine."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def java() -> None:
    """Kafka can be started here; under CI it must."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI tests against a real Kafka: install {' and '.join(missing)}")
    if missing:
        pytest.skip(f"a real Kafka needs {' and '.join(missing)}")
