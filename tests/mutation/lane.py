"""Test one mutant after the other: each in a process that has all but the code imported already.

It is run in a copy of the checkout, whose files it changes, and gets a line of JSON for each
mutant: its file and code, and the groups of tests that are asked, each with its seconds. It
answers with the number of the group that noticed, or null.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# What takes long to import. Not what imports the code.
import flask  # noqa: F401
import gunicorn.app.base  # noqa: F401
import hypothesis.strategies  # noqa: F401
import marshmallow  # noqa: F401
import psycopg2.extras  # noqa: F401
import pytest

# Starts a PostgreSQL, tells where it is, and stops it when nobody listens any more.
KEEPER = """
import shutil, sys
sys.path.insert(0, "tests")
from serving import new_folder, postgresql
folder = new_folder("ticketboss-mutants-")
try:
    with postgresql(folder) as dsn:
        print(dsn, flush=True)
        sys.stdin.read()
finally:
    shutil.rmtree(folder)
"""


def main() -> None:
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    dsn = keeper.stdout.readline().strip()
    try:
        for line in sys.stdin:
            print(json.dumps(judge(json.loads(line), dsn)), flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        keeper.stdin.close()
        keeper.wait()


def judge(asked: dict, dsn: str) -> int | None:
    """Return the group of tests that noticed a mutant; None: none of them."""
    target = Path(asked["file"])
    whole = target.read_text("utf-8")
    target.write_text(asked["code"], "utf-8")
    try:
        for number, (files, seconds) in enumerate(asked["groups"]):
            renew(dsn)
            if not passes(files, seconds, dsn):
                return number
        return None
    finally:
        target.write_text(whole, "utf-8")


def renew(dsn: str) -> None:
    """Let the server be as it was when it was made."""
    other = dsn.replace("/postgres?", "/template1?")
    with contextlib.closing(psycopg2.connect(other)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("DROP DATABASE postgres WITH (FORCE)")
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_|^postgres$'")
        for (role,) in cursor.fetchall():
            cursor.execute(f'DROP ROLE "{role}"')
        cursor.execute("CREATE DATABASE postgres")


def passes(files: list[str], seconds: float, dsn: str) -> bool:
    """Run tests in a process of their own until one fails, or the time is over."""
    pid = os.fork()
    if not pid:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with open(os.devnull, "r+b") as nothing:
            for number in range(3):
                os.dup2(nothing.fileno(), number)
        status = 1
        with contextlib.suppress(BaseException):
            status = run(files, dsn)
        os._exit(status)
    status = None
    try:
        status = wait(pid, seconds)
    finally:
        # As a terminal ends it, so that it ends what it has started.
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
            if status is None:
                os.killpg(pid, number)
                status = wait(pid, 15)
    return status == 0


def wait(pid: int, seconds: float) -> int | None:
    """Return the status of a process that ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.02)
    return None


def run(files: list[str], dsn: str) -> int:
    @contextlib.contextmanager
    def ready(folder: Path):
        yield dsn

    class Ready:
        """Gives the tests the server that there is; those that want one of their own start it."""

        def pytest_sessionstart(self):
            sys.modules["conftest"].postgresql = ready

    sys.path.insert(0, os.getcwd())
    sys.dont_write_bytecode = True
    return int(pytest.main(["-x", "-p", "no:cacheprovider", *files], plugins=[Ready()]))


if __name__ == "__main__":
    main()
