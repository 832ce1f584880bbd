"""Draws `results.json` as an SVG: CPU time per request of hello, and p99 against the offered rate.

Run with the Python of the harness's own environment, which has matplotlib: `plot.py RESULTS.json PLOT.svg`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from dunlin_bench.rounds import BUSY  # noqa: E402
from dunlin_bench.summary import Summary  # noqa: E402

OURS, PEERS = "#0b6e8a", "#b8b8b8"


def main(results: str, out: str) -> None:
    """Reads the one, writes the other."""
    summary = Summary(json.loads(Path(results).read_text())["rows"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), constrained_layout=True)
    _cpu(summary, left)
    _open_loop(summary, right)
    figure.savefig(out)


def _cpu(summary: Summary, axes: plt.Axes) -> None:
    where = {"workload": "hello", "mode": "closed", "connections": BUSY}
    bars = {
        str(name): summary.median("cpu_us", system=name, **where) or 0 for name in summary.values("system", **where)
    }
    names = sorted(bars, key=bars.__getitem__, reverse=True)
    drawn = axes.barh(names, [bars[n] for n in names], color=[OURS if n.startswith("dunlin") else PEERS for n in names])
    axes.bar_label(drawn, fmt="%.1f", padding=3)
    axes.margins(x=0.12)
    axes.set_title(f"hello, {BUSY} connections: µs of CPU time per request")


def _open_loop(summary: Summary, axes: plt.Axes) -> None:
    where = {"workload": "hello", "mode": "open"}
    for name in summary.values("system", **where):
        rates = sorted(summary.values("offered", system=name, **where), key=float)
        times = [summary.median("p99_ms", system=name, offered=rate, **where) for rate in rates]
        axes.plot(rates, times, marker="o", label=name, linestyle="-" if str(name).startswith("dunlin") else "--")
    axes.set(title="hello, open loop: p99 in ms", xlabel="requests offered per second", yscale="log")
    axes.legend(fontsize="small")


if __name__ == "__main__":
    main(*sys.argv[1:])
