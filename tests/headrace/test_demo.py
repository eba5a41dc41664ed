"""`headrace demo`: the whole loop, and nothing left of it."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import urllib.request
from pathlib import Path

import pytest

from headrace.demo.runner import project_file
from tests.headrace.conftest import PAYMENTS, REPOSITORY, headrace
from tests.parts.processes import has_ended, watch


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found |= {child} | descendants(child)
    return found


def test_the_demo_learns_and_everything_it_logged_verifies(tmp_path: Path) -> None:
    demo = headrace(
        "demo", "--seconds", 12, "--json", "--port", 0, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    out, err = demo.communicate()

    assert demo.returncode == 0, err
    told = json.loads(out)
    assert told["verify_differences"] == 0
    assert told["verify_checked"] == told["predictions"]
    assert told["learned"] == told["labels"] > 0
    assert told["events"] > 500
    assert told["dead_letters"] == 0
    assert told["predictions_asked"] > 0
    assert told["predictions_failed"] == 0
    assert told["metric"] > told["baseline"]
    for figure in ("predict_p50_ms", "predict_p99_ms", "freshness_p50_ms", "freshness_p99_ms"):
        assert told[figure] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_the_demo_without_a_trace(tmp_path: Path, number: signal.Signals) -> None:
    demo = headrace("demo", "--port", 0, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert demo.stdout is not None
    url = ""
    for line in demo.stdout:
        if "live page" in line:
            url = line.split()[-1]
        if "Ctrl-C" in line:
            break
    with urllib.request.urlopen(url) as page:
        assert b"<html" in page.read()
    handles = [watch(pid) for pid in descendants(demo.pid)]
    assert len(handles) >= 4  # broker, store, worker, API

    demo.send_signal(number)
    _, err = demo.communicate()

    assert demo.returncode == 0, err
    assert "nothing is left of it" in err
    ended = [has_ended(handle) for handle in handles]
    assert all(ended)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_the_demo_starts_leaves_nothing_either(tmp_path: Path) -> None:
    demo = headrace("demo", "--port", 0, env={**os.environ, "TMPDIR": str(tmp_path)})
    while not list(tmp_path.glob("headrace-demo-*")):  # the first thing that it makes
        assert demo.poll() is None

    demo.terminate()
    _, err = demo.communicate()

    assert demo.returncode == 0, err
    assert list(tmp_path.iterdir()) == []


def test_the_installed_project_is_that_of_the_documentation(tmp_path: Path) -> None:
    template = REPOSITORY / "headrace" / "demo" / "payments.py.tmpl"

    assert template.read_text() == PAYMENTS.read_text()
    assert project_file(tmp_path) == PAYMENTS
    assert tempfile.gettempdir()
