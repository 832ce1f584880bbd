"""The command line of `bench/run`, and the order of its parts."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .density import density
from .load import Row
from .messages import events, wire
from .processes import FAILURES, stop_all
from .report import report
from .rounds import CONNECTIONS, LOADS, Comparison
from .starts import cold_starts
from .systems import all_systems
from .tools import BENCH, Tools, machine, python_with_plots, run_tool
from .workloads import all_workloads

PROGRAMS = ("dunlin", "wasmtime", "workerd", "oha", "axum", "remote", "events", "nats-server")
PARTS = ("load", "starts", "density", "wire", "events")
QUICK_SYSTEMS = "dunlin,axum,wasmtime"


def main() -> int:
    """Runs what was asked for; 1 if anything failed."""
    args = _arguments()
    # As Ctrl-C: what was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.time()
    before = json.loads(args.add.read_text()) if args.add else {"rows": [], "failures": []}
    rows: list[Row] = before["rows"]
    failures: list[str] = before["failures"]
    given = {name: path for name in PROGRAMS if (path := getattr(args, name.replace("-", "_")))}
    tools = Tools(given, args.guests and args.guests.resolve())
    try:
        for part, run in _parts(args, tools, failures).items():
            print(f"{part} ({time.strftime('%T')})", file=sys.stderr)
            try:
                for row in run():
                    rows.append(row)
            except FAILURES as failure:
                print(f"{part}: {failure}", file=sys.stderr)
                failures.append(f"{part}: {failure}")
            stop_all()
    except KeyboardInterrupt:
        return 130
    finally:
        stop_all()
    about = machine(tools) | {"date": time.strftime("%F %T %z"), "took": f"{time.time() - started:.0f} s"}
    _write(args.out, rows, failures, about)
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run", description="Dunlin beside its peers, in one run on this machine."
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the comparison [default: 3]")
    parser.add_argument("--seconds", type=int, default=3, help="length of one measurement [default: 3]")
    parser.add_argument("--systems", help="only these, joined by commas")
    parser.add_argument("--workloads", help="only these, joined by commas")
    parser.add_argument("--parts", help=f"only these, joined by commas: {', '.join(PARTS)}")
    parser.add_argument(
        "--functions", default="100,1000,10000", help="how many functions one node gets [default: %(default)s]"
    )
    parser.add_argument("--starts", type=int, default=20, help="cold starts of each system [default: 20]")
    parser.add_argument("--quick", action="store_true", help="one short round of hello: a smoke test")
    parser.add_argument("--out", type=Path, default=BENCH / "results", help="where results go [default: bench/results]")
    parser.add_argument("--add", type=Path, metavar="FILE", help="a results.json of other parts that these are added to")
    parser.add_argument("--guests", type=Path, help="folder with the components NAME.wasm, instead of building them")
    parser.add_argument("--spin", type=lambda path: Path(path).resolve(), help="a `spin` to compare with")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND",
                        help="a host to compare with; its command has {component} and {addr} or {port}")  # fmt: skip
    for name in PROGRAMS:
        parser.add_argument(f"--{name}", type=lambda path: Path(path).resolve(), metavar="PATH", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.parts, args.workloads = 1, 2, "load", "hello"
        args.systems = args.systems or QUICK_SYSTEMS
    return args


def _parts(args: argparse.Namespace, tools: Tools, failures: list[str]) -> dict[str, Callable[[], Iterator[Row]]]:
    """The parts that were asked for, in their order."""
    systems = _only(all_systems(args.spin, args.peer), args.systems, "system")
    workloads = _only(all_workloads(), args.workloads, "workload")
    counts = sorted(int(count) for count in args.functions.split(","))
    connections, loads = ((64,), ()) if args.quick else (CONNECTIONS, LOADS)
    comparison = Comparison(tools, systems, workloads, connections, loads, args.seconds, failures)
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "load": lambda: comparison.run(args.rounds),
        "starts": lambda: cold_starts(tools, systems, args.starts),
        "density": lambda: _in_folder(lambda folder: density(tools, counts, args.seconds, folder)),
        "wire": lambda: _in_folder(lambda folder: wire(tools, folder)),
        "events": lambda: _in_folder(lambda folder: events(tools, folder)),
    }
    wanted = args.parts.split(",") if args.parts else PARTS
    return {name: parts[name] for name in wanted}


def _only(all_of_them: list, names: str | None, what: str) -> list:
    """Those with these names, in their own order."""
    wanted = names.split(",") if names else [one.name for one in all_of_them]
    if unknown := set(wanted) - {one.name for one in all_of_them}:
        raise SystemExit(f"no {what} is called {', '.join(unknown)}: {', '.join(one.name for one in all_of_them)}")
    return [one for one in all_of_them if one.name in wanted]


def _in_folder(rows: Callable[[Path], Iterator[Row]]) -> Iterator[Row]:
    """These rows, with a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dunlin-bench-", ignore_cleanup_errors=True) as folder:
        yield from rows(Path(folder))


def _write(out: Path, rows: list[Row], failures: list[str], about: dict[str, object]) -> None:
    """The results as JSON, as tables and as a plot; the tables also to stdout."""
    out.mkdir(parents=True, exist_ok=True)
    results = {"machine": about, "failures": failures, "rows": rows}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report(rows, failures, about)
    (out / "table.md").write_text(text)
    print(text)
    if any(row["part"] == "load" for row in rows):
        plot = Path(__file__).with_name("plot.py")
        run_tool([python_with_plots(), plot, out / "results.json", out / "plot.svg"], silent=True)
