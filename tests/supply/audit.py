"""What is known against the packages that are shipped, asked of a database of vulnerabilities by pip-audit."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def run(requirements: Path, more: Sequence[str] = ()) -> int:
    """Tells what is known, and returns 1 where there is something; 0 too where the database cannot be asked, said so.

    Args:
        requirements: pinned packages with hashes, which are not installed for it.
        more: further options of pip-audit.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            *(
                sys.executable,
                "-m",
                "pip_audit",
                "--progress-spinner",
                "off",
                "--disable-pip",
                "--timeout",
                "10",
            ),
            *("--requirement", str(requirements), "--format", "json", "--output", str(report), *more),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        found = json.loads(report.read_text())["dependencies"] if report.is_file() else None
    if found is None:
        return _unasked((done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1])
    asked = [one for one in found if "skip_reason" not in one]
    if left := [one for one in found if "skip_reason" in one]:
        _unasked(f"{len(left)} of {len(found)}: {left[0]['skip_reason']}")
    bad = [(one, known) for one in asked for known in one["vulns"]]
    for one, known in bad:
        mended = ", ".join(known["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{one['name']} {one['version']}: {known['id']}, mended in {mended}\n")
    if asked:
        sys.stdout.write(f"{len(bad)} vulnerabilities known in {len(asked)} packages\n")
    return 1 if bad else 0


def _unasked(why: str) -> int:
    sys.stderr.write(f"NOT AUDITED: nobody knows whether something is known against these packages: {why}\n")
    return 0
