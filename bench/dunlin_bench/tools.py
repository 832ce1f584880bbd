"""Finds the programs that a run needs, and installs below `bench/.tools` what is missing, at the versions named here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .processes import Failure

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
INSTALLED = BENCH / ".tools"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()

OHA = "1.16.0"
WASMTIME = "48.0.8"
WORKERD = "1.20261117.1"


@dataclass
class Tools:
    """Paths of programs; each is looked for when it is first asked for."""

    given: dict[str, Path]
    guests: Path | None
    found: dict[str, Path] = field(default_factory=dict)
    components: dict[str, Path] = field(default_factory=dict)

    def get(self, name: str) -> Path:
        """The program `name`: as given on the command line, else found, else built or installed."""
        if name not in self.found:
            makers = {"dunlin": _dunlin, "axum": _example, "remote": _example, "events": _example, "oha": _cargo_tool}
            makers |= {"wasmtime": _cargo_tool, "workerd": _workerd, "nats-server": _nats_server}
            self.found[name] = self.given.get(name) or makers[name](name)
        return self.found[name]

    def component(self, name: str) -> Path:
        """The component `name`, from the folder given, else built from its sources."""
        if self.guests:
            return self.guests / f"{name}.wasm"
        if name not in self.components:
            self.components[name] = _tiny() if name == "tiny" else _fixture(name)
        return self.components[name]


def run_tool(command: Sequence[str | Path], cwd: Path = ROOT, silent: bool = False) -> str:
    """Runs a program of the build to its end; what it printed to stdout."""
    parts = [str(part) for part in command]
    if not silent:
        print("  " + " ".join(parts), file=sys.stderr)
    done = subprocess.run(parts, cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(parts)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _dunlin(_: str) -> Path:
    program = TARGET / "release/dunlin"
    if not program.is_file():
        run_tool(["cargo", "build", "--release", "--locked"])
    return program


def _example(name: str) -> Path:
    run_tool(["cargo", "build", "--release", "--locked", "-p", "dunlin-scheduler", "--example", name])
    return TARGET / "release/examples" / name


def _fixture(name: str) -> Path:
    """What the tests' own builder makes of it."""
    command = ["cargo", "run", "--release", "--locked", "-p", "dunlin-fixtures", "--example", "path", "--", name]
    return Path(run_tool(command).strip())


def _tiny() -> Path:
    folder = BENCH / "tiny"
    target: list[str | Path] = ["--target", "wasm32-wasip2", "--target-dir", INSTALLED / "tiny"]
    run_tool(["cargo", "build", "--release", "--locked", *target], cwd=folder)
    return INSTALLED / "tiny/wasm32-wasip2/release/tiny.wasm"


def _cargo_tool(name: str) -> Path:
    crate, wanted = ("wasmtime-cli", WASMTIME) if name == "wasmtime" else (name, OHA)
    on_path = shutil.which(name)
    if on_path and wanted in version(Path(on_path)):
        return Path(on_path)
    program = INSTALLED / "bin" / name
    if not program.is_file():
        run_tool(["cargo", "install", crate, "--version", f"={wanted}", "--locked", "--root", INSTALLED])
    return program


def _workerd(_: str) -> Path:
    folder = INSTALLED / "workerd"
    program = folder / "node_modules/.bin/workerd"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        run_tool(["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, f"workerd@{WORKERD}"])
    # The package's own program is a script of Node.js around this one.
    native = sorted(folder.glob("node_modules/@cloudflare/workerd-*/bin/workerd"))
    return native[0] if native else program


def _nats_server(name: str) -> Path:
    named = os.environ.get("NATS_SERVER")
    return Path(named) if named else _fixture(name)


def python_with_plots() -> Path:
    """A Python that has what `plot` imports."""
    folder, wanted = INSTALLED / "venv", BENCH / "requirements.txt"
    done = folder / "installed"
    if not done.is_file() or done.read_text() != wanted.read_text():
        venv.create(folder, with_pip=True, clear=True)
        run_tool([folder / "bin/python", "-m", "pip", "install", "--quiet", "-r", wanted])
        shutil.copy(wanted, done)
    return folder / "bin/python"


def version(program: Path) -> str:
    """What a program says about its version."""
    done = subprocess.run([program, "--version"], text=True, capture_output=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


def _revision() -> str:
    try:
        return run_tool(["git", "describe", "--always", "--dirty"], silent=True).strip()
    except (Failure, OSError):
        return "unknown"


def machine(tools: Tools) -> dict[str, object]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), os.uname().machine)
    programs = {name: version(path) for name, path in sorted(tools.found.items())}
    # These have no option that tells.
    examples = ("axum", "events", "remote")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": os.uname().release,
        "revision": _revision(),
        "versions": {name: text for name, text in programs.items() if name not in examples},
    }
