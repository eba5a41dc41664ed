"""What is shipped is listed whole, and what is known against it is told, or that nobody could be asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from features.embedded import free_port
from tests.supply import audit
from tests.supply.lock import runtime

REPOSITORY = Path(__file__).resolve().parents[2]


def installed() -> dict[str, str]:
    """Every package that Headrace needs on this machine, with its version, as the installed packages tell."""
    found: dict[str, str] = {}
    pending: list[tuple[str, frozenset[str]]] = [("headrace", frozenset({""}))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        name, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = distribution(name).version
        for text in distribution(name).requires or ():
            asked = Requirement(text)
            if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in extras):
                pending.append((canonicalize_name(asked.name), frozenset({"", *asked.extras})))
    del found["headrace"]
    return found


def test_the_sbom_names_every_package_that_is_shipped_with_its_version(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    here_and_now = (f"BIN={Path(sys.executable).parent}", "--old-file", ".venv/.ready")  # what runs this test
    subprocess.run(
        ["make", "sbom", f"SBOM={file}", *here_and_now], cwd=REPOSITORY, check=True, capture_output=True
    )
    sbom = json.loads(file.read_text())
    lock = (REPOSITORY / "requirements.lock").read_text()

    pins = {
        (name, version): marker for name, version, marker in re.findall(r"(?m)^(\S+)==(\S+)(.*)\\$", lock)
    }
    named = [(one["name"], one["version"]) for one in sbom["components"]]
    here, elsewhere = installed(), [one for one in named if installed().get(one[0]) != one[1]]

    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["name"] == "headrace"
    assert len(here) > 40
    assert set(here.items()) <= set(named)
    assert len(named) == len(set(named))
    for one in elsewhere:  # what only other machines or Pythons need
        marker = Requirement(f"x{pins[one]}").marker
        assert marker is not None, one
        assert not marker.evaluate(), one
    assert not {"pytest", "mypy", "ruff", "cyclonedx-bom", "pip-audit"} & dict(named).keys()
    for one in sbom["components"]:
        assert one["purl"].startswith(f"pkg:pypi/{one['name']}@{one['version']}")
        assert one["externalReferences"][0]["hashes"]


def test_a_package_that_is_asked_for_by_a_tool_alone_is_left_out() -> None:
    lock = (
        "a==1 \\\n    --hash=sha256:aa\n    # via headrace (pyproject.toml)\n"
        "b==2 ; python_version < '3' \\\n    --hash=sha256:bb\n    # via\n    #   a\n    #   t\n"
        "b==3 ; python_version >= '3' \\\n    --hash=sha256:bc\n    # via\n    #   a\n    #   t\n"
        "t==4 \\\n    --hash=sha256:dd\n    # via headrace (pyproject.toml:dev)\n"
        "u==5 \\\n    --hash=sha256:ee\n    # via t\n"
    )

    assert re.findall(r"(?m)^\S+==\S+", runtime(lock)) == ["a==1", "b==2", "b==3"]


KNOWN = {
    "id": "PYSEC-2099-1",
    "summary": "bad",
    "affected": [
        {
            "package": {"name": "six", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.18"}]}],
        }
    ],
}


@contextmanager
def database(known: dict[str, list[Any]]) -> Iterator[str]:
    """A server that answers as OSV's does."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = json.dumps({"vulns": known.get(asked["package"]["name"], [])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def two(tmp_path: Path) -> Path:
    file = tmp_path / "runtime.txt"
    entries = re.findall(r"(?m)^(?:six|idna)==.*\n(?: .*\n)+", (REPOSITORY / "requirements.lock").read_text())
    assert len(entries) == 2
    file.write_text("".join(entries))
    return file


@pytest.mark.parametrize(
    ("known", "code", "said"),
    [
        ({}, 0, "0 vulnerabilities known in 2 packages\n"),
        ({"six": [KNOWN]}, 1, "1 vulnerabilities known in 2 packages\n"),
    ],
)
def test_what_a_database_knows_is_told(
    two: Path, known: dict[str, list[Any]], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with database(known) as url:
        assert audit.run(two, ["--vulnerability-service", "osv", "--osv-url", url]) == code

    out, err = capsys.readouterr()
    assert out.endswith(said)
    assert "NOT AUDITED" not in err
    assert ("PYSEC-2099-1, mended in 1.18" in out) == bool(known)


def test_a_database_that_cannot_be_reached_is_said_and_fails_nothing(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1/query"
    assert audit.run(two, ["--vulnerability-service", "osv", "--osv-url", nowhere]) == 0

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("NOT AUDITED: ")
    assert "vulnerabilities known" not in err
