"""Closed-loop load by `wrk`, which costs the load's core less than our own client does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

_SCRIPT = """
local bodies, k = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local requests = {}
function init(args)
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
  end
end
function request()
  k = k %% #requests + 1
  return requests[k]
end
function done(summary, latency, _)
  local e = summary.errors
  io.stderr:write(string.format(
    '{"requests":%%d,"seconds":%%f,"errors":%%d,"p50_ms":%%f,"p99_ms":%%f}',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def installed() -> bool:
    """Whether there is a wrk on PATH; Debian's package is called so."""
    return shutil.which("wrk") is not None


def load(port: int, path: str, bodies: Path, connections: int, seconds: float) -> dict[str, Any]:
    """Runs wrk with one thread and returns what it says.

    Raises:
        RuntimeError: It failed.
    """
    script = bodies.with_suffix(".lua")
    script.write_text(_SCRIPT % bodies)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    ran = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, timeout=seconds + 60.0
    )
    if ran.returncode != 0 or not ran.stderr.startswith("{"):
        raise RuntimeError(f"wrk failed: {ran.stdout}{ran.stderr}")
    answer: dict[str, Any] = json.loads(ran.stderr)
    return answer
