"""Tables of a run, as Markdown that is also read on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .load import Row
from .rounds import BUSY
from .summary import Summary
from .targets import TARGETS


def report(rows: list[Row], failures: list[str], machine: dict[str, object]) -> str:
    """All tables."""
    summary = Summary(rows)
    sections = [
        ("Targets", _table(["figure", "here", "target", ""], (target.row(summary) for target in TARGETS))),
        *((f"Closed loop: {name}", _load(summary, workload=name, mode="closed")) for name in _workloads(summary)),
        ("Open loop: hello", _load(summary, workload="hello", mode="open")),
        *(
            (
                f"{title} of one ÷ the other in the same round: {name}, {BUSY} connections",
                _ratios(summary, figure, name),
            )
            for name in _workloads(summary)
            for title, figure in (("CPU per request", "cpu_us"), ("Requests per second", "per_second"))
        ),
        ("Process start to first answer", _groups(summary, "start", ["system"], ["start_ms"])),
        ("First calls", _groups(summary, "first call", ["language"], ["call_ms"])),
        ("Many functions", _groups(summary, "density", ["functions"], DENSITY)),
        ("Many functions, --code-memory 128MiB", _plain(summary.where(part="bounded"), BOUNDED)),
        ("A call on the wire", _groups(summary, "wire", ["in_flight", "way"], ["per_second", "cpu_us"])),
        ("Durable events", _groups(summary, "events", ["part"], ["per_second", "bare_per_second", "ratio"])),
        ("A lone event", _plain(summary.where(part="lone event"), ["every", "p50", "p99"])),
    ]
    text = "".join(f"\n## {title}\n\n{table}\n" for title, table in sections if table.count("\n") > 1)
    about = "\n".join(f"- {name}: {_about(value)}" for name, value in machine.items())
    failed = "".join(f"\n- {failure}" for failure in failures)
    return f"{about}\n{text}" + (f"\n## Failures\n{failed}\n" if failures else "")


DENSITY = ["ready_s", "deployed_mb", "restarted_mb", "hello_p99_ms", "random_p99_ms", "refused_deploys", "errors"]
BOUNDED = ["functions", "resident_mb", "random_p99_ms", "errors"]
LOAD = ["per_second", "p50_ms", "p99_ms", "p999_ms", "cpu_us", "resident_mb", "errors"]
HEADS = {
    "per_second": "requests/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms", "cpu_us": "CPU µs/request",
    "resident_mb": "resident MB", "start_ms": "ms", "call_ms": "ms", "ready_s": "ready s", "deployed_mb": "idle MB",
    "restarted_mb": "idle MB after a start", "hello_p99_ms": "one: p99 ms", "random_p99_ms": "any: p99 ms",
    "refused_deploys": "deploys refused", "bare_per_second": "bare consumer/s", "in_flight": "in flight",
}  # fmt: skip


def _workloads(summary: Summary) -> list[str]:
    return summary.values("workload", part="load")


def _load(summary: Summary, **wanted: object) -> str:
    by = "connections" if wanted["mode"] == "closed" else "offered"
    lines = [
        [number, system, *(summary.median(figure, system=system, **{by: number}, **wanted) for figure in LOAD)]
        for number in sorted(summary.values(by, **wanted), key=float)
        for system in sorted(summary.values("system", **{by: number}, **wanted), key=str)
    ]
    return _table([by, "system", *(HEADS.get(figure, figure) for figure in LOAD)], lines)


def _ratios(summary: Summary, figure: str, workload: object) -> str:
    """Ours as lines, peers as columns."""
    where = {"workload": workload, "mode": "closed", "connections": BUSY}
    systems = [str(name) for name in summary.values("system", **where)]
    peers = sorted(name for name in systems if not name.startswith("dunlin"))
    ours = sorted(name for name in systems if name.startswith("dunlin"))
    lines = [[name, *(summary.ratio(figure, name, peer, **where) for peer in peers)] for name in ours]
    return _table(["", *peers], lines) if peers else ""


def _groups(summary: Summary, part: str, keys: list[str], figures: list[str]) -> str:
    groups = dict.fromkeys(tuple(row[key] for key in keys) for row in summary.where(part=part))
    lines = [
        [
            *group,
            *(summary.median(figure, **{"part": part} | dict(zip(keys, group, strict=True))) for figure in figures),
        ]
        for group in groups
    ]
    return _table([HEADS.get(name, name) for name in [*keys, *figures]], lines)


def _plain(rows: list[Row], figures: list[str]) -> str:
    return _table(figures, ([row[figure] for figure in figures] for row in rows))


def _table(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table whose columns are as wide as what stands in them."""
    cells = [list(heads), *([_text(cell) for cell in line] for line in lines)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(heads))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [cells[0], rule, *cells[1:]]
    )


def _text(cell: object) -> str:
    if cell is None:
        return "–"
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}" if cell < 1 else f"{cell:.1f}"


def _about(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
