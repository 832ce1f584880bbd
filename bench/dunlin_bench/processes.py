"""Servers under test: started, waited for, accounted for, and stopped whatever happens.

Each runs in a session of its own, so that Ctrl-C reaches only this program, which then stops them all (`stop_all`).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERTZ = os.sysconf("SC_CLK_TCK")
# A first start may compile a JavaScript engine.
START_SECONDS = 300.0
STOP_SECONDS = 10.0
LOG_LINES = 12

_running: list[Server] = []


class Failure(Exception):
    """Something did not do what it should; the text is for people."""


# What one system may do wrong without ending the run.
FAILURES = (Failure, OSError, subprocess.SubprocessError, http.client.HTTPException)


class Server:
    """One process with its children."""

    def __init__(self, command: Sequence[str | Path], log: Path, cwd: Path | None = None) -> None:
        self.log = log
        environment = {name: value for name, value in os.environ.items() if name != "RUST_BACKTRACE"}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=cwd,
                env=environment,
                start_new_session=True,
            )
        _running.append(self)

    def wait_until(self, ready: Callable[[], bool], pause: float = 0.05) -> None:
        """Returns when `ready` says so; fails when the process ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self.process.poll() is not None:
                raise Failure(f"it ended with status {self.process.returncode}\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise Failure(f"it was not ready after {START_SECONDS:.0f} s\n{self.last_lines()}")
            time.sleep(pause)

    def cpu_seconds(self) -> float:
        """CPU time of the process tree since its start (proc(5), stat, fields 14 and 15)."""
        return sum(int(stat[11]) + int(stat[12]) for stat in self._stats()) / HERTZ

    def resident_bytes(self) -> int:
        """Resident memory of the process tree (proc(5), stat, field 24)."""
        return sum(int(stat[21]) for stat in self._stats()) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """Asks it to end, then ends it."""
        if self in _running:
            _running.remove(self)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)

    def last_lines(self) -> str:
        """The end of what it printed."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(f"    | {line}" for line in lines)

    def _stats(self) -> list[list[str]]:
        """The fields of `stat` after the name, for the process and its descendants."""
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
            # A child may end while we look.
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split())
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    waiting.extend(int(child) for child in children.read_text().split())
        return found


def stop_all() -> None:
    """Stops what still runs, the last that was started first: the others may need those before them to end well."""
    for server in reversed(_running.copy()):
        server.stop()


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(
    port: int, path: str, method: str = "GET", body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """One request on a connection of its own: status, body, header fields."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, answer.read(), fields


def answers(port: int, path: str, method: str = "GET", body: bytes = b"") -> bool:
    """Whether that request succeeds now."""
    try:
        return request(port, path, method, body)[0] == 200
    except (OSError, http.client.HTTPException):
        return False
