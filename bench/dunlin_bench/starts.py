"""Cold starts: from the start of the process to its first answer, with compiled code on the disk."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .load import Row
from .processes import START_SECONDS, Failure, Server
from .systems import Place, System, free_port
from .tools import Tools

PAUSE_SECONDS = 0.0002


def cold_starts(tools: Tools, systems: list[System], count: int) -> Iterator[Row]:
    """Starts of dunlin, wasmtime, axum and workerd in turn; the first start of each compiles and does not count."""
    launches: dict[str, Callable[[Place], list[Server]]] = {s.name: s.launch for s in systems if s.name in STARTED}
    if "wasmtime" in launches:
        launches["wasmtime"] = _precompiled
    with tempfile.TemporaryDirectory(prefix="dunlin-bench-") as name:
        folder = Path(name)
        if "wasmtime" in launches:
            command: list[str | Path] = ["compile", "-Scli", tools.component("hello"), "-o", folder / "hello.cwasm"]
            subprocess.run([tools.get("wasmtime"), *command], check=True, capture_output=True)
        for number in range(count + 1):
            for system, launch in launches.items():
                place = Place(tools, folder, tools.component("hello"), free_port())
                seconds = _first_answer(launch, place)
                if number > 0:
                    yield {"part": "start", "round": number, "system": system, "start_ms": seconds * 1e3}


STARTED = ("dunlin", "wasmtime", "axum", "workerd")


def _precompiled(place: Place) -> list[Server]:
    options = ["-Scli", "--allow-precompiled", "--addr", place.address, str(place.folder / "hello.cwasm")]
    return [place.server(place.tools.get("wasmtime"), "serve", *options)]


def _first_answer(launch: Callable[[Place], list[Server]], place: Place) -> float:
    begun = time.perf_counter()
    [server] = launch(place)
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", place.port), timeout=START_SECONDS) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")
                    if connection.recv(4096).startswith(b"HTTP/1.1 200"):
                        return time.perf_counter() - begun
            except ConnectionError:
                pass
            if server.process.poll() is not None or time.perf_counter() - begun > START_SECONDS:
                raise Failure(f"it did not start\n{server.last_lines()}")
            time.sleep(PAUSE_SECONDS)
    finally:
        server.stop()
