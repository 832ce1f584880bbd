"""The systems that are compared, and how each is started."""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .processes import Failure, Server, answers, free_port, request
from .tools import Tools
from .workloads import Workload

WORKER_SCRIPT = 'export default { fetch() { return new Response("Hello, world!\\n"); } };\n'
WORKER_CONFIG = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [(name = "worker", esModule = embed "worker.js")], compatibilityDate = "2026-11-01"))],
  sockets = [(name = "http", http = (), service = "main")],
);
"""
SPIN_MANIFEST = """spin_manifest_version = 2
[application]
name = "bench"
version = "0.1.0"
[[trigger.http]]
route = "/..."
component = "bench"
[component.bench]
source = "{component}"
"""


@dataclass(frozen=True)
class Running:
    """A system that takes requests."""

    port: int
    prefix: str
    servers: list[Server]

    def url(self, path: str) -> str:
        """Where that path of the function is."""
        return f"http://127.0.0.1:{self.port}{self.path(path)}"

    def path(self, path: str) -> str:
        """That path of the function as a request names it."""
        return self.prefix.rstrip("/") + path

    def cpu_seconds(self) -> float:
        """CPU time of all its processes."""
        return sum(server.cpu_seconds() for server in self.servers)

    def resident_bytes(self) -> int:
        """Resident memory of all its processes."""
        return sum(server.resident_bytes() for server in self.servers)


@dataclass(frozen=True)
class Place:
    """What a start gets: programs, a folder of its own, the component, a port that is free."""

    tools: Tools
    folder: Path
    component: Path
    port: int

    @property
    def address(self) -> str:
        """Where it shall listen."""
        return f"127.0.0.1:{self.port}"

    def server(self, *command: str | Path) -> Server:
        """Starts a process of the system."""
        return Server(command, self.folder / "log", cwd=self.folder)


@dataclass(frozen=True)
class System:
    """A way to serve a workload."""

    name: str
    # Which components it runs: "0.2", "0.3", or "native" where the greeting is its own code.
    world: str
    launch: Callable[[Place], list[Server]]
    # Whether it serves workloads beside hello, and which of them it cannot.
    all_workloads: bool = False
    cannot: frozenset[str] = frozenset()
    prefix: Callable[[Workload], str] = lambda _: "/"

    def serves(self, workload: Workload) -> bool:
        """Whether it is measured with that workload."""
        return workload.name == "hello" or (self.all_workloads and workload.name not in self.cannot)

    def start(self, tools: Tools, workload: Workload, folder: Path) -> Running:
        """Starts it, waits until it answers, and checks the answer."""
        name = "workload-hello3" if self.world == "0.3" else workload.component
        place = Place(tools, folder, tools.component(name), free_port())
        running = Running(place.port, self.prefix(workload), self.launch(place))
        path = running.path(workload.path)
        for server in running.servers[:1]:
            server.wait_until(lambda: answers(place.port, path, workload.method, workload.body))
        status, body, _ = request(place.port, path, workload.method, workload.body)
        if status != 200 or not workload.right(body):
            raise Failure(f"a wrong answer: {status} {body[:200]!r}\n{running.servers[0].last_lines()}")
        return running


def all_systems(spin: Path | None, peers: list[str]) -> list[System]:
    """In the order in which they are reported; `peers` are of the form NAME=COMMAND."""
    # A component of componentize-js never answers its second request.
    once = frozenset({"markdown"})
    systems = [
        System("dunlin", "0.2", _dunlin(), all_workloads=True),
        System("dunlin reuse", "0.2", _dunlin("--reuse", "1000"), all_workloads=True, cannot=once),
        System("dunlin 0.3", "0.3", _dunlin()),
        System("dunlin 0.3 reuse", "0.3", _dunlin("--reuse", "128", "--concurrent", "16")),
        System("dunlin remote", "0.2", _cluster, prefix=lambda workload: f"/{workload.component}"),
        System("wasmtime", "0.2", _wasmtime(1), all_workloads=True),
        System("wasmtime reuse", "0.2", _wasmtime(1000), all_workloads=True, cannot=once),
        System("wasmtime 0.3", "0.3", _wasmtime(1, 1)),
        System("wasmtime 0.3 reuse", "0.3", _wasmtime(128, 16)),
        System("axum", "native", lambda place: [place.server(place.tools.get("axum"), place.address)]),
        System("workerd", "native", _workerd),
    ]
    if spin:
        systems.append(System("spin", "0.2", _spin(spin), all_workloads=True))
    return systems + [_peer(*peer.split("=", 1)) for peer in peers]


def _dunlin(*options: str) -> Callable[[Place], list[Server]]:
    def launch(place: Place) -> list[Server]:
        program = place.tools.get("dunlin")
        return [place.server(program, "serve", place.component, "--addr", place.address, *options)]

    return launch


def _wasmtime(reuse: int, concurrent: int | None = None) -> Callable[[Place], list[Server]]:
    """For 0.2 components it has no concurrency to set."""
    limits = ["--max-instance-reuse-count", str(reuse)]
    if concurrent:
        limits += ["--max-instance-concurrent-reuse-count", str(concurrent)]

    def launch(place: Place) -> list[Server]:
        serve: list[str | Path] = [place.tools.get("wasmtime"), "serve", "-Scli", "--addr", place.address, *limits]
        return [place.server(*serve, place.component)]

    return launch


def _cluster(place: Place) -> list[Server]:
    """A gateway that runs nothing, a worker that serves nothing, and the NATS between them."""
    dunlin, nats, gateway_admin, worker_admin = place.tools.get("dunlin"), free_port(), free_port(), free_port()
    server = place.server(place.tools.get("nats-server"), "-a", "127.0.0.1", "-p", str(nats), "-js", "-sd", "js")
    server.wait_until(lambda: _listens(nats))
    node: list[str | Path] = [dunlin, "node", "--nats", f"nats://127.0.0.1:{nats}"]
    roles = [
        (gateway_admin, ["--name", "gateway", "--no-worker", "--http", place.address]),
        (worker_admin, ["--name", "worker", "--no-gateway"]),
    ]
    servers = []
    for admin, role in roles:
        listen = ["--admin", f"127.0.0.1:{admin}", "--data", role[1]]
        servers.append(place.server(*node, *role, *listen))
        servers[-1].wait_until(partial(answers, admin, "/readyz"))
    # Until the two have heard of each other a deploy finds nobody to make it ready.
    time.sleep(1)
    deploy = place.server(dunlin, "deploy", place.component, "--server", f"http://127.0.0.1:{gateway_admin}")
    status = deploy.process.wait()
    deploy.stop()
    if status != 0:
        raise Failure(f"the deploy failed\n{deploy.last_lines()}")
    return [*servers, server]


def _listens(port: int) -> bool:
    """Whether something sends first on that port, as nats-server does."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(4) == b"INFO"
    except OSError:
        return False


def _workerd(place: Place) -> list[Server]:
    (place.folder / "worker.js").write_text(WORKER_SCRIPT)
    (place.folder / "config.capnp").write_text(WORKER_CONFIG)
    return [place.server(place.tools.get("workerd"), "serve", "config.capnp", "-s", f"http={place.address}")]


def _spin(program: Path) -> Callable[[Place], list[Server]]:
    def launch(place: Place) -> list[Server]:
        (place.folder / "spin.toml").write_text(SPIN_MANIFEST.format(component=place.component))
        return [place.server(program, "up", "--from", "spin.toml", "--listen", place.address, "--quiet")]

    return launch


def _peer(name: str, command: str) -> System:
    """A host of 0.2 components that is started by a command with `{component}` and `{addr}` or `{port}`."""

    def launch(place: Place) -> list[Server]:
        fill = {"component": place.component, "addr": place.address, "port": place.port}
        return [place.server(*(part.format(**fill) for part in shlex.split(command)))]

    return System(name, "0.2", launch, all_workloads=True)
