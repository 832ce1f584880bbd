"""Load on a running system, made by oha: a closed loop at full speed, or an open one at a fixed rate.

In the open loop a request's latency is counted from the moment at which it was due, so that a server that stalls cannot hide those
it kept from being sent.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .processes import Failure
from .systems import Running
from .tools import Tools
from .workloads import Workload

WARM_UP_SECONDS = 1
# Enough that requests never wait for a connection at the rates offered.
OPEN_CONNECTIONS = 128

Row = dict[str, Any]


def warm_up(tools: Tools, running: Running, workload: Workload, folder: Path) -> None:
    """The first requests of a process cost more."""
    _oha(tools, 64, WARM_UP_SECONDS, _request(running, workload, folder))


def closed(tools: Tools, running: Running, workload: Workload, folder: Path, connections: int, seconds: int) -> Row:
    """Each connection sends its next request when it has the answer to the last."""
    before = running.cpu_seconds()
    figures = _oha(tools, connections, seconds, _request(running, workload, folder))
    row: Row = {"mode": "closed", "connections": connections}
    return row | _with_costs(figures, running, before)


def open_loop(tools: Tools, running: Running, workload: Workload, folder: Path, rate: int, seconds: int) -> Row:
    """Requests are due at a fixed rate, whatever becomes of those before."""
    before = running.cpu_seconds()
    due = ["-q", str(rate), "--latency-correction"]
    figures = _oha(tools, OPEN_CONNECTIONS, seconds, [*due, *_request(running, workload, folder)])
    row: Row = {"mode": "open", "connections": OPEN_CONNECTIONS, "offered": rate}
    return row | _with_costs(figures, running, before)


def any_of(tools: Tools, urls: list[str], folder: Path, connections: int, seconds: int) -> Row:
    """A closed loop; each request goes to one of `urls` by chance."""
    file = folder / "urls"
    file.write_text("\n".join(urls))
    return _oha(tools, connections, seconds, ["--urls-from-file", str(file)])


def _request(running: Running, workload: Workload, folder: Path) -> list[str]:
    options = ["-m", workload.method]
    if workload.body:
        body = folder / "body"
        body.write_bytes(workload.body)
        options += ["-D", str(body)]
    return [*options, running.url(workload.path)]


def _oha(tools: Tools, connections: int, seconds: int, request: Sequence[str]) -> Row:
    """Figures of one run. What is under way at its end is waited for, so that none of it counts as failed."""
    options = ["--no-tui", "--output-format", "json", "-z", f"{seconds}s", "-c", str(connections), "-t", "30s", "-w"]
    command = [str(tools.get("oha")), *options, *request]
    done = subprocess.run(command, text=True, capture_output=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise Failure(f"oha failed: {done.stderr[-500:]}")
    result = json.loads(done.stdout)
    latency, statuses = result["latencyPercentiles"], result["statusCodeDistribution"]
    answered = sum(statuses.values())
    return {
        "requests": answered,
        "seconds": result["summary"]["total"],
        "errors": answered - statuses.get("200", 0) + sum(result["errorDistribution"].values()),
        "p50_ms": (latency["p50"] or 0) * 1e3,
        "p99_ms": (latency["p99"] or 0) * 1e3,
        "p999_ms": (latency["p99.9"] or 0) * 1e3,
    }


def _with_costs(figures: Row, running: Running, cpu_before: float) -> Row:
    cpu, requests = running.cpu_seconds() - cpu_before, int(figures["requests"])
    if requests == 0:
        raise Failure(f"not one request was answered\n{running.servers[0].last_lines()}")
    return figures | {
        "per_second": requests / float(figures["seconds"]),
        "cpu_us": cpu * 1e6 / requests,
        "resident_mb": running.resident_bytes() / 1e6,
    }
