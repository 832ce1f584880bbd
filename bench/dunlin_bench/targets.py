"""What dunlin promises of its speed, held against a run. All but the absolute ones are ratios within one round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .rounds import BUSY
from .summary import Summary


@dataclass(frozen=True)
class Target:
    """A figure and its bound."""

    text: str
    value: Callable[[Summary], float | None]
    bound: float
    unit: str = "×"
    at_least: bool = False

    def row(self, summary: Summary) -> tuple[str, str, str, str]:
        """Text, value, bound, and whether it is met."""
        value = self.value(summary)
        bound = f"{'≥' if self.at_least else '≤'} {self.bound:g} {self.unit}"
        if value is None:
            return self.text, "–", bound, "not measured"
        met = value >= self.bound if self.at_least else value <= self.bound
        return self.text, f"{value:.2f} {self.unit}", bound, "met" if met else "**not met**"


def _cpu(system: str, peer: str, workload: str = "hello") -> Callable[[Summary], float | None]:
    return _ratio("cpu_us", system, peer, workload)


def _rate(peer: str) -> Callable[[Summary], float | None]:
    return _ratio("per_second", "dunlin", peer, "hello")


def _ratio(figure: str, system: str, peer: str, workload: str) -> Callable[[Summary], float | None]:
    return lambda summary: summary.ratio(figure, system, peer, workload=workload, mode="closed", connections=BUSY)


def _half_load(summary: Summary) -> float | None:
    return summary.ratio("p99_ms", "dunlin", "wasmtime", workload="hello", mode="open", load=0.5)


def _hop(summary: Summary) -> float | None:
    """What a remote call costs beyond a local one, in bare requests."""
    hello = {"workload": "hello", "mode": "closed", "connections": BUSY}
    remote = summary.median("cpu_us", system="dunlin remote", **hello)
    local = summary.median("cpu_us", system="dunlin", **hello)
    bare = summary.median("cpu_us", part="wire", way="request", in_flight=64)
    return None if remote is None or local is None or bare is None else (remote - local) / bare


def _first_call(language: str) -> Callable[[Summary], float | None]:
    return lambda summary: summary.median("call_ms", part="first call", language=language)


def _start(summary: Summary) -> float | None:
    ours, theirs = (summary.median("start_ms", part="start", system=name) for name in ("dunlin", "wasmtime"))
    return None if ours is None or theirs is None else ours / theirs


def _idle(functions: int) -> Callable[[Summary], float | None]:
    """The larger of idle after the deploys and idle after a start."""

    def value(summary: Summary) -> float | None:
        rows = summary.where(part="density", functions=functions)
        return max(float(row[figure]) for row in rows for figure in ("deployed_mb", "restarted_mb")) if rows else None

    return value


def _random_call(summary: Summary) -> float | None:
    rows = summary.where(part="density", functions=10_000)
    return float(rows[0]["random_p99_ms"]) / float(rows[0]["hello_p99_ms"]) if rows else None


TARGETS = [
    Target("hello, 64 connections: CPU ÷ wasmtime serve", _cpu("dunlin", "wasmtime"), 0.28),
    Target("hello, 64 connections: CPU ÷ axum", _cpu("dunlin", "axum"), 5),
    Target("hello, 64 connections: requests/s ÷ wasmtime serve", _rate("wasmtime"), 3, at_least=True),
    Target("hello, 64 connections: requests/s ÷ Spin", _rate("spin"), 2.4, at_least=True),
    Target("hello, 64 connections: requests/s ÷ wasmCloud", _rate("wasmcloud"), 3.5, at_least=True),
    Target("JSON and SHA-256, 4 KiB: CPU ÷ wasmtime serve", _cpu("dunlin", "wasmtime", "json"), 0.45),
    Target("reused hello: CPU ÷ wasmtime serve, reused", _cpu("dunlin reuse", "wasmtime reuse"), 0.65),
    Target("reused hello: CPU ÷ axum", _cpu("dunlin reuse", "axum"), 1.8),
    Target("reused 0.3 hello: CPU ÷ wasmtime serve, reused", _cpu("dunlin 0.3 reuse", "wasmtime 0.3 reuse"), 0.9),
    Target("hello at half of its peak rate: p99 ÷ wasmtime serve", _half_load, 1),
    Target("a call on another node: CPU beyond a local one ÷ bare NATS request", _hop, 2),
    Target("first call, not in memory: Rust", _first_call("rust"), 2, "ms"),
    Target("first call, not in memory: JavaScript", _first_call("javascript"), 15, "ms"),
    Target("first call, not in memory: Python", _first_call("python"), 15, "ms"),
    Target("process start to first answer ÷ wasmtime serve", _start, 1),
    Target("100 functions, idle", _idle(100), 60, "MB"),
    Target("10,000 functions, idle", _idle(10_000), 1000, "MB"),
    Target(
        "10,000 functions, called at random, --code-memory 128MiB",
        lambda s: s.median("resident_mb", part="bounded", functions=10_000),
        300,
        "MB",
    ),
    Target("10,000 functions: p99 of any of them ÷ hello", _random_call, 10),
    Target(
        "1,000 functions: start of the node until it is ready", lambda s: s.median("ready_s", functions=1000), 1, "s"
    ),
]
