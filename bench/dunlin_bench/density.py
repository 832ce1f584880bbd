"""Many functions on one node: memory, time until it is ready, a call of any of them, and first calls of functions that are
compiled but not in memory.

The functions are one small component with another custom section each, so that no two are the same to the node.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .load import Row, any_of
from .processes import START_SECONDS, Failure, Server, answers, free_port, request
from .tools import Tools
from .workloads import all_workloads

DEPLOYS_AT_ONCE = 8
ATTEMPTS = 5
CONNECTIONS = 16
SAMPLES = 20
# Whose first calls are measured.
LANGUAGES = {"rust": "hello", "javascript": "markdown", "python": "wordcount"}
# Room for one of the large ones and some small ones, so that each first call finds its function gone.
SMALL = ("--code-memory", "64MiB")
# The bound under which as many functions as there are shall take less than 300 MB.
BOUNDED = ("--code-memory", "128MiB")
# Idle memory is read when two readings a second apart differ by less than this part.
STEADY = 0.01
STEADY_SECONDS = 60


@dataclass
class Node:
    """A node on a data directory that outlives it."""

    tools: Tools
    folder: Path
    http: int = field(default_factory=free_port)
    admin: int = field(default_factory=free_port)
    # Deploys that it answered with 503; each is tried again.
    refused: int = 0

    def start(self, *options: str) -> float:
        """Starts it; seconds until it was ready."""
        listen = ["--http", f"127.0.0.1:{self.http}", "--admin", f"127.0.0.1:{self.admin}"]
        begun = time.perf_counter()
        self.server = Server(
            [self.tools.get("dunlin"), "node", *listen, *options, "--data", self.folder / "data"], self.folder / "log"
        )
        self.server.wait_until(lambda: answers(self.admin, "/readyz"), pause=0.002)
        return time.perf_counter() - begun

    def deploy(self, name: str, component: bytes) -> None:
        """Uploads the component and makes it the function `name`, ready to be called."""
        digest = hashlib.sha256(component).hexdigest()
        order = {"artifact": digest, "settings": {"http": [{"route": f"/{name}/{{*path}}"}]}}
        json_type = {"content-type": "application/json"}
        for method, path, body in (
            ("PUT", f"/v1/artifacts/{digest}", component),
            ("POST", f"/v1/functions/{name}/deploy", json.dumps(order).encode()),
        ):
            for _ in range(ATTEMPTS):
                status, answer, _ = request(self.admin, path, method, body, json_type if method == "POST" else {})
                if status != 503:
                    break
                self.refused += 1
            if status >= 300:
                raise Failure(f"{method} {path} answered {status}: {answer.decode(errors='replace')}")

    def idle_mb(self) -> float:
        """Resident memory when nothing moves any more."""
        last = 0
        for _ in range(STEADY_SECONDS):
            now = self.server.resident_bytes()
            if abs(now - last) < now * STEADY:
                break
            last = now
            time.sleep(1)
        return now / 1e6


def density(tools: Tools, counts: list[int], seconds: int, folder: Path) -> Iterator[Row]:
    """Rows for each count of functions; first calls once, at a thousand or what comes next below."""
    node = Node(tools, folder)
    node.start()
    tiny = tools.component("tiny").read_bytes()
    deployed = 0
    for count in counts:
        begun = time.perf_counter()
        yield from _deploy(node, tiny, range(deployed, count))
        print(f"  deployed {count - deployed} functions in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        deployed, after_deploys = count, node.idle_mb()
        node.server.stop()
        ready = node.start()
        restarted = node.idle_mb()
        urls = [f"http://127.0.0.1:{node.http}/f{number}/" for number in range(count)]
        one, of_all = (any_of(tools, among, folder, CONNECTIONS, seconds) for among in (urls[:1], urls))
        yield {
            "part": "density",
            "functions": count,
            "ready_s": ready,
            "deployed_mb": after_deploys,
            "restarted_mb": restarted,
            "hello_p99_ms": one["p99_ms"],
            "random_p99_ms": of_all["p99_ms"],
            "refused_deploys": node.refused,
            "errors": one["errors"] + of_all["errors"],
        }
        if count == max(c for c in counts if c <= 1000):
            node.server.stop()
            node.start(*SMALL)
            yield from _first_calls(node, count)
    node.server.stop()
    node.start(*BOUNDED)
    # Several times as many calls as the bound has room for functions.
    of_all = any_of(tools, urls, folder, CONNECTIONS, seconds)
    yield {
        "part": "bounded",
        "functions": deployed,
        "resident_mb": node.server.resident_bytes() / 1e6,
        "random_p99_ms": of_all["p99_ms"],
        "errors": of_all["errors"],
    }
    node.server.stop()


def _deploy(node: Node, tiny: bytes, numbers: range) -> Iterator[Row]:
    """Deploys the functions of these numbers; the first ones one by one, each with its first call."""
    for number in numbers[:SAMPLES]:
        node.deploy(f"f{number}", _distinct(tiny, number))
        call_ms, _ = _timed(node, f"/f{number}/", b"")
        yield {"part": "first call", "language": "after deploy", "call_ms": call_ms}
    with ThreadPoolExecutor(DEPLOYS_AT_ONCE) as pool:
        list(pool.map(lambda number: node.deploy(f"f{number}", _distinct(tiny, number)), numbers[SAMPLES:]))


def _distinct(component: bytes, number: int) -> bytes:
    """The same component with a custom section of its own (component model binary format: id 0, size, name, content)."""
    content = number.to_bytes(4, "little")
    name = b"bench"
    return component + bytes([0, 1 + len(name) + len(content), len(name)]) + name + content


def _first_calls(node: Node, count: int) -> Iterator[Row]:
    """Calls of functions that many others have driven out of memory. The node says itself what was cold."""
    for name in LANGUAGES.values():
        node.deploy(name, node.tools.component(name).read_bytes())
    bodies = {workload.component: workload.body for workload in all_workloads()}
    for _ in range(SAMPLES):
        # Twice, because a function that was called lately outlives one round of others.
        for number in random.sample(range(count), count) * 2:
            request(node.http, f"/f{number}/")
        for language, name in LANGUAGES.items():
            call_ms, fields = _timed(node, f"/{name}/", bodies[name])
            if fields.get("dunlin-start") != "warm":
                timing = fields.get("server-timing", "")
                yield {"part": "first call", "language": language, "call_ms": call_ms, "timing": timing}
    for name in LANGUAGES.values():
        request(node.admin, f"/v1/functions/{name}", "DELETE")


def _timed(node: Node, path: str, body: bytes) -> tuple[float, dict[str, str]]:
    """One request over a connection that is open already: milliseconds, and the fields of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", node.http, timeout=START_SECONDS)
    connection.connect()
    begun = time.perf_counter()
    connection.request("POST" if body else "GET", path, body or None, {"dunlin-timing": "1"})
    answer = connection.getresponse()
    answer.read()
    seconds = time.perf_counter() - begun
    connection.close()
    if answer.status != 200:
        raise Failure(f"{path} answered {answer.status}")
    return seconds * 1e3, {key.lower(): value for key, value in answer.getheaders()}
