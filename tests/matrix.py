"""Run the tests on each Python, and each PostgreSQL, that is supported and is on this machine.

    python tests/matrix.py

The Pythons run on the embedded PostgreSQL; the others run with the Python that runs
this. Which are not there is told. Each takes as long as `make test`.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from serving import ROOT

LOCK = ROOT / "deploy" / "locks" / "test.txt"
PYTHONS = [f"3.{minor}" for minor in range(10, 15)]
EMBEDDED = 18
POSTGRESQLS = [number for number in range(14, 19) if number != EMBEDDED]
# Where distributions put the programs of one of several releases.
PLACES = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/opt/homebrew/opt/postgresql@{}/bin")
TESTS = ("-m", "pytest", "-n", "3", "--dist", "loadfile")


def main() -> None:
    runs = [(f"Python {version}", with_python, version) for version in PYTHONS]
    runs += [(f"PostgreSQL {number}", on_postgresql, number) for number in POSTGRESQLS]
    table, failed = [], False
    for name, run, which in runs:
        print(f"--- {name}", flush=True)
        started = time.monotonic()
        result = run(which)
        failed = failed or result.startswith("failed")
        table.append(f"{name:15}  {time.monotonic() - started:5.0f} s  {result}")
    print("\n".join(table))
    raise SystemExit(failed)


def with_python(version: str) -> str:
    program = shutil.which(f"python{version}")
    if program is None or run([program, "-c", "import ensurepip, venv"]):
        return f"skipped: there is no python{version} with venv here"
    folder = ROOT / ".venv" / f"matrix-{version}"
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [program, "-m", "venv", "--clear", str(folder)],
        [*pip, "--require-hashes", "--requirement", str(LOCK)],
        [*pip, "--no-deps", "--editable", str(ROOT)],
    ):
        if run(command):
            return f"failed: {' '.join(command)}"
    return "failed" if run([python, *TESTS]) else "passed"


def on_postgresql(number: int) -> str:
    for place in PLACES:
        programs = Path(place.format(number))
        if (programs / "initdb").exists():
            return "failed" if run([sys.executable, *TESTS], programs) else "passed"
    return f"skipped: there is no PostgreSQL {number} here"


def run(command: list[str], programs: Path | None = None) -> int:
    environment = os.environ | ({"TEST_POSTGRESQL": str(programs)} if programs else {})
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    main()
