"""The comparison: every system in turn, round after round, so that what changes on the machine meets all of them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .load import Row, closed, open_loop, warm_up
from .processes import FAILURES, stop_all
from .systems import System
from .tools import Tools
from .workloads import Workload

# Hello is measured with each of these, the other workloads with the one that keeps all cores busy.
CONNECTIONS = (1, 16, 64, 256)
BUSY = 64
# Offered rates of the open loop, as parts of what dunlin answers at most.
LOADS = (0.25, 0.5)
CALIBRATION_SECONDS = 2


@dataclass
class Comparison:
    """What is compared with what, and what went wrong."""

    tools: Tools
    systems: list[System]
    workloads: list[Workload]
    connections: tuple[int, ...]
    loads: tuple[float, ...]
    seconds: int
    failures: list[str]

    def run(self, rounds: int) -> Iterator[Row]:
        """The rows of all rounds; the order of the systems moves on by one in each."""
        rates = self._rates() if self.loads and self.workloads[0].name == "hello" else []
        for number in range(rounds):
            first = number % len(self.systems)
            for workload in self.workloads:
                for system in self.systems[first:] + self.systems[:first]:
                    if system.serves(workload):
                        yield from self._measure(number + 1, system, workload, rates)

    def _rates(self) -> list[int]:
        """Rates that are the same for all systems and rounds, from what the first of them (dunlin) answers at most."""
        hello = self.workloads[0]
        with tempfile.TemporaryDirectory(prefix="dunlin-bench-") as name:
            running = self.systems[0].start(self.tools, hello, Path(name))
            warm_up(self.tools, running, hello, Path(name))
            row = closed(self.tools, running, hello, Path(name), BUSY, CALIBRATION_SECONDS)
            stop_all()
        return [round(float(row["per_second"]) * load) for load in self.loads]

    def _measure(self, number: int, system: System, workload: Workload, rates: list[int]) -> Iterator[Row]:
        about: Row = {"part": "load", "round": number, "system": system.name, "workload": workload.name}
        with tempfile.TemporaryDirectory(prefix="dunlin-bench-") as name:
            try:
                for row in self._rows(system, workload, rates, Path(name)):
                    print(_line(about | row), file=sys.stderr)
                    yield about | row
            except FAILURES as failure:
                text = f"{system.name}, {workload.name}, round {number}: {failure}"
                print(text, file=sys.stderr)
                self.failures.append(text)
            finally:
                stop_all()

    def _rows(self, system: System, workload: Workload, rates: list[int], folder: Path) -> Iterator[Row]:
        tools, hello = self.tools, workload.name == "hello"
        running = system.start(tools, workload, folder)
        warm_up(tools, running, workload, folder)
        for connections in self.connections if hello else (BUSY,):
            yield closed(tools, running, workload, folder, connections, self.seconds)
        for rate, load in zip(rates, self.loads, strict=False) if hello else ():
            yield open_loop(tools, running, workload, folder, rate, self.seconds) | {"load": load}


def _line(row: Row) -> str:
    how = f"{row['connections']} connections" if row["mode"] == "closed" else f"{row['offered']}/s offered"
    figures = "{per_second:>8.0f}/s {cpu_us:>8.1f} µs p50 {p50_ms:.2f} p99 {p99_ms:.2f} ms, {errors} errors".format(
        **row
    )
    return f"  {row['round']} {row['workload']:<9} {row['system']:<18} {how:<16} {figures}"
