"""Builds the component: makes a virtual environment in build/ with the pinned componentize-py, then runs it.

The component is app.py with the world in wit/; it lands in build/, named after this folder.
"""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"


def main() -> None:
    scripts = BUILD / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    installed = BUILD / "venv" / "installed.txt"
    wanted = (HERE / "requirements.txt").read_text()
    if not installed.exists() or installed.read_text() != wanted:
        venv.create(BUILD / "venv", with_pip=True, clear=True)
        run(scripts / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", HERE / "requirements.txt")
        installed.write_text(wanted)
    run(scripts / "componentize-py", "-d", HERE / "wit", "-w", "function", "componentize", "app", "-o", BUILD / f"{HERE.name}.wasm")


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], cwd=HERE, check=True)


if __name__ == "__main__":
    main()
