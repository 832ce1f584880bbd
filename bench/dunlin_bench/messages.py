"""What stands on NATS: a bare request-reply beside calls to another node, and durable events beside a bare consumer.

Both measure with programs of the project (`scheduler/examples/remote.rs`, `events.rs`), because their other half is not HTTP.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from .load import Row
from .processes import Failure, Server
from .tools import Tools

TIMEOUT_SECONDS = 900
WIRE = re.compile(r"(\d+) in flight: +(\w+) +(\d+)/s .* = ([\d.]+) µs")
EVENTS = re.compile(r"bare consumer (\d+)/s, dunlin (\d+)/s .*ratio ([\d.]+)")
LONE = re.compile(r"an event every (\S+), .* median (\S+), p99 (\S+)")


def wire(tools: Tools, folder: Path) -> Iterator[Row]:
    """CPU time of a call in all processes: async-nats' own request, a bare multiplexer, and the wire of dunlin."""
    for at_once, way, rate, cpu in WIRE.findall(_output(tools, folder, "remote")):
        row: Row = {"part": "wire", "way": way, "in_flight": int(at_once)}
        yield row | {"per_second": int(rate), "cpu_us": float(cpu)}


def events(tools: Tools, folder: Path) -> Iterator[Row]:
    """Events per second, and how long a lone event takes."""
    text = _output(tools, folder, "events", tools.get("dunlin"), tools.component("events"))
    for bare, ours, ratio in EVENTS.findall(text):
        yield {"part": "events", "bare_per_second": int(bare), "per_second": int(ours), "ratio": float(ratio)}
    for pause, median, p99 in LONE.findall(text):
        yield {"part": "lone event", "every": pause, "p50": median, "p99": p99}


def _output(tools: Tools, folder: Path, example: str, *arguments: Path) -> str:
    """Runs one of them to its end; what it printed."""
    # They start a server of their own.
    os.environ["NATS_SERVER"] = str(tools.get("nats-server"))
    program = Server([tools.get(example), *arguments], folder / example)
    try:
        status = program.process.wait(TIMEOUT_SECONDS)
    finally:
        program.stop()
    if status != 0:
        raise Failure(f"{example} ended with status {status}\n{program.last_lines()}")
    return program.log.read_text()
